"""One running trial: how long to wait for it once it was asked to stop, when to kill it, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.worker.agents import Agents
from dlcluster.worker.command import end_reason
from dlcluster.worker.forkserver import Forker
from dlcluster.worker.hanging import SECONDS_TO_DIE, SECONDS_TO_TELL, HangClock
from dlcluster.worker.orders import Orders
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import Patience

# What a child says without a word; a program may leave with these codes as well.
MAY_NOT_WRITE = (WorkerExit.FENCED, WorkerExit.IO_LOST)
TICK_S, SHORTEST_TICK_S = 1.0, 0.05
DID_NOT_STOP = {"state": State.INTERRUPTED.value, "reason": "stop_requested", "message": "did not stop in time"}


class TrialWatch:
    """From the moment a trial was sent to its child until that has gone; moments are those of the worker's clock."""

    def __init__(
        self, trial_id: str, forker: Forker | Agents, page: SharedPage, orders: Orders, rules: Mapping[str, Any]
    ) -> None:
        self.trial_id, self.forker, self.page, self.orders, self.rules = trial_id, forker, page, orders, rules
        self.clock = orders.clock
        self.began = self.clock.now()
        self.patience = Patience(self.clock.now)
        self._hang = HangClock(page, self.clock.now, rules.get("hang_timeout"))
        self._was_asked = self._was_killed = self._has_hung = False

    @property
    def tick_s(self) -> float:
        """Until the next look around: a second, or less if something is to be done before."""
        moments = [self.patience.at]
        if not self._was_killed and self._may_get_sigterm():
            moments.append(self.patience.sigterm_at)
        if not self.orders.reason:
            moments.append(self.clock.deadline)
        left = min((moment - self.clock.now() for moment in moments if moment is not None), default=TICK_S)
        return min(max(left, SHORTEST_TICK_S), TICK_S)

    def act(self) -> None:
        """After every look around: pass a request on, and lose patience step by step."""
        if self.orders.asks_to_stop(self.trial_id):
            self._ask()
            self.patience.until(self.orders.latest_sigterm, self.orders.latest_end)
        elif self._hang.has_hung() and not self._has_hung:
            self._end_hung()
        self._lose_patience()

    def _ask(self) -> None:
        if self._was_asked:
            return
        self._was_asked = True
        self.page.set()
        self.patience.within(self.orders.patience_s(self.rules["grace"]))

    def _end_hung(self) -> None:
        """The stacks of all its threads go into its log; then it has a little time to end."""
        self._has_hung = True
        time_to_tell = 0.0
        if not self.rules["command"]:  # any program but ours would die of it at once, and leave no line
            self.forker.signal_child(signal.SIGQUIT)
            time_to_tell = SECONDS_TO_TELL
        self.patience.within(time_to_tell + SECONDS_TO_DIE, time_to_tell)

    def _lose_patience(self) -> None:
        if self.patience.is_over():
            self.forker.kill_child(signal.SIGKILL)
        elif self.patience.is_time_for_sigterm() and not self._was_killed and self._may_get_sigterm():
            self.forker.kill_child(signal.SIGTERM)
            self._was_killed = True

    def _may_get_sigterm(self) -> bool:
        """A program has had a SIGTERM as the request; a second would disturb its saving."""
        return self._has_hung or not self.rules["command"]

    # -- the verdict -------------------------------------------------------------------------------------------

    def judge(self, outcome: dict[str, Any], oom_has_risen: Callable[[], bool]) -> dict[str, Any]:
        """The supervisor's knowledge on top of what the child said: why it was stopped, and what killed it."""
        outcome["seconds"] = round(self.clock.now() - self.began, 3)
        if self._has_hung and outcome.get("state") != State.COMPLETED.value:
            return {**outcome, **self._hang.verdict()}
        if "state" not in outcome:
            outcome.update(self._from_exit_code(outcome["exit"], oom_has_risen))
        elif self._was_killed and outcome["state"] == State.FAILED.value:
            outcome.update(DID_NOT_STOP)  # our SIGTERM has hit its data loaders first, say
        if not self.page.is_set() or outcome["state"] != State.INTERRUPTED.value:
            return outcome
        outcome.update(self._why_stopped())
        return outcome

    def _why_stopped(self) -> dict[str, str]:
        if self.orders.cancelled_trial == self.trial_id or self.orders.reason == "cancelled":
            return {"state": State.CANCELLED.value, "reason": "by_user"}
        reason = self.orders.reason
        if reason == "deadline" and not self.clock.is_late(self.began):
            return {"reason": "deadline"}
        return {"reason": reason if reason in ("preempted", "stepd_lost") else "stop_requested"}

    def _from_exit_code(self, code: int, oom_has_risen: Callable[[], bool]) -> dict[str, Any]:
        if self.page.is_set():
            return dict(DID_NOT_STOP)
        if code == -signal.SIGKILL and oom_has_risen():
            return {"state": State.FAILED.value, "reason": "oom", "message": "killed: out of memory"}
        reason = "no_result" if code == 0 else end_reason(code)
        return {"state": State.FAILED.value, "reason": reason, "message": "", "signature": reason}
