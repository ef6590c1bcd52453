"""How a worker that has not finished asks Slurm to start its job again, and when it must not.

Slurm accepts `scontrol requeue` for a job that is being cancelled, and starts it again: who asks blindly resurrects
what the user has just ended. So before every call we look, and a pure rule (`judge`) says whether to ask.

What is left: a scancel that slurmctld handles after our look and before our requeue. That is the time between two
programs, 0.01 to 0.05 s on 22.05, or until slurmctld is back where it did not answer. The cancel marker that
`dlcluster cancel` writes first is read before every call and closes it for our own command.

The order is the caller's: the final record first, then this, then the exit. A successful requeue is followed by
SIGTERM within 10 ms and by SIGKILL after KillWait.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from dlcluster.errors import WorkerExit
from dlcluster.worker.slurm_job import UNKNOWN_JOB, Record, SlurmJob, causes_in_log, is_unknown, read_record
from dlcluster.worker.stopping import kill_group

LOOK_S, REQUEUE_S = 30.0, 60.0
SHORTEST_S = 5.0  # a call is given at least this, however near the end is; slurmctld usually answers in 0.02 s
BACK_OFF_S = (2.0, 5.0, 10.0, 20.0, 30.0)  # together with calls of 9 s it outlasts a slurmctld that is down for 90 s
MAX_TEXT_LENGTH = 200

# The words of `scontrol show job`. COMPLETING and STAGE_OUT hide the state that the job will end in.
ALIVE = {"RUNNING", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING", "CONFIGURING"}
ENDING = {"COMPLETING", "STAGE_OUT"}
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}

REQUEUED_BY_OTHERS = "Job is pending execution"  # rc 1, but what we wanted has been done
TRANSIENT = (
    "Unexpected message received",  # slurmctld down, 22.05: after 9 s
    "Unable to contact slurm controller",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Transport endpoint",
    "Connection refused",
    "Connection reset",
    "Connection timed out",
    "Slurm temporarily unable",
    "Slurm backup controller in standby mode",
    "Unable to process configuration file",
    "try again later",
    "Resource temporarily unavailable",
    "Cannot allocate memory",
    "Protocol authentication error",  # munged is being restarted
    "Invalid authentication credential",
    "Could not establish a configuration source",  # a node without slurm.conf asks slurmctld for it
)
PERMANENT = ("Requested operation is presently disabled", "Access/permission denied", "Invalid job id specified")


class Verdict(Enum):
    REQUEUE = "requeue"  # ask Slurm to start the job again
    ALREADY = "already"  # Slurm has requeued it, or runs it anew: leave it alone
    CANCELLED = "cancelled"  # somebody wants it ended: never requeue
    SILENT = "silent"  # nothing that allows a requeue, and nothing that says cancelled


class Answer(NamedTuple):
    """What became of the wish to go on. `ok`: Slurm will start the job again, and nobody need do anything."""

    verdict: Verdict
    text: str
    ok: bool = False

    @property
    def exit_code(self) -> WorkerExit:
        return exit_code_after(self.verdict, self.ok)


class Reply(NamedTuple):
    """One call of scontrol; without a code it did not end in time."""

    code: int | None
    out: str
    err: str


class Requeued(NamedTuple):
    ok: bool
    text: str
    may_try_again: bool = False


Runner = Callable[[Sequence[str], float], Reply]


# -- the rule ----------------------------------------------------------------------------------------------------------


def judge(answer: str | None, job: SlurmJob, log_tail: str, *, deadline_reached: bool) -> Verdict:
    """Whether to requeue, from the answer to `look` and from what slurmstepd wrote into the log since our start."""
    if is_unknown(answer, job):
        return Verdict.SILENT  # purged or forgotten: there is nothing to requeue, and nobody has said cancelled
    record = read_record(answer, job)
    if record is None:
        return _judge_silence(causes_in_log(log_tail, job), deadline_reached)
    if record.state == "CANCELLED":
        return Verdict.CANCELLED
    if record.state in WAITING or record.restarts != job.restarts:
        return Verdict.ALREADY  # a job with another count of restarts is another life: not ours to requeue
    if record.state in ALIVE:
        return Verdict.REQUEUE  # SIGNALING is shown for a moment after any signal
    if record.state in ENDING:
        return _judge_ending(record, causes_in_log(log_tail, job))
    return Verdict.SILENT  # ended although we are alive, so we are an orphan; or a word of a later version


def _judge_silence(causes: list[str], deadline_reached: bool) -> Verdict:
    if "" in causes:
        return Verdict.CANCELLED
    return Verdict.REQUEUE if deadline_reached else Verdict.SILENT


def _judge_ending(record: Record, causes: list[str]) -> Verdict:
    """PreemptTime stays set when a user cancels during the grace time: only the log tells the two apart."""
    if record.reason == "TimeLimit":
        return Verdict.REQUEUE
    if _is_time(record.preempt_time) and set(causes) == {"PREEMPTION"}:
        return Verdict.REQUEUE
    if causes and "" not in causes:
        return Verdict.SILENT  # something like NODE FAILURE: no requeue either, but nobody's wish
    return Verdict.CANCELLED


def _is_time(text: str) -> bool:
    return re.match(r"\d{4}-\d\d-\d\dT", text) is not None  # else None, Unknown, N/A, or nothing at all


def exit_code_after(verdict: Verdict, ok: bool) -> WorkerExit:
    """0 after our own successful requeue, since other codes trip `RequeueExit` settings of some sites; else 75.

    75 does no harm where Slurm requeues or cancels us itself: its own word about the job wins.
    """
    return WorkerExit.DONE if verdict is Verdict.REQUEUE and ok else WorkerExit.INTERRUPTED


# -- the calls ---------------------------------------------------------------------------------------------------------


def run_scontrol(arguments: Sequence[str], timeout_s: float) -> Reply:
    """One call without a shell. What a wrapper of the site has started is killed with it when the time is over."""
    try:
        process = subprocess.Popen(
            ["scontrol", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=_environment(),
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Reply(127, "", f"scontrol: {os.strerror(error.errno or 0)}")
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_group(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it does not even die: its program is on a lost NFS
            process.communicate(timeout=SHORTEST_S)
        return Reply(None, "", f"scontrol: no answer within {timeout_s:.0f} s")
    return Reply(process.returncode, out, err)


def _environment() -> dict[str, str]:
    """Nothing in the user's environment may change which cluster is asked, or how times and errors are written."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith("SCONTROL_")}
    for name in ("SLURM_CLUSTERS", "SLURM_TIME_FORMAT"):
        kept.pop(name, None)
    return {**kept, "LC_ALL": "C"}


def look(job: SlurmJob, run: Runner = run_scontrol, timeout_s: float = LOOK_S) -> str | None:
    """What Slurm says about the job, also that it does not know it (see `is_unknown`); None after two bad tries."""
    for _ in range(2):
        reply = run(("-o", "show", "job", str(job.job_id)), timeout_s)
        if reply.code == 0 and read_record(reply.out, job) is not None:
            return reply.out
        if reply.code and UNKNOWN_JOB.search(text := f"{reply.out}\n{reply.err}"):
            return text
    return None


def requeue(job: SlurmJob, run: Runner = run_scontrol, timeout_s: float = REQUEUE_S) -> Requeued:
    """One call of `scontrol requeue`. Only for who has just looked and judged; see `ask_to_go_on`."""
    reply = run(("requeue", job.name_for_scontrol), timeout_s)
    text = _meaning(reply)
    if reply.code == 0:
        return Requeued(True, "")
    if REQUEUED_BY_OTHERS in text:
        return Requeued(True, text)
    # Under proctrack/linuxproc the SIGTERM that follows a requeue also hits our scontrol: killed says nothing.
    has_no_answer = reply.code is None or reply.code < 0 or not text
    return Requeued(False, text or f"scontrol: exit {reply.code}", has_no_answer or _is_transient(text))


def _is_transient(text: str) -> bool:
    return any(known in text for known in TRANSIENT)


def _meaning(reply: Reply) -> str:
    """The line that says what happened: one that we know, or else the last; sites print banners around it."""
    lines = [line.strip() for line in f"{reply.out}\n{reply.err}".split("\n") if line.strip()]
    known = [line for text in (REQUEUED_BY_OTHERS, *PERMANENT, *TRANSIENT) for line in lines if text in line]
    line = known[0] if known else lines[-1] if lines else ""
    return "".join(c if c.isprintable() else "?" for c in line)[:MAX_TEXT_LENGTH]


# -- all of it together ------------------------------------------------------------------------------------------------


def ask_to_go_on(
    job: SlurmJob,
    *,
    deadline_reached: bool,
    cancelled_by_marker: Callable[[], bool],
    log_tail: Callable[[], str],
    until: float | None = None,
    wait: Callable[[float], object] = time.sleep,
    run: Runner = run_scontrol,
    now: Callable[[], float] = time.monotonic,
) -> Answer:
    """Look, judge and requeue, again and again while Slurm is not there; never a requeue without a look before it.

    `until`: a moment of `now` after which no try begins but the first; without it there are six tries, with 67 s of
    waiting between them. `wait` may return early, if there is reason to look again at once.
    """
    asker = _Asker(job, deadline_reached, cancelled_by_marker, log_tail, run, lambda: _left(until, now))
    answer = asker.try_once()
    for pause in _pauses(_left(until, now)):
        time_to_wait = min(pause, _left(until, now) - SHORTEST_S)
        if answer is not None or time_to_wait <= 0:
            break
        wait(time_to_wait)
        answer = asker.try_once()
    return answer or Answer(Verdict.REQUEUE, asker.failure)


def _left(until: float | None, now: Callable[[], float]) -> float:
    return float("inf") if until is None else until - now()


def _pauses(left: float) -> Iterator[float]:
    """Between tries. As many as fit into the time, and no more: `wait` may always return at once."""
    yield from BACK_OFF_S
    n_more = 0 if left == float("inf") else int(max(0.0, left) / BACK_OFF_S[-1])
    yield from [BACK_OFF_S[-1]] * n_more


@dataclass
class _Asker:
    """The tries of one wish to go on, and what they have in common."""

    job: SlurmJob
    deadline_reached: bool
    cancelled_by_marker: Callable[[], bool]
    log_tail: Callable[[], str]
    run: Runner
    left: Callable[[], float]
    failure: str = ""  # of the last requeue; empty before the first

    def try_once(self) -> Answer | None:
        """The end of the matter, or None if it is worth another try."""
        if self.cancelled_by_marker():
            return Answer(Verdict.CANCELLED, "cancelled by its user: not requeued")
        answer = look(self.job, self.run, self._limit(LOOK_S))
        verdict = judge(answer, self.job, self.log_tail(), deadline_reached=self.deadline_reached)
        if verdict is Verdict.ALREADY and self.failure:
            return self._done()  # our own call, whose answer was lost; or somebody else's, to the same end
        if verdict is Verdict.SILENT and answer is None and self.failure:
            return None  # slurmctld has gone while we were asking: wait for it, but requeue nothing unseen
        if verdict is not Verdict.REQUEUE:
            return Answer(verdict, self._explain(verdict, answer))
        requeued = requeue(self.job, self.run, self._limit(REQUEUE_S))
        if requeued.ok:
            return self._done()
        self.failure = f"requeue failed: {requeued.text}"
        return None if requeued.may_try_again else Answer(verdict, self.failure)

    def _limit(self, seconds: float) -> float:
        return max(SHORTEST_S, min(seconds, self.left()))

    def _done(self) -> Answer:
        return Answer(Verdict.REQUEUE, f"Slurm will start job {self.job.name_for_scontrol} again", ok=True)

    def _explain(self, verdict: Verdict, answer: str | None) -> str:
        job, record = f"job {self.job.name_for_scontrol}", read_record(answer, self.job)
        if verdict is Verdict.ALREADY:
            return f"Slurm has already requeued {job}"
        if verdict is Verdict.CANCELLED:
            return f"{job} has been cancelled: not requeued"
        if record is not None:
            return f"not requeued: {job} is {record.state} for Slurm"
        return f"not requeued: Slurm does not know {job}" if answer else f"not requeued: no answer about {job}"
