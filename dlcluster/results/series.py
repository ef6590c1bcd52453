"""The metrics of a trial as columns: from records, merged over attempts, and what they say about the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = {int, float, bool, type(None)}


@dataclass(frozen=True)
class Series:
    """n rows of k metrics: `names` (k,), `step`, `time` (seconds since 1970) and `attempt` (n,), `values` (n, k).

    `present` (n, k) tells a metric that was not logged in a row (False) from one that was logged as null (NaN).
    """

    names: tuple[str, ...]
    step: NDArray[np.int64]
    time: NDArray[np.float64]
    attempt: NDArray[np.int32]
    values: NDArray[np.float64]
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def is_finite(self) -> bool:
        """Is every metric there in every row, and finite? (What is not there is NaN.)"""
        return bool(np.isfinite(self.values).all())

    def take(self, rows: Any) -> Series:
        """Some of the rows, by any numpy index."""
        return Series(
            self.names, self.step[rows], self.time[rows], self.attempt[rows], self.values[rows], self.present[rows]
        )

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values and presence (n,) of one metric; all absent if it was never logged."""
        if name not in self.names:
            return np.full(len(self), np.nan), np.zeros(len(self), dtype=bool)
        k = self.names.index(name)
        return self.values[:, k], self.present[:, k]


def series_from_records(records: Sequence[Mapping[str, Any]], attempt: int) -> Series:
    """Columns of `metrics` records of one attempt, in their order.

    Raises KeyError, TypeError, ValueError, AttributeError or OverflowError if any record is not one: see `is_valid`.
    """
    rows = [record["metrics"] for record in records]
    steps, times = [record["step"] for record in records], [record["time"] for record in records]
    flat = list(chain.from_iterable(map(dict.values, rows)))
    if not set(map(type, steps)) <= {int} or not set(map(type, times)) <= {int, float}:
        raise TypeError("a step is an integer and a time is a number")
    has_null = not _all_numbers(flat)
    layouts = _layouts(rows)
    series = _from_layouts(layouts, steps, times, attempt, np.array(flat, dtype=np.float64))
    if has_null:
        for i, record in enumerate(records):
            _put_back(series, i, record.get("nonfinite", {}))
    return series


def _all_numbers(values: Sequence[Any]) -> bool:
    """False if there are nulls too. Raises TypeError if there is anything else."""
    try:
        sum(values)  # three times faster than a look at every type
    except TypeError:
        if not set(map(type, values)) <= NUMBERS:
            raise
        return False
    return True


def _layouts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[tuple[str, ...], int]]:
    """Which metrics the rows have, and how many rows in a row have just these. Nearly always there is one layout."""
    if rows and list(chain.from_iterable(rows)) == list(rows[0]) * len(rows):  # no row can have a name twice
        return [(tuple(rows[0]), len(rows))]
    return [(names, len(list(group))) for names, group in groupby(map(tuple, rows))]


def _series(names: tuple[str, ...], steps: list[int], times: list[float], attempt: int, values: Any) -> Series:
    return Series(
        names,
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.float64),
        _filled(len(steps), attempt, np.int32),
        values,
        _filled(values.shape, True, np.bool_),
    )


@lru_cache(4)
def _filled(shape: int | tuple[int, int], value: int, kind: type) -> NDArray[Any]:
    """An array of one value that all trials of the same length share."""
    array = np.full(shape, value, dtype=kind)
    array.flags.writeable = False
    return array


def _from_layouts(
    layouts: list[tuple[tuple[str, ...], int]], steps: list[int], times: list[float], attempt: int, flat: Any
) -> Series:
    names = tuple(dict.fromkeys(name for keys, _ in layouts for name in keys))
    if len(layouts) <= 1:
        return _series(names, steps, times, attempt, flat.reshape(len(steps), len(names)))
    shape = len(steps), len(names)
    series = replace(_series(names, steps, times, attempt, np.full(shape, np.nan)), present=np.zeros(shape, dtype=bool))
    position = row = 0
    for keys, count in layouts:
        columns = [names.index(name) for name in keys]
        block = flat[position : position + count * len(keys)].reshape(count, len(keys))
        series.values[row : row + count, columns] = block
        series.present[row : row + count, columns] = True
        position, row = position + block.size, row + count
    return series


def _put_back(series: Series, row: int, words: Mapping[str, str]) -> None:
    """A null that stands for an infinity becomes one again."""
    for name, word in words.items():
        if name in series.names and word in ("inf", "-inf"):
            series.values[row, series.names.index(name)] = float(word)


ARRAYS = ("step", "time", "attempt", "values", "present")
EMPTY = _series((), [], [], 0, np.empty((0, 0)))


def is_valid(record: Mapping[str, Any]) -> bool:
    """Is this a `metrics` record that can be a row?"""
    try:
        series_from_records([record], 1)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False
    return True


def names_of(parts: Sequence[Series]) -> tuple[str, ...]:
    """The metrics of all parts, in the order in which they appear."""
    return tuple(dict.fromkeys(chain.from_iterable(part.names for part in parts)))


def stack(parts: Sequence[Series], names: tuple[str, ...] | None = None) -> Series:
    """The rows of all parts, one below the other, with the metrics of all or with these."""
    names, parts = names_of(parts) if names is None else names, parts or [EMPTY]
    if len(parts) == 1 and parts[0].names == names:
        return parts[0]
    if all(part.names == names for part in parts):
        return Series(names, *(np.concatenate([getattr(part, field) for part in parts]) for field in ARRAYS))
    n = sum(map(len, parts))
    values, present = np.full((n, len(names)), np.nan), np.zeros((n, len(names)), dtype=bool)
    columns_of: dict[tuple[str, ...], Any] = {}
    row = 0
    for part in parts:
        columns = columns_of.get(part.names)
        if columns is None:
            columns = columns_of[part.names] = _columns_in(names, part.names)
        values[row : row + len(part), columns] = part.values
        present[row : row + len(part), columns] = part.present
        row += len(part)
    step, time, attempt = (np.concatenate([getattr(part, field) for part in parts]) for field in ARRAYS[:3])
    return Series(names, step, time, attempt, values, present)


def _columns_in(names: tuple[str, ...], some: tuple[str, ...]) -> Any:
    places = [names.index(name) for name in some]
    return slice(0, len(places)) if places == list(range(len(places))) else places  # slices copy several times faster


def merge(older: Series, newer: Series, went_on_from: int | None) -> tuple[Series, int]:
    """`older` rows with those of a higher attempt over them, by step, and how many older ones were done again.

    The rule of `journal.merge_attempts`. `went_on_from` is the step that the attempt went on from; None if `newer`
    only continues an attempt whose first rows are in `older` already.
    """
    n_dropped = 0
    if went_on_from is not None and len(older):
        keep = older.step <= went_on_from
        n_dropped = len(older) - int(keep.sum())
        older = older if n_dropped == 0 else older.take(keep)
    both = newer if not len(older) else older if not len(newer) else stack([older, newer])
    return (both if (both.step[1:] > both.step[:-1]).all() else _one_row_a_step(both)), n_dropped


def _one_row_a_step(rows: Series) -> Series:
    """Sorted by step. Of a repeated step the highest attempt wins; its own rows for that step become one row."""
    rows = rows.take(np.argsort(rows.step, kind="stable"))
    starts = np.flatnonzero(np.append(True, np.diff(rows.step) > 0))
    lengths = np.diff(np.append(starts, len(rows)))
    lasts = starts + lengths - 1
    counts = rows.present & (rows.attempt == np.repeat(rows.attempt[lasts], lengths))[:, None]
    newest = np.maximum.reduceat(np.where(counts, np.arange(len(rows))[:, None], -1), starts, axis=0)
    values = np.where(newest >= 0, np.take_along_axis(rows.values, np.maximum(newest, 0), axis=0), np.nan)
    return Series(rows.names, rows.step[lasts], rows.time[lasts], rows.attempt[lasts], values, newest >= 0)


@dataclass(frozen=True)
class Objective:
    """What ranks trials. `at` is "last" or "best"; `skips_nonfinite`: rows with a non-finite loss do not count."""

    metric: str
    goal: str = "minimize"
    at: str = "last"
    skips_nonfinite: bool = False

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Objective:
        given = spec.get("objective") or {}
        return cls(
            given.get("metric", ""),
            given.get("goal", "minimize"),
            given.get("at", "last"),
            spec.get("on_nonfinite") == "stop",
        )

    @property
    def maximizes(self) -> bool:
        return self.goal == "maximize"


def score_of(series: Series, objective: Objective) -> tuple[float, int] | None:
    """The score of a trial and the step it belongs to; None if there is none that is finite."""
    values, usable = series.column(objective.metric)
    if objective.at == "last" and series.is_finite and len(series) and objective.metric in series.names:
        return float(values[-1]), int(series.step[-1])
    if objective.skips_nonfinite:
        usable = usable & ~_grave_rows(series, objective.metric)
    if objective.at == "best":
        usable = usable & np.isfinite(values)
    rows = np.flatnonzero(usable)
    if not len(rows):
        return None
    row = rows[-1]
    if objective.at == "best":
        row = rows[np.argmax(values[rows]) if objective.maximizes else np.argmin(values[rows])]
    return (float(values[row]), int(series.step[row])) if np.isfinite(values[row]) else None


def _grave_rows(series: Series, metric: str) -> NDArray[np.bool_]:
    """Rows in which the objective or a loss is not finite: those at which a worker ends a trial as diverged."""
    grave = [k for k, name in enumerate(series.names) if name == metric or "loss" in name.lower()]
    return (series.present[:, grave] & ~np.isfinite(series.values[:, grave])).any(axis=1)


def last_values(series: Series) -> dict[str, float | None]:
    """Each metric as it was when it was logged last; None if it was not finite then."""
    if series.is_finite and len(series):
        return dict(zip(series.names, series.values[-1].tolist(), strict=True))
    if len(series) and series.present[-1].all():
        row = series.values[-1].tolist()
    else:
        last = (len(series) - 1 - np.argmax(series.present[::-1], axis=0)) if len(series) else []
        row = [float(series.values[i, k]) for k, i in enumerate(last)]
    return {name: value if abs(value) < np.inf else None for name, value in zip(series.names, row, strict=True)}


def has_nonfinite(series: Series) -> bool:
    return not series.is_finite and bool((series.present & ~np.isfinite(series.values)).any())
