"""Ending what runs and calling off what waits: markers for the workers first, then the scheduler.

The marker comes first, so that a worker which is being cancelled never requeues itself (reliability.md 4.3).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlcluster.files import write_text
from dlcluster.launch.coverage import Coverage, Submission
from dlcluster.launch.follow import alive_workers
from dlcluster.launch.scheduler import forget_queue
from dlcluster.launch.site import TIMEOUT_S, slurm_environment
from dlcluster.launch.slurm_errors import Answer, classify
from dlcluster.launch.slurm_words import Standing
from dlcluster.run_dir import SweepDir

IDS_PER_CALL = 500
LOOK_S = 0.1


@dataclass(frozen=True)
class Cancelled:
    """The workers that were told, the jobs taken out of the queue, and what the scheduler said if it did not obey."""

    workers: tuple[str, ...] = ()
    n_jobs: int = 0
    problem: str = ""


def cancel(sweep: SweepDir, only: str | None) -> Cancelled:
    """Tell the workers that run to end their trials as cancelled (or the one trial), and call off what waits."""
    plan = sweep.read_plan()
    wanted = plan.by_id(only).id if only is not None else None
    coverage = Coverage(sweep, max_age_s=0.0) if any(s.script(0).exists() for s in sweep.submissions()) else None
    for submission in coverage.submissions if coverage else ():
        call_off(submission, wanted)
    told = []
    for beat in alive_workers(sweep):
        current = beat.get("current")
        if coverage is not None and _has_gone(coverage, beat):
            continue  # its node was lost, say, so that it could not say goodbye
        if wanted is None or (current and current[0] == wanted):
            write_text(sweep.worker(beat["worker"]).marker("cancel"), wanted or "", durable=False)
            told.append(beat["worker"])
    n_jobs, problem = (0, "") if coverage is None else take_out(coverage, wanted, (Standing.WAITING, Standing.HELD))
    return Cancelled(tuple(told), n_jobs, problem)


def _has_gone(coverage: Coverage, beat: Mapping[str, Any]) -> bool:
    word = coverage.word_of_job(beat)
    return word is not None and word.standing is Standing.GONE


def call_off(submission: Submission, trial_id: str | None) -> None:
    """What nobody has begun yet is not to be run: all of it (an empty file), or the trials that are named."""
    if not submission.batches or (trial_id is not None and trial_id not in submission.wanted):
        return
    file, known = submission.folder.cancelled, submission.called_off
    if trial_id is None:
        write_text(file, "")
    elif known is not None and trial_id not in known:
        write_text(file, "".join(f"{name}\n" for name in sorted({*known, trial_id})))


def take_out(coverage: Coverage, trial_id: str | None, standings: Collection[Standing]) -> tuple[int, str]:
    """scancel the jobs of these standings: how many, and what went wrong. A job that others may need is left alone."""
    if not coverage.answers:
        return 0, f"{coverage.silence()}: jobs that wait will find the marker and end when they start"
    ids = [job for s in coverage.submissions for job in _jobs(s, trial_id, standings)]
    n_out, problem = 0, ""
    for first in range(0, len(ids), IDS_PER_CALL):
        chunk = ids[first : first + IDS_PER_CALL]
        complaint = _scancel(chunk)
        n_out += 0 if complaint else len(chunk)
        problem = problem or complaint
    if ids:
        forget_queue()
    return n_out, problem


def _jobs(submission: Submission, trial_id: str | None, standings: Collection[Standing]) -> Iterator[str]:
    """Ids of jobs that bear a name of this submission: no other job is ever cancelled (security row 21)."""
    elements = set(submission.words)
    if trial_id is not None:
        alone = submission.intent.get("trials_per_job") == 1 and trial_id in submission.wanted
        elements &= {submission.wanted[trial_id][0]} if alone else set()
    for element in sorted(elements):
        if submission.words[element].standing in standings:
            yield submission.ids[element]


def _scancel(ids: list[str]) -> str:
    # without -s: signals to single elements of an array that still waits keep scancel busy for 95 s
    argv = ["scancel", *ids]
    try:
        done = subprocess.run(
            argv,
            env=slurm_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scancel: {error}"
    complaint = done.stderr.decode(errors="replace").strip()
    verdicts = {classify(line) for line in complaint.splitlines()} - {Answer.UNKNOWN}
    if done.returncode == 0 or verdicts == {Answer.DONE}:  # some may have ended since we looked, which is no problem
        return ""
    return f"scancel: {complaint or f'exit code {done.returncode}'}"


def wait_until_ended(sweep: SweepDir, workers: Collection[str], only: str | None, timeout_s: float) -> bool:
    """Whether the workers (or the one trial) have come to an end within the time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        busy = [b for b in alive_workers(sweep) if b["worker"] in workers]
        if not [b for b in busy if only is None or (b.get("current") or [None])[0] == only]:
            return True
        time.sleep(LOOK_S)
    return False


def end_by_force(sweep: SweepDir) -> str:
    """scancel what still runs of a sweep that was told to end; its workers, having the marker, do not come back."""
    if not any(submission.script(0).exists() for submission in sweep.submissions()):
        return ""
    return take_out(Coverage(sweep, max_age_s=0.0), None, (Standing.ALIVE, Standing.WAITING, Standing.HELD))[1]
