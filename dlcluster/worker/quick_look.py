"""What Slurm says about our own job, asked without waiting: a supervisor that waits hears and stops nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from dlcluster.worker.slurm_job import SlurmJob, read_record
from dlcluster.worker.stopping import kill_group

TIMEOUT_S = 5.0
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


@dataclass(frozen=True)
class Prospect:
    """What is ahead of the job. `is_known`: Slurm has answered; `left` are the seconds until its end, if it has one."""

    is_known: bool
    is_preempted: bool = False
    left: float | None = None


def read_prospect(answer: str, job: SlurmJob, now: float) -> Prospect:
    """From `scontrol -o show job` about this very element; `now` is `time.time()`.

    At the start of a preemption's grace time PreemptTime is set, and EndTime is the end of the grace time (22.05).
    """
    record = read_record(answer, job)
    if record is None:
        return Prospect(False)
    line = next((line for line in answer.split("\n") if line.startswith(f"JobId={job.job_id} ")), "")
    end = re.search(rf" EndTime=({TIME}) ", line.partition(" UserId=")[2].partition(" Partition=")[0] + " ")
    left = None if end is None else time.mktime(time.strptime(end[1], "%Y-%m-%dT%H:%M:%S")) - now
    return Prospect(True, re.match(TIME, record.preempt_time) is not None, left)


class QuickLook:
    """One program at a time; its pid is in `spared`, so that nobody takes it for something that a trial left behind."""

    def __init__(self, job: SlurmJob, spared: set[int]) -> None:
        self.job, self._spared = job, spared
        self._process: subprocess.Popen[bytes] | None = None
        self._until = 0.0

    def ask(self, now: Callable[[], float] = time.monotonic) -> None:
        """Ask anew: what was asked before the latest signal says nothing about it."""
        self.close()
        self._until = now() + TIMEOUT_S
        environment = {n: v for n, v in os.environ.items() if n not in ("SLURM_CLUSTERS", "SLURM_TIME_FORMAT")}
        try:
            self._process = subprocess.Popen(
                ["scontrol", "-o", "show", "job", self.job.name_for_scontrol],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # a line of two kilobytes: it fits into the pipe
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**environment, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError:
            self._until = 0.0
            self._process = None
            return
        self._spared.add(self._process.pid)

    def answer(self, now: Callable[[], float] = time.monotonic) -> Prospect | None:
        """None as long as there is none; a Prospect that is not known if there will be none."""
        process = self._process
        if process is None:
            return Prospect(False)
        if process.poll() is None and now() < self._until:
            return None
        has_ended = process.returncode is not None
        text = process.stdout.read().decode("utf-8", "replace") if has_ended else ""
        self.close()
        return read_prospect(text, self.job, time.time())

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.returncode is None:
            kill_group(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        self._spared.discard(process.pid)
