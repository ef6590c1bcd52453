"""Submissions whose command died before it could note the job: found again by name, or known never to have been made.

Only commands that decide do this (`sweep`, `resume`). Even if all of it were wrong, the claim of an attempt's
folder would let the surplus job end within seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dlcluster.errors import PreconditionError
from dlcluster.launch.coverage import Submission, job_name, read_submissions
from dlcluster.launch.sbatch import TIMEOUT_S, record_job
from dlcluster.launch.scheduler import read_accounts, read_queue
from dlcluster.launch.site import read_site
from dlcluster.launch.submitit_launcher import THIS_MODULE as SUBMITIT_PROCESS
from dlcluster.launch.submitit_launcher import let_go
from dlcluster.liveness import is_alive
from dlcluster.run_dir import SweepDir

LOST_AFTER_S = 600.0  # of a command on another host, which cannot be asked whether it still lives
SECOND_LOOK_S = 1.0  # slurmctld may be about to accept what a killed sbatch has just sent
NEVER_SUBMITTED = "the command that should have submitted it has died before"


@dataclass(frozen=True)
class OpenBatch:
    """An array of which it is not on record whether it was submitted."""

    submission: Submission
    number: int
    name: str

    @property
    def script(self) -> Path:
        return self.submission.folder.script(self.number)

    @property
    def submitter_is_dead(self) -> bool:
        """False also where only another host could tell."""
        return is_alive(self.submission.intent.get("submitter", {})) is False


def recover(sweep: SweepDir, *, assume_lost: bool = False, wait: Callable[[float], None] = time.sleep) -> list[str]:
    """Settle what is open, if anything is. Returns lines for the user.

    Raises PreconditionError without a scheduler, SubmissionError if it does not release a job of submitit.
    """
    said, lost = [], []
    for submission in read_submissions(sweep):
        numbers = list(open_batches(submission))
        submitter = submission.intent.get("submitter", {})
        if numbers and is_alive(submitter):
            said.append(f"{submission.folder.path.name}: is being submitted right now by process {submitter['pid']}")
        else:
            lost += [
                OpenBatch(submission, number, job_name(submission.name, submission.intent["id"], number))
                for number in numbers
            ]
    if lost:
        said += _settle(lost, _find(lost, wait), assume_lost)
    return said


def open_batches(submission: Submission) -> Iterator[int]:
    """The arrays of which it is not on record whether they were submitted."""
    if not submission.intent.get("by_hand"):
        for number in range(len(submission.batches)):
            if submission.folder.read_job(number) is None:
                yield number


def _settle(lost: list[OpenBatch], found: Mapping[str, int], assume_lost: bool) -> Iterator[str]:
    for batch in lost:
        folder, intent = batch.submission.folder, batch.submission.intent
        if batch.name in found:
            if intent.get("executor") == "submitit":
                let_go(folder, batch.number, found[batch.name], batch.submission.batches[batch.number].size)
            record_job(folder, batch.number, found[batch.name])
            yield f"job {found[batch.name]} of an interrupted command was found again"
        elif batch.submitter_is_dead or assume_lost or time.time() - intent["time"] > LOST_AFTER_S:
            record_job(folder, batch.number, None, problem=NEVER_SUBMITTED)
        else:
            host = intent["submitter"].get("host")
            yield f"{folder.path.name}: may still be being submitted on {host} (--assume-lost)"


def _find(lost: list[OpenBatch], wait: Callable[[float], None]) -> dict[str, int]:
    """The jobs by name, from the queue, else from accounting. Raises PreconditionError if the queue cannot be seen.

    What is in neither of them is looked for once more: slurmctld may have it in its hands.
    """
    _wait_for_orphans(tuple({f"{b.submission.folder.path}/" for b in lost if b.submitter_is_dead}), wait)
    found = _in_the_queue(lost)
    missing = [batch for batch in lost if batch.name not in found]
    if any(batch.submitter_is_dead and batch.script.exists() for batch in missing):
        wait(SECOND_LOOK_S)
        found |= _in_the_queue(missing)
    missing = [batch for batch in lost if batch.name not in found]
    site = read_site() if missing else None
    if site is not None and site.has_accounting:
        names = sorted(batch.name for batch in missing)
        rows = read_accounts(names, min(batch.submission.intent["time"] for batch in missing))
        found |= {row.name: row.job_id for row in rows or () if row.name in names}
    return found


def _in_the_queue(lost: list[OpenBatch]) -> dict[str, int]:
    queue = read_queue(0.0)
    if not queue.is_known:
        raise PreconditionError(
            f"{queue.answer.problem}: whether a command that died has submitted jobs cannot be told",
            "try again when the scheduler answers; running trials go on without it",
        )
    names = {batch.name for batch in lost}
    return {row.name: row.job_id for row in queue.rows if row.name in names}


def _wait_for_orphans(folders: tuple[str, ...], wait: Callable[[float], None]) -> None:
    """An sbatch that has outlived the command that started it goes on trying by itself for a while."""
    end = time.monotonic() + TIMEOUT_S
    while folders and time.monotonic() < end and any(_is_sbatch_of(words, folders) for words in _command_lines()):
        wait(0.2)


def _command_lines() -> Iterator[list[str]]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            yield Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")


def _is_sbatch_of(words: list[str], folders: tuple[str, ...]) -> bool:
    """sbatch itself, the shell that runs what a site has put in its place, or our process that calls submitit."""
    is_sbatch = any(word.rpartition("/")[2] in ("sbatch", SUBMITIT_PROCESS) for word in words[:3])
    return is_sbatch and any(word.startswith(folders) for word in words)
