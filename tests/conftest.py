from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import Project, make_project, processes_with

SLURM_TESTS = Path(__file__).parent / "slurm"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N --dist loadgroup`: tests on a real Slurm mostly wait, so they run beside all others, file by file.

    The others stay one after another: many of them measure time. By the marker xdist_group xdist 3.8 and pytest 9.2
    would put nothing together: the one changes an attribute of tests that the other does not read any more.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if SLURM_TESTS in (config.rootpath / file).parents else "local"

    return ByFile(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture
def project(tmp_path: Path):
    made: Project = make_project(tmp_path / "project")
    yield made
    for _ in range(100):
        left = processes_with(str(made.root))
        if not left:
            return
    for pid in left:  # ours, by their environment: a test that has failed must not disturb the next one
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"a test left processes running: {left}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where DLCLUSTER_NO_SKIPS is set, everything that tests need is there, and a skip hides something."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("DLCLUSTER_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
