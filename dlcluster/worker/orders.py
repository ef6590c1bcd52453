"""Being told to stop: signals, markers, the deadline, and a parent that is gone."""

from __future__ import annotations

import os
from collections.abc import Callable

from dlcluster.errors import WorkerExit
from dlcluster.worker.environment import complain
from dlcluster.worker.pulse import Pulse
from dlcluster.worker.stopping import WARNINGS, SignalLog
from dlcluster.worker.worktime import WorkTime


class Orders:
    """Why this worker takes no further trial, and by when the one that runs must have ended."""

    def __init__(self, pulse: Pulse, signals: SignalLog, clock: WorkTime, parent: int) -> None:
        self.pulse, self.signals, self.clock, self.parent = pulse, signals, clock, parent
        self.reason = ""
        self.exit_code = WorkerExit.DONE
        self.cancelled_trial: str | None = None
        self.latest_sigterm: float | None = None  # when a trial that has not stopped by itself is ended, at the latest
        self.latest_end: float | None = None  # ... and when it is killed
        self.pass_on: Callable[[int], None] = lambda _number: None  # signals, to the other workers of the same job
        self._n_signals_seen = self._n_continued = 0
        self._was_asked = False

    def look_around(self) -> None:
        """Signals, markers, the deadline, the parent: anything that says that it is time to go."""
        self.clock.look(self._was_continued())
        self.pulse.beat_if_due()
        new_signals = self.signals.received[self._n_signals_seen :]
        self._n_signals_seen += len(new_signals)
        for number in new_signals:
            self.pass_on(number)
            self._hear(number)
        if self.pulse.markers_are_due():
            self._read_markers()
            if self.parent_is_gone():
                self.stop("stop_requested")  # nobody is left who could stop us later
        if self.clock.deadline_is_reached():
            self.stop("deadline")

    def may_go_on(self) -> bool:
        """Whether to go on with whatever takes long, after a look around."""
        self.look_around()
        return not self.reason

    def asks_to_stop(self, trial_id: str) -> bool:
        """A held sweep starts nothing new; what runs may finish."""
        return self.cancelled_trial == trial_id or self.reason not in ("", "held")

    def patience_s(self, grace_s: float) -> float:
        """A trial asked by the deadline has until shortly before the worker's time is over, any other its grace."""
        left = self.clock.seconds_to_kill()
        if left is None:
            return grace_s
        return max(0.0, left if self.reason == "deadline" else min(left, grace_s))

    def stop(self, reason: str) -> None:
        """The first reason counts; but a sweep that is held lets trials go on, and a reason to stop does not."""
        if self.reason in ("", "held"):
            self.reason = reason
            self.exit_code = WorkerExit.DONE if reason == "cancelled" else WorkerExit.INTERRUPTED

    def _cancel(self) -> None:
        """Whatever it was asked before: a trial that is saving for its deadline must not be gone on with either."""
        if self.reason != "stepd_lost":
            self.reason, self.exit_code = "cancelled", WorkerExit.DONE

    def hold(self, message: str) -> None:
        self.reason = "held"
        self.pulse.hold(message)
        complain(f"holding the sweep: {message}")

    def parent_is_gone(self) -> bool:
        return os.getppid() != self.parent

    def close(self) -> None:
        """Nothing is left running that was started to look around."""

    def _was_continued(self) -> bool:
        before, self._n_continued = self._n_continued, self.signals.n_continued
        return self._n_continued > before

    def _hear(self, number: int) -> None:
        """Whoever asks twice wants it at once; a warning, or the end of the time, is not asking."""
        if number not in WARNINGS:
            if self._was_asked:
                self.end_now()
            self._was_asked = True
        self.stop("stop_requested")

    def end_now(self) -> None:
        self.latest_sigterm = self.latest_end = self.clock.now()

    def _read_markers(self) -> None:
        markers = self.pulse.markers()
        if "cancel" in markers:
            trial = self.pulse.cancelled_trial()
            if trial is None:
                self._cancel()
            else:
                self.cancelled_trial = trial
        if "stop" in markers:
            self.stop("stop_requested")
        if self.pulse.is_held():
            self.reason = self.reason or "held"
