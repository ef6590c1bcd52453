"""Who works on an attempt that has no end record yet: from its start record, else from the workers' heartbeats."""

from __future__ import annotations

from typing import Any

from dlcluster.journal import AttemptFacts
from dlcluster.liveness import is_alive
from dlcluster.run_dir import SweepDir


class Owners:
    """One look at the workers of a sweep. Make a new one for a new look."""

    def __init__(self, sweep: SweepDir) -> None:
        self.sweep = sweep
        self._beats: list[dict[str, Any]] | None = None
        self._alive_by_worker: dict[str, bool | None] = {}

    def alive(self, trial_id: str, facts: AttemptFacts) -> bool | None:
        """Whether the attempt's worker still runs; None if only another host could tell."""
        if facts.start is not None:
            return self._is_alive(facts.start)
        claimants = [self._is_alive(b) for b in self.beats() if b.get("current") == [trial_id, facts.number]]
        if True in claimants:  # several may have announced the same claim; one of them has made it
            return True
        return None if None in claimants else False  # claimed, and its worker died before the first record

    def beats(self) -> list[dict[str, Any]]:
        if self._beats is None:
            found = (worker.read_heartbeat() for worker in self.sweep.workers())
            self._beats = [beat for beat in found if isinstance(beat, dict)]
        return self._beats

    def alive_beats(self) -> list[dict[str, Any]]:
        """The heartbeats of the workers that run, or may run on another host."""
        return [b for b in self.beats() if not b.get("ended") and self._is_alive(b) is not False]

    def _is_alive(self, owner: Any) -> bool | None:
        name = owner.get("worker", "")
        if name not in self._alive_by_worker:
            self._alive_by_worker[name] = is_alive(owner)
        return self._alive_by_worker[name]
