"""Whether it is still worth starting a trial: how long the earlier ones of this worker took to something that lasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcluster.journal import State

N_REMEMBERED = 32


class Forecast:
    def __init__(self) -> None:
        self._needed: list[float] = []

    def note(self, outcome: Mapping[str, Any]) -> None:
        """A trial has ended: what counts is the time to its first checkpoint, else to its end, if it came to it."""
        needed = outcome.get("first_save_s")
        if needed is not None:
            needed = min(needed, outcome["seconds"])  # the trial does not know of time in which it was suspended
        elif outcome["state"] in (State.COMPLETED.value, State.STOPPED.value):
            needed = outcome["seconds"]
        if needed is not None:
            self._needed = [*self._needed, needed][-N_REMEMBERED:]

    def needed_s(self) -> float:
        """What half of the trials needed at most; 0 if nothing is known."""
        return sorted(self._needed)[(len(self._needed) - 1) // 2] if self._needed else 0.0
