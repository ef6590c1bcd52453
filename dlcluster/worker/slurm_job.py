"""The Slurm job that a worker runs in, read from the variables that Slurm sets: a value, asked of nobody.

The variables are also set in a user's own batch script and in the shell of `salloc`: a worker that was started there
by the local executor sees a job that is not its own. So only a worker that was submitted to Slurm looks for one.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_ID = 0xFFFFFFF0  # above are Slurm's special values: NO_VAL, the pseudo steps "batch" and "extern", and others
MAX_TEXT_LENGTH = 200
TAIL_BYTES = 65_536
STDOUT, STDERR = 1, 2
UNKNOWN_JOB = re.compile(r"Invalid job id specified|\bJob \S+ not found")


@dataclass(frozen=True)
class SlurmJob:
    """One life of one job; Slurm gives the next life the same id and one more restart."""

    job_id: int
    array_job_id: int | None = None
    array_task_id: int | None = None
    restarts: int = 0
    nodes: str = ""  # as Slurm writes them: `n[1-2]`
    node: str = ""  # the one that this process runs on
    cluster: str = ""
    step_id: int | None = None  # None in the batch step, which has no number that says anything
    log_file: Path | None = None  # where slurmstepd writes why it ends the job; None if that is no file we can name

    @property
    def name_for_scontrol(self) -> str:
        """`12_3` for an element of an array, else `12`: never the bare id of an array, which means all its elements."""
        if self.array_job_id is None:
            return str(self.job_id)
        return f"{self.array_job_id}_{self.array_task_id}"

    def to_json(self) -> dict[str, Any]:
        """The few fields that start records and heartbeats carry."""
        return {
            "id": self.job_id,
            "array": self.array_job_id,
            "index": self.array_task_id,
            "restarts": self.restarts,
            "cluster": self.cluster,
        }


def from_environment(environ: Mapping[str, str]) -> SlurmJob | None:
    """The job of this process, or None outside of one. A malformed variable counts as one that is not there."""
    job_id = _number(environ, "SLURM_JOB_ID")
    if not job_id:
        return None
    array = _number(environ, "SLURM_ARRAY_JOB_ID"), _number(environ, "SLURM_ARRAY_TASK_ID")
    if None in array:
        array = None, None  # half of it names nothing; the job's own id always does
    return SlurmJob(
        job_id=job_id,
        array_job_id=array[0],
        array_task_id=array[1],
        restarts=_number(environ, "SLURM_RESTART_COUNT") or 0,  # not set in a job's first life
        nodes=_text(environ, "SLURM_JOB_NODELIST"),
        node=_text(environ, "SLURMD_NODENAME"),
        cluster=_text(environ, "SLURM_CLUSTER_NAME"),
        step_id=_number(environ, "SLURM_STEP_ID"),
        log_file=own_log_file(),
    )


def seconds_left(environ: Mapping[str, str], now: float) -> float | None:
    """Until the end that Slurm has planned, `now` being `time.time()`; None before 23.02, which does not say it.

    The end is on the scheduler's clock and `now` on the node's: good for bringing a deadline nearer, never for moving
    it away. A node whose clock is behind is given no more than the whole length of the job.
    """
    end = _number(environ, "SLURM_JOB_END_TIME")
    if end is None:
        return None
    start = _number(environ, "SLURM_JOB_START_TIME")
    return end - now if start is None else min(end - now, float(end - start))


def own_log_file() -> Path | None:
    """The file that our standard error goes to, or else our standard output: slurmstepd writes into the job's stderr.

    The two are one file unless the batch script has an `--error` of its own. None for a pipe, a terminal, /dev/null,
    and for a file that has been deleted. A task of srun writes into a pipe to slurmstepd, so it has none.
    """
    for descriptor in (STDERR, STDOUT):
        try:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            ours, named = os.fstat(descriptor), path.stat()
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(named.st_mode) and os.path.samestat(ours, named):
            return path
    return None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    """Plain ASCII digits; `int` would also take `1_0`, ` 7 ` and digits of other scripts."""
    text = environ.get(name, "")
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > LARGEST_ID:
        return None
    return int(text)


def _text(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name, "")
    return text if text.isprintable() and len(text) <= MAX_TEXT_LENGTH else ""


# -- what scontrol says about it ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What `scontrol -o show job` says about a job, as far as it matters here."""

    state: str
    reason: str
    restarts: int
    preempt_time: str


def is_unknown(answer: str | None, job: SlurmJob) -> bool:
    return answer is not None and read_record(answer, job) is None and UNKNOWN_JOB.search(answer) is not None


def read_record(answer: str | None, job: SlurmJob) -> Record | None:
    """The line about our own job: the id of an array's last element is that of the array, and gives all its lines."""
    for line in (answer or "").split("\n"):
        if _is_about(line, job):
            return _record_in(line)
    return None


def _is_about(line: str, job: SlurmJob) -> bool:
    head = f" {line.partition(' JobName=')[0]} "
    if f" JobId={job.job_id} " not in head:
        return False
    return job.array_job_id is None or f" ArrayTaskId={job.array_task_id} " in head


def _record_in(line: str) -> Record | None:
    """Only from UserId to Partition, where every value is Slurm's own: names before and comments after may say all."""
    text = line.partition(" UserId=")[2].partition(" Partition=")[0]
    found = {}
    for key in ("JobState", "Reason", "Restarts", "PreemptTime"):
        match = re.search(rf" {key}=(\S*)", text)
        found[key] = match[1] if match else ""
    if not found["JobState"] or not re.fullmatch(r"[0-9]{1,9}", found["Restarts"]):
        return None
    return Record(found["JobState"], found["Reason"], int(found["Restarts"]), found["PreemptTime"])


# -- what the log says about it ----------------------------------------------------------------------------------------


def causes_in_log(log_tail: str, job: SlurmJob) -> list[str]:
    """What slurmstepd wrote into the log when it ended our job: PREEMPTION, TIME LIMIT, ...; "" is a plain scancel.

    The line is `slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2024-05-01T12:00:00 DUE TO PREEMPTION ***`, with the
    job's own id also in an array. Lines about steps (`STEP 12.0`) may come earlier, at the start of a grace time.
    """
    line = rf"\*\*\* JOB {job.job_id} ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z, ]+))? \*\*\*"
    return [cause or "" for cause in re.findall(line, log_tail)]


class LogWitness:
    """What was written into the job's log since this object was made; the lives before wrote into the same file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._start: int | None = None  # None: nobody knows where our own part begins, so nothing counts
        with contextlib.suppress(OSError):
            self._start = path.stat().st_size if path else None

    def tail(self) -> str:
        """At most the last 64 KiB of it; empty if it cannot be read, or if the file has become shorter."""
        if self.path is None or self._start is None:
            return ""
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._start, size - TAIL_BYTES))
                return file.read(TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
