"""A worker as if in a Slurm job: the variables, a `scontrol` that answers what a test wants, and a log file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support import Finished, Project, wait_until
from tests.worker.test_slurm_job import show_line

# Notes each call. Before a requeue it looks whether the attempts have an end: the order that everything rests on.
SCONTROL = """#!/bin/sh
cd {folder}
echo "$@" >> calls
case "$*" in
*show*) test -e slow && exec sleep 60; test -e delayed && sleep 1; cat answer 2>/dev/null || exit 1 ;;
requeue*) cat {run_dir}/trials/*/*/attempts/*/journal.jsonl > journals 2>/dev/null; cat refusal 2>/dev/null && exit 1 ;;
esac
exit 0
"""


class FakeJob:
    def __init__(self, project: Project, **environ: str) -> None:
        self.project = project
        self.folder = project.root.parent / "slurm"
        self.folder.mkdir(exist_ok=True)
        self.log = self.folder / "job.log"
        program = self.folder / "bin" / "scontrol"
        program.parent.mkdir(exist_ok=True)
        program.write_text(SCONTROL.format(folder=self.folder, run_dir=project.sweep.path))
        program.chmod(0o755)
        self.environ = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "12",
            "SLURM_CLUSTER_NAME": "dlcluster",
            **environ,
        }
        self.answers()

    def answers(self, **fields: Any) -> None:
        """What `scontrol show job` says from now on."""
        fields.setdefault("EndTime", _clock_time(3600))
        fields.setdefault("Restarts", self.environ.get("SLURM_RESTART_COUNT", "0"))
        (self.folder / "answer").write_text(show_line(**fields))

    def ends_in(self, seconds: float) -> str:
        return _clock_time(seconds)

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def kinds_of_calls(self) -> list[str]:
        return ["show" if "show" in call else call.split()[0] for call in self.calls()]

    def journals_at_requeue(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "journals").read_text().splitlines()]

    def command(self, submission: str, *more: str) -> list[str]:
        return [
            *(sys.executable, "-W", "error", "-m", "dlcluster.worker", str(self.project.sweep.path)),
            *("--submission", submission, "--first-element", "0", *more),
        ]

    def start(self, submission: str, *more: str) -> subprocess.Popen[str]:
        with open(self.log, "a") as log:
            return subprocess.Popen(
                self.command(submission, *more),
                env={**self.project.environment(), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def run(self, submission: str, *more: str, timeout: float = 60) -> Finished:
        return self.end_of(self.start(submission, *more), timeout)

    def end_of(self, process: subprocess.Popen[str], timeout: float = 60) -> Finished:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return Finished(process.returncode, self.log.read_text(), "")


def _clock_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))


def change_intent(project: Project, submission: str, **changes: Any) -> None:
    file = project.sweep.submission(submission).intent
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def last_ends(project: Project) -> list[list[str]]:
    """Of each trial the newest end of each attempt."""

    def end_of(attempt: Any) -> str:
        end = attempt.facts().end
        return f"{end['state']} {end['reason']}".strip() if end else ""

    return [[end_of(attempt) for attempt in project.sweep.trial(trial).attempts()] for trial in project.trials()]


def wait_for_call(job: FakeJob, kind: str) -> None:
    wait_until(lambda: kind in job.kinds_of_calls(), f"scontrol {kind}")


def heartbeat(project: Project, worker: str) -> dict[str, Any]:
    return json.loads(Path(project.sweep.worker(worker).heartbeat).read_text())
