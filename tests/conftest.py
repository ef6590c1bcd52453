from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import Project, make_project, processes_with


@pytest.fixture
def project(tmp_path: Path):
    made: Project = make_project(tmp_path / "project")
    yield made
    for _ in range(100):
        left = processes_with(str(made.root))
        if not left:
            return
    assert not left, f"a test left processes running: {left}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where DLCLUSTER_NO_SKIPS is set, everything that tests need is there, and a skip hides something."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("DLCLUSTER_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
