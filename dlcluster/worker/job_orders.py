"""Being told to stop in a Slurm job: SIGTERM is the end, a warning a reason to look, and slurmstepd the parent."""

from __future__ import annotations

import signal

from dlcluster.errors import WorkerExit
from dlcluster.worker.orders import Orders
from dlcluster.worker.pulse import Pulse
from dlcluster.worker.quick_look import Prospect, QuickLook
from dlcluster.worker.stopping import WARNINGS, SignalLog
from dlcluster.worker.worktime import WorkTime

DEFAULT_KILL_WAIT_S, SHORTEST_KILL_WAIT_S = 30.0, 5.0  # slurm.conf; slurmd never waits less than the latter
SIGTERM_AT, SIGKILL_AT = 0.5, 0.8  # of the time between Slurm's SIGTERM and its SIGKILL; the rest is for the record


class JobOrders(Orders):
    """`kill_wait_s`: what is known about the site's KillWait."""

    def __init__(
        self,
        pulse: Pulse,
        signals: SignalLog,
        clock: WorkTime,
        parent: int,
        *,
        look: QuickLook,
        kill_wait_s: float,
        grace_s: float,
    ) -> None:
        super().__init__(pulse, signals, clock, parent)
        self.window_s = min(max(kill_wait_s, SHORTEST_KILL_WAIT_S), max(grace_s, SHORTEST_KILL_WAIT_S))
        self.killed_at: float | None = None  # when Slurm's SIGKILL is due
        self._grace_end: float | None = None  # of a preemption: then comes the SIGTERM
        self._look = look
        self._is_looking = False

    def look_around(self) -> None:
        """A lost parent first: the SIGTERM that comes with it is the kernel's (PR_SET_PDEATHSIG), not Slurm's."""
        if self.parent_is_gone() and self.reason != "stepd_lost":
            self.reason, self.exit_code = "stepd_lost", WorkerExit.FENCED
            self.end_now()
        super().look_around()
        if self._is_looking and (prospect := self._look.answer()) is not None:
            self._is_looking = False
            self._act_on(prospect)

    def patience_s(self, grace_s: float) -> float:
        """A preempted trial has all of the grace time; the record is written between SIGTERM and SIGKILL."""
        if self.reason == "preempted" and self._grace_end is not None:
            return max(0.0, self._grace_end - self.clock.now())
        return super().patience_s(grace_s)

    def close(self) -> None:
        self._is_looking = False
        self._look.close()

    def _hear(self, number: int) -> None:
        """No second request: a task of srun gets SIGTERM twice, and slurmstepd may follow a warning with one.

        A warning may come at any time: with a limit shorter than the margin at once, up to a minute early, and also
        at the start of a preemption's grace time. So it says nothing but "look".
        """
        if self.reason == "stepd_lost":
            return
        if number in WARNINGS:
            if not self.reason:
                self._look.ask()
                self._is_looking = True
            return
        if number == signal.SIGTERM and self.killed_at is None:
            now = self.clock.now()
            self.killed_at = now + self.window_s
            self.latest_sigterm = now + SIGTERM_AT * self.window_s
            self.latest_end = now + SIGKILL_AT * self.window_s
        self.stop("stop_requested")

    def _act_on(self, prospect: Prospect) -> None:
        if prospect.is_preempted:
            self._grace_end = None if prospect.left is None else self.clock.now() + prospect.left
            self.stop("preempted")
        elif not prospect.is_known:
            self.stop("stop_requested")  # somebody has warned us, and nobody says that there is time
        elif prospect.left is not None and prospect.left > 0:
            self.clock.end_within(prospect.left)  # the end has been moved nearer, say; else our own clock decides
