"""The journal of an attempt: its records, what they say about a trial, and the words for it.

Records of a journal, one a line, each with `kind` and `time` (seconds since 1970):
    start       trial, config, seed, params, attempt, worker, host, boot, pid_namespace, pid, pid_start, submission,
                snapshot (null: live code), command (true, for a program), job (id, index, restarts: under Slurm)
    resume      step: the step of the checkpoint that this attempt went on from (0: from the beginning), file
    metrics     step, metrics {name: number or null}, nonfinite {name: "nan" | "inf" | "-inf"} where there are any
    checkpoint  step, file, bytes, sha256
    note        message
    end         state, reason, message, seconds, peak_rss_mb, exit; in a job there may be a second one, written when it
                is known why the worker was ended: the newest counts
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dlcluster.files import Damage


class State(str, Enum):
    """How a trial stands. Only the first four can change without somebody asking for it."""

    WAITING = "waiting"
    PENDING = "pending"  # a job that the scheduler knows will run it, or go on with it
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # goes on from its last checkpoint with the next `sweep` or `resume`
    HELD = "held"  # not started, because other trials failed in the same way
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNREADABLE = "unreadable"  # no permission, a disk error: nothing is known, so nothing is decided


@dataclass(frozen=True)
class TrialState:
    """`in_queue`: a job for it lies in the scheduler's queue, even if that job will not start by itself."""

    state: State
    reason: str = ""
    in_queue: bool = False

    def __str__(self) -> str:
        return f"{self.state.value} ({self.reason})" if self.reason else self.state.value


@dataclass(frozen=True)
class AttemptFacts:
    """What an attempt's journal says: the raw material of a state. `committed_step` is 0 without a checkpoint."""

    number: int
    start: Mapping[str, Any] | None
    end: Mapping[str, Any] | None
    last_metrics: Mapping[str, Any] | None
    committed_step: int

    @property
    def is_completed(self) -> bool:
        return self.end is not None and self.end["state"] == State.COMPLETED.value


STATES = tuple(state.value for state in State)


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether a record has what the readers of its kind rely on. One that has not counts as damage."""
    match row.get("kind"):
        case "metrics":
            return type(row.get("step")) is int and isinstance(row.get("metrics"), dict)
        case "resume" | "checkpoint":
            return type(row.get("step")) is int
        case "end":
            return row.get("state") in STATES and isinstance(row.get("reason", ""), str)
        case kind:
            return isinstance(kind, str)


def facts_from_rows(number: int, rows: Iterable[Mapping[str, Any]]) -> AttemptFacts:
    """The facts of an attempt from its records, in the order in which they were written."""
    newest: dict[str, Mapping[str, Any]] = {}
    for row in filter(is_sound, rows):
        newest[row["kind"]] = row
    checkpoint = newest.get("checkpoint", {})
    return AttemptFacts(
        number, newest.get("start"), newest.get("end"), newest.get("metrics"), checkpoint.get("step", 0)
    )


@dataclass
class History:
    """`metrics` are the rows that count, by step; `n_dropped` rows of older attempts were done again later."""

    metrics: list[dict[str, Any]]
    n_dropped: int
    damages: list[Damage] = field(default_factory=list)


def merge_attempts(rows_by_attempt: Mapping[int, Iterable[Mapping[str, Any]]], damages: list[Damage]) -> History:
    """One series of metrics from the records of all attempts.

    An attempt that went on from step s replaces everything older attempts had logged after s; for a repeated step the
    highest attempt wins, and within an attempt the rows of one step are one row. An attempt that died before it logged
    or resumed anything replaces nothing.
    """
    by_step: dict[int, dict[str, Any]] = {}
    n_dropped = 0
    for number in sorted(rows_by_attempt):
        went_on_from: int | None = None
        for row in rows_by_attempt[number]:
            kind = row.get("kind")
            if kind not in ("resume", "metrics") or not is_sound(row):
                continue
            if went_on_from is None:
                went_on_from = row["step"] if kind == "resume" else 0
                again = [step for step in by_step if step > went_on_from]
                n_dropped += len(again)
                for step in again:
                    del by_step[step]
            if kind == "metrics":
                by_step[row["step"]] = _joined(by_step.get(row["step"]), {**row, "attempt": number})
    return History([by_step[step] for step in sorted(by_step)], n_dropped, damages)


def _joined(earlier: dict[str, Any] | None, row: dict[str, Any]) -> dict[str, Any]:
    """Two rows of one attempt for one step, say one for training and one for validation, as a single row."""
    if earlier is None or earlier["attempt"] != row["attempt"]:
        return row
    joined = {**earlier, **row, "metrics": {**earlier["metrics"], **row["metrics"]}}
    nonfinite = {k: v for k, v in earlier.get("nonfinite", {}).items() if k not in row["metrics"]}
    nonfinite.update(row.get("nonfinite", {}))
    joined.pop("nonfinite", None)
    return {**joined, "nonfinite": nonfinite} if nonfinite else joined
