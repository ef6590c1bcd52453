"""Who works on an attempt that has no end record yet: from its start record, else from the workers' heartbeats."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dlcluster.journal import AttemptFacts
from dlcluster.liveness import is_alive, is_same_process
from dlcluster.run_dir import SweepDir


class Owners:
    """One look at the workers of a sweep. Make a new one for a new look.

    `job`: the job that looks, as start records have it; earlier lives of it are dead, since Slurm runs one at a time.
    Should one run on all the same (its slurmd is gone, its slurmstepd is not), the new attempt's number fences it.
    `dead`: workers whose heartbeat somebody has watched and found to stand still.
    """

    def __init__(
        self, sweep: SweepDir, job: Mapping[str, Any] | None = None, dead: Collection[str] = frozenset()
    ) -> None:
        self.sweep, self.job, self.dead = sweep, job, dead
        self.unknown: set[str] = set()  # workers that were asked about, and only another host could tell
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

    def _is_alive(self, owner: Mapping[str, Any]) -> bool | None:
        name = owner.get("worker", "")
        if name not in self._alive_by_worker:
            self._alive_by_worker[name] = alive = self._look_at(name, owner)
            if alive is None and name:
                self.unknown.add(name)
        return self._alive_by_worker[name]

    def _look_at(self, name: str, owner: Mapping[str, Any]) -> bool | None:
        if name in self.dead or (self.job and is_earlier_life(owner.get("job"), self.job)):
            return False
        alive = is_alive(owner)
        if alive is None and self._has_left(name, owner):
            return False
        return alive

    def _has_left(self, name: str, owner: Mapping[str, Any]) -> bool:
        """Whether the worker has said good-bye: it does so when all its ends are recorded, so this one was lost."""
        return any(b.get("worker") == name and b.get("ended") and is_same_process(b, owner) for b in self.beats())


def is_earlier_life(job: Any, later: Mapping[str, Any]) -> bool:
    """Whether `job` is the same job (or the same element of an array) as `later`, started fewer times."""
    if not isinstance(job, Mapping) or not isinstance(job.get("restarts"), int):
        return False
    names = ("cluster", "id") if later.get("array") is None else ("cluster", "array", "index")
    return all(job.get(name) == later.get(name) for name in names) and job["restarts"] < later["restarts"]
