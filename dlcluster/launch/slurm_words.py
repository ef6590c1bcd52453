"""The scheduler's words for a job, in one table, and the one door to the readers and complaints beside it.

Slurm decides only between waiting, alive and gone: what became of a trial is in its run directory. `reason` is the
word for a trial whose files say nothing. A word that is not in the table is UNKNOWN and never the end of anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from dlcluster.errors import WorkerExit
from dlcluster.launch.slurm_errors import Answer, classify, is_limit_of_one_job, key_of
from dlcluster.launch.slurm_output import (
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    AccountRow,
    QueueRow,
    parse_key_values,
    parse_sacct,
    parse_squeue,
    read_job_id,
)

__all__ = [
    "SACCT_FIELDS",
    "SQUEUE_FORMAT",
    "STATES",
    "AccountRow",
    "Answer",
    "JobWord",
    "QueueRow",
    "Standing",
    "classify",
    "is_memory_kill",
    "key_of",
    "parse_key_values",
    "parse_sacct",
    "parse_squeue",
    "read_account",
    "read_job_id",
    "read_state",
]


class Standing(Enum):
    WAITING = "waiting"  # in the queue, and it will start by itself
    HELD = "held"  # in the queue, and it will not start unless somebody does something
    ALIVE = "alive"  # it has a node: running, suspended, being signalled
    FINISHING = "finishing"  # its processes are ending; how it ended is not told yet
    GONE = "gone"  # ended, unless a newer row says otherwise
    UNKNOWN = "unknown"  # a word we do not know; never final


@dataclass(frozen=True)
class JobWord:
    """What Slurm says of a job: `reason` is our own word, `text` is for people."""

    standing: Standing
    reason: str
    text: str


# The words of `job_state_string` in Slurm 22.05, and those of the manual that newer versions print.
STATES: Mapping[str, JobWord] = {
    "PENDING": JobWord(Standing.WAITING, "", "waiting in the queue"),
    "CONFIGURING": JobWord(Standing.WAITING, "", "its nodes are booting"),
    "POWER_UP_NODE": JobWord(Standing.WAITING, "", "its nodes are booting"),
    "REQUEUED": JobWord(Standing.WAITING, "requeued", "requeued, it will start again"),
    "REQUEUE_FED": JobWord(Standing.WAITING, "requeued", "requeued, it will start again"),
    "REQUEUE_HOLD": JobWord(Standing.HELD, "held", "requeued and held; release it with scontrol release"),
    "SPECIAL_EXIT": JobWord(Standing.HELD, "held", "requeued and held as a special exit; see scontrol release"),
    "RESV_DEL_HOLD": JobWord(Standing.HELD, "held", "held, because its reservation was deleted"),
    "RUNNING": JobWord(Standing.ALIVE, "", "running"),
    "SUSPENDED": JobWord(Standing.ALIVE, "suspended", "suspended"),
    "STOPPED": JobWord(Standing.ALIVE, "suspended", "stopped by a signal, keeps its node"),
    "RESIZING": JobWord(Standing.ALIVE, "", "changing its size"),
    # seen for a moment right after any signal, for instance at the start of a grace time
    "SIGNALING": JobWord(Standing.ALIVE, "", "running, it has just been sent a signal"),
    "COMPLETING": JobWord(Standing.FINISHING, "", "its processes are ending"),
    "STAGE_OUT": JobWord(Standing.FINISHING, "", "its files are being copied out"),
    "FAILED": JobWord(Standing.GONE, "exit", "failed; only accounting could say how"),
    "COMPLETED": JobWord(Standing.GONE, "no_result", "ended without an error, and without a result"),
    "OUT_OF_MEMORY": JobWord(Standing.GONE, "oom", "killed, it used more memory than it had asked for"),
    "TIMEOUT": JobWord(Standing.GONE, "timeout", "ended at its time limit"),
    # We submit with --requeue: for a job that comes back this is an older row. With PreemptMode=CANCEL it is the last.
    "PREEMPTED": JobWord(Standing.GONE, "preempted", "had to make room for another job"),
    "NODE_FAIL": JobWord(Standing.GONE, "node_fail", "its node was lost"),
    "BOOT_FAIL": JobWord(Standing.GONE, "node_fail", "its node did not boot"),
    "LAUNCH_FAILED": JobWord(Standing.GONE, "node_fail", "could not be launched on its node"),
    "RECONFIG_FAIL": JobWord(Standing.GONE, "node_fail", "its node could not be reconfigured"),
    # not `deadline`, which is our word for a worker whose own time is up, and which goes on
    "DEADLINE": JobWord(Standing.GONE, "never_started", "could not start before its --deadline"),
    "CANCELLED": JobWord(Standing.GONE, "cancelled", "cancelled"),
    "REVOKED": JobWord(Standing.UNKNOWN, "revoked", "taken over by another cluster of the federation"),
}
# With these a trial without a final record was interrupted and goes on; with the others it has failed or was cancelled.
INTERRUPTIONS = frozenset({"timeout", "preempted", "node_fail", "interrupted"})

# Our own exit codes of the batch script: what is left when a worker could write no record.
EXIT_REASONS: Mapping[int, tuple[str, str]] = {
    WorkerExit.USER_EXCEPTION: ("exit(1)", "ended with an error"),
    WorkerExit.IO_LOST: ("io_lost", "could not write to the run directory any more"),
    WorkerExit.INTERRUPTED: ("interrupted", "was told to stop, and stopped"),
    WorkerExit.FENCED: ("fenced", "found that another worker has its trial"),
    WorkerExit.BAD_ENVIRONMENT: ("setup", "the setup: lines or the environment are wrong; see the log of the job"),
    WorkerExit.DIVERGED: ("diverged", "diverged"),
    WorkerExit.HUNG: ("hung", "showed no sign of life any more"),
    WorkerExit.DISK: ("disk", "the disk was full"),
    126: ("launch", "the Python of the job could not be started; see the log of the job"),
    127: ("launch", "the Python of the job was not found; see the log of the job"),
}
OOM_SIGNAL = 125
LAUNCH_SIGNAL = 53
NO_LOG = "the folder of its log, or its working folder, is not there or not writable on the node"

HELD_REASONS: Mapping[str, str] = {  # squeue's %r; a free text may have underscores for spaces
    "JobHeldUser": "held by you; release it with scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held, because it was requeued too often",
    "JobHeldMaxRequeue": "held, because it was requeued too often",
    "job requeued in held state": "requeued and held",
    "launch failed requeued held": "its launch failed; requeued and held",
    "requeue_setup_env_fail": "the login environment could not be read; requeued and held",
    "DependencyNeverSatisfied": "waits for a job that will never end as it has to",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": "asks for more nodes than its partition allows",
    "PartitionTimeLimit": "asks for more time than its partition allows",
    "PartitionConfig": "asks for what its partition does not allow",
    "BadConstraints": "asks for what no node has",
    "AccountNotAllowed": "its account may not use this partition",
    "QOSNotAllowed": "its qos may not be used here",
    "InvalidAccount": "its account does not exist",
    "InvalidQOS": "its qos does not exist",
    "ReservationDeleted": "its reservation was deleted",
    "RequeueFailed": "it could not be requeued",
}


def read_state(state: str, reason: str = "", exit_code: str = "") -> JobWord:
    """What a state of squeue (%T) or sacct (State) means, with the reason and sacct's `code:signal` where known."""
    words = state.split()
    word = words[0].rstrip("+") if words else ""  # `CANCELLED by 1000`; `CANCELLED+` where a column was too narrow
    known = STATES.get(word)
    if known is None:
        return JobWord(Standing.UNKNOWN, "", f"Slurm says {state.strip()!a}")
    if word == "PENDING":
        return _pending(known, reason)
    if word == "FAILED":
        return _failed(reason, exit_code)
    if word == "CANCELLED":
        return JobWord(known.standing, known.reason, _cancelled_by(words))
    return known


def _pending(known: JobWord, reason: str) -> JobWord:
    if reason in ("", "None", "(null)"):
        return known
    if reason == "BeginTime":
        return JobWord(
            known.standing, known.reason, "waits for its time: after a requeue it restarts within 121 s, as a rule"
        )
    why = _why_held(reason)
    if not why:
        return JobWord(known.standing, known.reason, f"waiting in the queue ({reason})")
    return JobWord(Standing.HELD, "held", f"{why} ({reason})")


def _why_held(reason: str) -> str:
    """Why time alone will not start the job; "" if it may."""
    if is_limit_of_one_job(reason):
        return "a limit of the site is below what it asks for"
    if reason.startswith("ReqNodeNotAvail") and "UnavailableNodes" in reason:
        return "nodes that it needs are down or drained"
    return HELD_REASONS.get(reason, HELD_REASONS.get(reason.replace("_", " "), ""))


def _cancelled_by(words: list[str]) -> str:
    if len(words) == 3 and words[1] == "by" and words[2].isdigit():
        return "cancelled by root or by Slurm" if words[2] == "0" else f"cancelled by the user with id {words[2]}"
    return "cancelled"


def _failed(reason: str, exit_code: str) -> JobWord:
    """FAILED says too little: the exit code of the batch script, or the signal that ended it, says more."""
    found = _code_and_signal(reason, exit_code)
    if found is None:
        return STATES["FAILED"]
    code, signal = found
    if signal == LAUNCH_SIGNAL and code == 0:
        return JobWord(Standing.GONE, "launch", NO_LOG)
    if signal == OOM_SIGNAL:
        return STATES["OUT_OF_MEMORY"]
    if signal:
        return JobWord(Standing.GONE, f"killed({signal})", f"killed by signal {signal}")
    if code == 0:
        return STATES["COMPLETED"]
    word, text = EXIT_REASONS.get(code, (f"exit({code})", f"ended with exit code {code}"))
    return JobWord(Standing.GONE, word, text)


def _code_and_signal(reason: str, exit_code: str) -> tuple[int, int] | None:
    """From sacct's `code:signal`. squeue has at most a reason, RaisedSignal:9(Killed), which tells of the signal.

    Its reason JobLaunchFailure tells nothing: it is there also for a worker that was killed by signal 9.
    """
    match = re.fullmatch(r"([0-9]+):([0-9]+)", exit_code.strip())
    if match:
        return int(match[1]), int(match[2])
    raised = re.match(r"RaisedSignal:([0-9]+)", reason)
    return (0, int(raised[1])) if raised else None


def is_memory_kill(word: JobWord, log_tail: str) -> bool:
    """Whether a cancelled job was in truth killed for its memory.

    Where JobAcctGatherParams has OverMemoryKill, Slurm cancels such a job, as `CANCELLED by 0`, and only its log says
    why (22.05, slurm_jobacct_gather.c).
    """
    return word.reason == "cancelled" and "exceeded memory limit" in log_tail.lower()


def read_account(row: AccountRow) -> JobWord:
    """What a row of sacct means for a job that squeue does not know. Only ends count.

    A row that was not closed may be of a job that ended long ago, while accounting was off (a "runaway job").
    """
    word = read_state(row.state, row.reason, row.exit_code)
    if word.standing is Standing.GONE:
        return word
    return JobWord(Standing.UNKNOWN, "stale", f"accounting says {row.state}, and the queue does not know the job")
