"""Workers on other hosts: alive if their heartbeat moves while we watch it, dead if it stands still for long enough.

Only our own clock is used: a heartbeat counts up, and the time that it says is never compared with anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from dlcluster.run_dir import SweepDir

BEATS_UNTIL_DEAD = 3


class Leases:
    """What has been seen of the heartbeats so far. `look` at them again now and then."""

    def __init__(self, sweep: SweepDir, beat_s: float, now: Callable[[], float]) -> None:
        self.sweep, self.beat_s, self._now = sweep, beat_s, now
        self._seen: dict[str, tuple[Any, float]] = {}  # the count, and when we saw it first
        self._moved: set[str] = set()
        self.dead: set[str] = set()

    def begin(self) -> None:
        """Watch anew: who moved earlier has to move again to count as alive."""
        self._moved.clear()

    def look(self, workers: Collection[str]) -> None:
        for name in workers:
            beat = self.sweep.worker(name).read_heartbeat()
            count = beat.get("seq") if isinstance(beat, dict) else None
            if name not in self._seen:
                self._seen[name] = count, self._now()
            elif count != self._seen[name][0]:
                self._seen[name] = count, self._now()
                self._moved.add(name)
            elif self._now() - self._seen[name][1] >= BEATS_UNTIL_DEAD * self.beat_s:
                self.dead.add(name)

    def undecided(self, workers: Collection[str]) -> set[str]:
        """Those that have not moved; who is found dead is one of them until that has been taken into account."""
        return set(workers) - self._moved
