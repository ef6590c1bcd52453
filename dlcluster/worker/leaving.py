"""The end of a worker in a Slurm job: whether the job shall start again, and what that says about its last trial."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.worker.claims import Claim
from dlcluster.worker.environment import complain
from dlcluster.worker.job_orders import JobOrders
from dlcluster.worker.records import Recorder
from dlcluster.worker.requeue import Answer, Verdict, ask_to_go_on, judge, look
from dlcluster.worker.slurm_job import LogWitness, SlurmJob, causes_in_log

GOING_ON = ("deadline", "stop_requested", "preempted")  # reasons to leave that say nothing against another life
REASON_OF_CAUSE = {"PREEMPTION": "preempted", "JOB REQUEUE": "requeued", "NODE FAILURE": "node_fail"}


Last = tuple[Claim, Mapping[str, Any]] | None


class Leaving:
    """Everything that is to be said has been said and is durable: now Slurm may be asked, and may kill us for it."""

    def __init__(
        self,
        job: SlurmJob,
        orders: JobOrders,
        recorder: Recorder,
        *,
        witness: LogWitness,
        is_called_off: Callable[[], bool],
    ) -> None:
        self.job, self.orders, self.recorder = job, orders, recorder
        self.witness, self.is_called_off = witness, is_called_off
        self._tail = ""  # of the log, as it was when the last verdict was found

    def leave(
        self, last: Last, is_any_left: Callable[[], bool], has_begun: Callable[[], bool] = lambda: False
    ) -> WorkerExit:
        """The exit code. `last` is the attempt that ended last, if any was made in this life of the job, and how;
        `has_begun`: or made by another worker of this job.
        """
        reason = self.orders.reason
        if reason in GOING_ON and self._is_cancelled():
            if last is not None:
                self._refine(*last, Answer(Verdict.CANCELLED, "cancelled by its user"))
            return WorkerExit.DONE
        if reason not in GOING_ON or self.orders.exit_code != WorkerExit.INTERRUPTED or self._is_stopped_by_marker():
            return self.orders.exit_code
        if not is_any_left():
            return WorkerExit.DONE
        if reason == "deadline" and last is None and not has_begun():
            complain("its time was over before it could start a trial: not requeued, it would not get further")
            return self.orders.exit_code
        answer = self._ask()
        if not answer.ok:
            complain(answer.text)
        if last is not None:
            self._refine(*last, answer)
        return answer.exit_code

    def leave_it_to_the_first(self, last: Last) -> WorkerExit:
        """As another worker of the job, which asks for no requeue. If Slurm has ended us, it knows why."""
        if last is not None and self.orders.killed_at is not None and self.orders.reason in GOING_ON:
            verdict = judge(look(self.job), self.job, self._read_tail(), deadline_reached=False)
            self._refine(*last, Answer(verdict, "", ok=True))
        return self.orders.exit_code

    def _is_stopped_by_marker(self) -> bool:
        return bool(self.orders.pulse.markers() & {"stop", "hold"}) or self.orders.pulse.is_held()

    def _is_cancelled(self) -> bool:
        """By `dlcluster cancel`, and altogether: a marker that names one trial leaves the others to be gone on with."""
        pulse = self.orders.pulse
        return ("cancel" in pulse.markers() and pulse.cancelled_trial() is None) or self.is_called_off()

    def _ask(self) -> Answer:
        clock = self.orders.clock
        ends = [moment for moment in (clock.end, self.orders.killed_at) if moment is not None]
        return ask_to_go_on(
            self.job,
            deadline_reached=self.orders.reason == "deadline",
            cancelled_by_marker=self._is_cancelled,
            log_tail=self._read_tail,
            until=min(ends, default=None),
            wait=self._wait,
            now=clock.now,
        )

    def _read_tail(self) -> str:
        self._tail = self.witness.tail()
        return self._tail

    def _wait(self, seconds: float) -> None:
        """A signal ends the waiting: a SIGTERM says that there is something new to see, and little time."""
        end = time.monotonic() + seconds
        select.select([self.orders.signals.wake_fd], [], [], max(0.0, end - time.monotonic()))
        self.orders.signals.drain()
        self.orders.look_around()

    def _refine(self, claim: Claim, outcome: Mapping[str, Any], answer: Answer) -> None:
        """A second end for an attempt that was interrupted, if Slurm knows more about it; readers take the newest."""
        if outcome["state"] != State.INTERRUPTED.value:
            return
        better = {"reason": reason_in_log(self._tail, self.job) or outcome["reason"]}
        if answer.verdict is Verdict.CANCELLED:
            better = {"state": State.CANCELLED.value, "reason": "by_user"}
        if not answer.ok and answer.verdict is not Verdict.ALREADY:
            better["message"] = answer.text
        if any(outcome.get(name) != value for name, value in better.items()):
            self.recorder.add(claim, {**outcome, **better})
            self.recorder.finish_quietly()


def reason_in_log(tail: str, job: SlurmJob) -> str | None:
    """Our word for the cause that slurmstepd writes into the job's log with its SIGTERM; a plain scancel has none."""
    return next((REASON_OF_CAUSE[cause] for cause in causes_in_log(tail, job) if cause in REASON_OF_CAUSE), None)
