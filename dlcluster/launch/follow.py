"""What a sweep is doing right now, from its files alone: the same for the command that started it and any other."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlcluster.journal import State
from dlcluster.launch.status import StateRule, TrialStatus, read_status
from dlcluster.owners import Owners
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.trial import Trial

UNFINISHED = frozenset({State.WAITING, State.PENDING, State.RUNNING, State.INTERRUPTED, State.HELD})
MAX_WAITING_IN_A_ROW = 64


@dataclass
class Progress:
    """`best` is the best objective of the finished trials, `seconds_left` an estimate or None."""

    n_wanted: int
    counts: dict[str, int] = field(default_factory=dict)
    running: list[TrialStatus] = field(default_factory=list)
    best: tuple[float, Trial] | None = None
    seconds_left: float | None = None

    @property
    def n_finished(self) -> int:
        return sum(self.counts.values())


class Follower:
    """Looks at the trials of one submission again and again, at those only that can have changed."""

    def __init__(self, sweep: SweepDir, plan: Plan, wanted: Sequence[tuple[str, int]]) -> None:
        self.sweep, self.plan = sweep, plan
        trials = {trial.id: trial for trial in plan.trials}
        self._open = {trial_id: (trials[trial_id], first) for trial_id, first in wanted}
        self.progress = Progress(len(wanted))
        objective = plan.spec["objective"]
        self._metric, self._sign = objective["metric"], 1 if objective["goal"] == "maximize" else -1
        self._began = time.monotonic()
        self.newly_finished: list[TrialStatus] = []

    def look(self) -> Progress:
        """Read what has changed. `newly_finished` are the trials that have ended since the last look."""
        rule = StateRule(self.sweep, self.plan)
        self.newly_finished = []
        running, waiting_in_a_row = [], 0
        for trial, first in list(self._open.values()):
            status = read_status(self.sweep, trial, rule)
            if status.n_attempts < first:
                waiting_in_a_row += 1
                if waiting_in_a_row > MAX_WAITING_IN_A_ROW:
                    break  # trials are taken in order: what comes later has not begun either
                continue
            waiting_in_a_row = 0
            if status.state.state is State.RUNNING:
                running.append(status)
            elif status.state.state not in UNFINISHED:
                self._finish(status)
        self.progress.running = running
        self.progress.seconds_left = self._estimate()
        return self.progress

    def unfinished(self) -> list[TrialStatus]:
        """The trials of the submission that have not come to an end."""
        rule = StateRule(self.sweep, self.plan)
        return [read_status(self.sweep, trial, rule) for trial, _first in self._open.values()]

    def _finish(self, status: TrialStatus) -> None:
        del self._open[status.trial.id]
        word = status.state.state.value
        self.progress.counts[word] = self.progress.counts.get(word, 0) + 1
        self.newly_finished.append(status)
        value = objective_of(status.last_metrics, self._metric)
        if status.state.state is State.COMPLETED and value is not None:
            best = self.progress.best
            if best is None or self._sign * value > self._sign * best[0]:
                self.progress.best = (value, status.trial)

    def _estimate(self) -> float | None:
        n = self.progress.n_finished
        if n == 0:
            return None
        return (time.monotonic() - self._began) / n * (self.progress.n_wanted - n)


def objective_of(metrics: Mapping[str, Any] | None, name: str) -> float | None:
    """The objective in a row of metrics, if it is there and finite."""
    value = (metrics or {}).get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def alive_workers(sweep: SweepDir) -> list[dict[str, Any]]:
    """The heartbeats of the workers that run now, here or on a host that cannot be asked."""
    return Owners(sweep).alive_beats()
