"""`canary: true`: until one trial of the submission has completed, only one worker works, and the others wait."""

from __future__ import annotations

from collections.abc import Collection

from dlcluster.owners import Owners
from dlcluster.worker.pulse import Pulse, has_completed

LOOK_S = 2.0  # and a tenth of a second for every other worker, whose heartbeats are all read


class Canary:
    """Who works says so in its heartbeat before it claims; of two that say it at once, the first by name goes on."""

    def __init__(self, pulse: Pulse, is_wanted: bool) -> None:
        self.pulse = pulse
        self._is_over = not is_wanted
        self.look_s = LOOK_S
        self.unknown: set[str] = set()  # whom we wait for, not knowing whether they are alive

    def must_wait(self, dead: Collection[str] = ()) -> bool:
        """Whether another worker is at the first trial. Once one trial has completed, nobody waits any more."""
        if self._is_over:
            return False
        beats = self.pulse.beats_of_fellows()
        self._is_over = any(map(has_completed, beats))
        self.look_s = LOOK_S + len(beats) / 10
        return not self._is_over and bool(self._at_work(dead))

    def must_stand_back(self, dead: Collection[str] = ()) -> bool:
        """Said that we work, is there another that has said it too and goes first?"""
        return not self._is_over and any(name < self.pulse.name for name in self._at_work(dead))

    @property
    def is_over(self) -> bool:
        return self._is_over

    def _at_work(self, dead: Collection[str]) -> list[str]:
        owners = Owners(self.pulse.sweep, dead=dead)
        own, beats = self.pulse.name, owners.alive_beats()
        self.unknown = owners.unknown
        fellows = [b for b in beats if b.get("submission") == self.pulse.submission and b.get("worker") != own]
        return [b["worker"] for b in fellows if b.get("current")]
