"""What `dlcluster doctor` found: one sentence each, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    NOTE = "note"  # worth knowing; nothing has to be done
    WARNING = "warning"  # sweeps run, but something will be lost or refused sooner or later
    PROBLEM = "problem"  # sweeps cannot run like this


@dataclass(frozen=True)
class Finding:
    """`topic` groups findings on the screen; `name` stays the same from version to version, for machines."""

    level: Level
    topic: str
    name: str
    found: str
    advice: str = ""


class Topic:
    """Makes the findings of one topic: `ok("python", "3.11")`, `problem("space", "3 MiB free", "free some space")`."""

    def __init__(self, topic: str) -> None:
        self.ok, self.note = self._maker(topic, Level.OK), self._maker(topic, Level.NOTE)
        self.warning, self.problem = self._maker(topic, Level.WARNING), self._maker(topic, Level.PROBLEM)

    @staticmethod
    def _maker(topic: str, level: Level) -> Callable[..., Finding]:
        def make(name: str, found: str, advice: str = "") -> Finding:
            return Finding(level, topic, name, found, advice)

        return make


def worst(findings: Sequence[Finding]) -> Level:
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
