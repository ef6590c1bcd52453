"""What a sweep has cost and will cost: hours spent, hours wasted, time left. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcluster.journal import AttemptFacts, State
from dlcluster.states import progress_of

USEFUL = (State.COMPLETED.value, State.STOPPED.value)


@dataclass(frozen=True)
class Usage:
    """Hours of `unit` (GPUs, or trials where none was asked for)."""

    spent: float
    wasted: float
    unit: str

    def text(self) -> str:
        if self.spent <= 0:
            return ""
        wasted = (
            f", {_hours(self.wasted)} of them wasted (failed, cancelled, or to be done again)" if self.wasted else ""
        )
        return f"{_hours(self.spent)} {self.unit}-hours spent{wasted}"


def _hours(hours: float) -> str:
    return f"{hours:.3g}" if hours < 100 else f"{hours:,.0f}"


def seconds_of(attempt: AttemptFacts) -> float:
    """Wall time of an attempt; of one without an end, up to the last row that it logged."""
    if attempt.end is not None:
        return float(attempt.end.get("seconds") or 0.0)
    if attempt.start is None or attempt.last_metrics is None:
        return 0.0
    return max(0.0, attempt.last_metrics.get("time", 0.0) - attempt.start.get("time", 0.0))


def wasted_seconds(attempts: Sequence[AttemptFacts]) -> float:
    """Of attempts that brought nothing: they failed or were cancelled, or got no further than those before."""
    wasted, best = 0.0, 0
    for attempt in attempts:
        step = progress_of(attempt)
        went_on = step > best or (attempt.end is not None and attempt.end["state"] in USEFUL)
        is_lost = attempt.end is not None and attempt.end["state"] in (State.FAILED.value, State.CANCELLED.value)
        if is_lost or (not went_on and attempt.end is not None):
            wasted += seconds_of(attempt)
        best = max(best, step)
    return wasted


def usage_of(seconds: Iterable[tuple[float, float]], launch: Mapping[str, Any]) -> Usage:
    """From (spent, wasted) seconds of trials, and what a trial gets."""
    gpus = (launch.get("gpus") or 0) * launch.get("nodes", 1)
    share = gpus / launch.get("trials_per_gpu", 1) if gpus else 1.0
    pairs = list(seconds)
    spent, wasted = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return Usage(share * spent / 3600, share * wasted / 3600, "GPU" if gpus else "trial")


def seconds_left(finished: Sequence[float], n_left: int, at_once: int) -> float | None:
    """How long the rest will take by the median of what has finished; None if nothing has."""
    if not finished or not n_left:
        return None
    return statistics.median(finished) * -(-n_left // max(1, at_once))
