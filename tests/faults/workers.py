"""Workers without the command that usually starts them: a submission, then as many as a test wants, where it wants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlcluster.launch import local
from dlcluster.launch.view import View
from dlcluster.pipeline import run_sweep
from dlcluster.sweep_call import SweepOptions
from tests.support import Finished, Project


class Submitted(Exception):
    """Everything is written; nothing has been started."""


def submit_only(project: Project, *overrides: str) -> str:
    """A submission as the `sweep` command writes it, up to the moment before workers start. Returns its id."""

    def stop_here(_executor: local.LocalExecutor) -> None:
        raise Submitted

    original, local.LocalExecutor.start = local.LocalExecutor.start, stop_here
    try:
        with pytest.raises(Submitted):
            run_sweep(project.spec, SweepOptions(runs_dir=project.runs, overrides=overrides), View())
    finally:
        local.LocalExecutor.start = original
    return project.sweep.submissions()[-1].path.name


def start_worker(
    project: Project,
    submission: str,
    number: int = 1,
    *,
    run_dir: Path | None = None,
    before: tuple[str, ...] = (),
    messages: Any = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """A worker as a batch job would start it; `before` is a program to run it under, `messages` its standard error."""
    return subprocess.Popen(
        [*before, sys.executable, "-W", "ignore", "-m", "dlcluster.worker", str(run_dir or project.sweep.path)]
        + ["--submission", submission, "--worker", f"{submission}-{number:04d}"],
        cwd=project.root,
        env=project.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=messages,
        text=True,
    )


def finish(worker: subprocess.Popen[str], timeout: float = 60) -> Finished:
    try:
        out, err = worker.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        raise
    return Finished(worker.returncode, out, err)


def run_worker(project: Project, submission: str, number: int = 1, **options: Any) -> Finished:
    return finish(start_worker(project, submission, number, **options))
