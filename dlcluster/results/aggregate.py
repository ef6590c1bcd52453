"""From a run directory to tables: one row a trial, one row a logged step. Offline, at any time, while trials run.

Nothing is written but the index, nothing is locked, and missing, failed and unreadable trials stay visible.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlcluster.errors import UsageError
from dlcluster.journal import AttemptFacts, State, TrialState
from dlcluster.results.index import Index, IndexLost, TrialEntry, entry_of, load_index, save_index
from dlcluster.results.reading import Unreadable, list_attempts, read_on, read_trial, stat_journal
from dlcluster.results.series import EMPTY, Objective, Series, stack
from dlcluster.run_dir import Plan, SweepDir, TrialDir
from dlcluster.trial import Trial

StateOf = Callable[[Sequence[AttemptFacts]], TrialState]
UNREADABLE = "unreadable"  # the one state of the table that is not in `journal.State`
# The index is written again when at least so much has been read, so that `watch` does not write it every second.
REWRITE_FROM_BYTES, REWRITE_FROM_TRIALS = 1 << 20, 50


@dataclass
class Reading:
    """What one pass over a run directory found. `fresh` holds the metrics of trials that the index does not know."""

    entries: dict[str, TrialEntry] = field(default_factory=dict)
    fresh: dict[str, Series] = field(default_factory=dict)
    n_bytes: int = 0
    problems: list[Unreadable] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)


class Results:
    """The tables of one sweep (or of several, see `join`).

    `trials`: one row a trial of the plan, in its order: sweep, trial, index, config, seed, role, state, reason,
    attempts, score, score_step, epochs, steps (logged rows that count), seconds (wall time of all attempts), snapshot,
    n_dropped, n_bad_lines, nonfinite, then `param.NAME` and `metric.NAME` (as logged last).
    `metrics`: one row a logged step: sweep, trial, attempt, step, time (s since 1970), then a column a metric.
    """

    def __init__(
        self, sweeps: Sequence[SweepDir], trials: pd.DataFrame, warnings: Sequence[str], load: Callable[[], pd.DataFrame]
    ) -> None:
        self.sweeps, self.trials, self.warnings = tuple(sweeps), trials, list(warnings)
        self._load, self._metrics = load, None

    @property
    def metrics(self) -> pd.DataFrame:
        """All logged steps, loaded when they are first asked for."""
        if self._metrics is None:
            self._metrics = self._load()
        return self._metrics

    @property
    def has_damage(self) -> bool:
        """Were there complete lines that are no records?"""
        return bool(self.trials["n_bad_lines"].sum())


def aggregate(sweep: SweepDir, state_of: StateOf, *, use_index: bool = True) -> Results:
    """Read what is new, from the journals alone if there is no index. Raises UsageError if there is no sweep (any more).

    `state_of` turns the facts of a trial's attempts into its state; it is not asked about completed trials again.
    """
    plan = sweep.read_plan()
    objective = Objective.of(plan.spec)
    index = load_index(sweep, objective) if use_index else Index()
    try:
        reading, results = _aggregate(sweep, plan, state_of, index, objective)
        rows = _rows_to_save(plan, reading, index) if use_index else None
    except IndexLost:
        index = Index()
        reading, results = _aggregate(sweep, plan, state_of, index, objective)
        rows = _rows_to_save(plan, reading, index)
    if not sweep.has_plan():
        raise UsageError(f"{sweep.path}: gone while it was being read")
    if rows is not None:
        save_index(sweep, objective, _in_plan_order(plan, reading), rows)
    return results


def _aggregate(
    sweep: SweepDir, plan: Plan, state_of: StateOf, index: Index, objective: Objective
) -> tuple[Reading, Results]:
    with _no_garbage_collection():
        reading = _read(sweep, plan, state_of, index, objective)
    trials = _trials_table(sweep.name, plan, reading, state_of)

    def load() -> pd.DataFrame:
        try:
            return _metrics_table(sweep.name, plan, reading, index)
        except IndexLost:
            return aggregate(sweep, state_of, use_index=False).metrics

    return reading, Results([sweep], trials, _warnings(sweep, reading, trials, objective), load)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of short-lived records without a cycle: looking for cycles took a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# -- reading ------------------------------------------------------------------------------------------------------


def _read(sweep: SweepDir, plan: Plan, state_of: StateOf, index: Index, objective: Objective) -> Reading:
    reading = Reading()
    on_disk = _list_trials(sweep, plan, reading)
    for trial in plan.trials:
        known = index.entries.get(trial.id)
        if trial.id not in on_disk:
            if known and known.marks:
                reading.gone.append(sweep.trial(trial).path)
            continue
        try:
            _read_one(reading, sweep.trial(trial), trial.id, known, index, objective)
        except Unreadable as problem:
            reading.problems.append(problem)
            continue
        entry = reading.entries[trial.id]
        if not entry.is_final:
            entry.set_state(state_of([mark.facts() for mark in entry.marks]))
    return reading


def _read_one(
    reading: Reading, trial: TrialDir, trial_id: str, known: TrialEntry | None, index: Index, objective: Objective
) -> None:
    """Put the trial's entry into the reading, and its metrics if they are not those of the index."""
    if known and known.is_final and _has_same_end(trial, known):
        reading.entries[trial_id] = known
        return
    attempts = list_attempts(trial)
    if known is None or known.is_final:
        new = read_trial(trial, attempts)
    elif len(attempts) == len(known.marks) and all(
        mark.number == attempt.number and mark.is_unchanged(stat_journal(attempt))
        for mark, attempt in zip(known.marks, attempts, strict=True)
    ):
        reading.entries[trial_id] = known
        return
    else:
        new = read_on(known.reading(index.series(known)), trial, attempts)
    reading.entries[trial_id] = entry_of(trial_id, new, objective)
    reading.fresh[trial_id] = new.series
    reading.n_bytes += new.n_bytes


def _has_same_end(trial: TrialDir, known: TrialEntry) -> bool:
    last = known.marks[-1]
    now = stat_journal(trial.attempt(last.number))
    return now is not None and last.is_unchanged(now)


def _list_trials(sweep: SweepDir, plan: Plan, reading: Reading) -> set[str]:
    """The ids of the trials that have a folder: one scandir a shard. Everything else there is noted as foreign."""
    expected: dict[str, set[str]] = {}
    for trial in plan.trials:
        expected.setdefault(trial.shard, set()).add(trial.id)
    on_disk: set[str] = set()
    for shard in _folders(sweep.trials_dir, expected, reading):
        on_disk |= _folders(sweep.trials_dir / shard, expected[shard], reading)
    return on_disk


def _folders(path: Path, expected: Iterable[str], reading: Reading) -> set[str]:
    """Names of the expected real folders below a path."""
    try:
        with os.scandir(path) as entries:
            kinds = {e.name: e.is_dir(follow_symlinks=False) for e in entries if not e.name.startswith(".")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        reading.problems.append(Unreadable(path, error.strerror or "unreadable"))
        return set()
    found = {name for name in expected if kinds.get(name)}
    reading.foreign += [path / name for name in sorted(kinds.keys() - found)]
    return found


# -- the index ----------------------------------------------------------------------------------------------------


def _in_plan_order(plan: Plan, reading: Reading) -> list[TrialEntry]:
    return [reading.entries[trial.id] for trial in plan.trials if trial.id in reading.entries]


def _rows_to_save(plan: Plan, reading: Reading, index: Index) -> Series | None:
    """The metrics for a new index, or None if the old one is still good enough."""
    is_worth_it = reading.n_bytes >= REWRITE_FROM_BYTES or len(reading.fresh) >= REWRITE_FROM_TRIALS
    if is_worth_it or (reading.entries and index.source is None):
        return _all_rows(plan, reading, index)
    return None


def _all_rows(plan: Plan, reading: Reading, index: Index) -> Series:
    return stack([_series_of(entry, reading, index) for entry in _in_plan_order(plan, reading)])


def _series_of(entry: TrialEntry, reading: Reading, index: Index) -> Series:
    series = reading.fresh.get(entry.id)
    return index.series(entry) if series is None else series


# -- tables -------------------------------------------------------------------------------------------------------


def _trials_table(sweep_name: str, plan: Plan, reading: Reading, state_of: StateOf) -> pd.DataFrame:
    trials = plan.trials
    entries = [reading.entries.get(trial.id) or _nothing(trial.id) for trial in trials]
    unreadable = {problem.path.parts: problem.problem for problem in reading.problems}
    waiting = state_of(())
    for trial, entry in zip(trials, entries, strict=True):
        if not entry.state:
            problem = _problem_of(trial, unreadable)
            entry.state, entry.reason = (UNREADABLE, problem) if problem else (waiting.state.value, waiting.reason)
    columns: dict[str, Any] = {
        "sweep": pd.Series([sweep_name] * len(trials), dtype="str"),
        "trial": pd.Series([trial.id for trial in trials], dtype="str"),
        "index": np.array([trial.index for trial in trials], dtype=np.int64),
        "config": pd.Series([trial.config for trial in trials], dtype="str"),
        "seed": np.array([trial.seed for trial in trials], dtype=np.int64),
        "role": pd.Series([trial.role for trial in trials], dtype="str"),
        **_entry_columns(entries),
        **_mapping_columns("param.", [trial.params for trial in trials]),
        **_metric_columns(entries),
    }
    return pd.DataFrame(columns)


def _entry_columns(entries: Sequence[TrialEntry]) -> dict[str, Any]:
    return {
        "state": pd.Series([entry.state for entry in entries], dtype="str"),
        "reason": pd.Series([entry.reason for entry in entries], dtype="str"),
        "attempts": np.array([len(entry.marks) for entry in entries], dtype=np.int64),
        "score": np.array([entry.score for entry in entries], dtype=np.float64),
        "score_step": pd.array([entry.score_step for entry in entries], dtype="Int64"),
        "epochs": np.array([entry.last.get("epoch") for entry in entries], dtype=np.float64),
        "steps": np.array([entry.n_rows for entry in entries], dtype=np.int64),
        "seconds": np.array([entry.seconds for entry in entries], dtype=np.float64),
        "snapshot": pd.Series([entry.snapshot for entry in entries], dtype="str"),
        "n_dropped": np.array([entry.n_dropped for entry in entries], dtype=np.int64),
        "n_bad_lines": np.array([entry.n_bad_lines for entry in entries], dtype=np.int64),
        "nonfinite": np.array([entry.nonfinite for entry in entries], dtype=bool),
    }


def _nothing(trial_id: str) -> TrialEntry:
    return TrialEntry(trial_id, [], 0, 0, 0.0, "", None, None, {}, False, 0, None)


def _problem_of(trial: Trial, unreadable: Mapping[tuple[str, ...], str]) -> str:
    for parts, problem in unreadable.items():
        if trial.id in parts or parts[-1] in ("trials", trial.shard):
            return problem
    return ""


def _mapping_columns(prefix: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A column a key; columns with anything but plain numbers, or with gaps, keep their Python objects."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = set(map(type, values))
        is_plain = kinds in ({int}, {float}, {bool}) and max(map(abs, values)) < 2**63
        columns[prefix + name] = values if is_plain else pd.Series(values, dtype=object)
    return columns


def _metric_columns(entries: Sequence[TrialEntry]) -> dict[str, Any]:
    names = dict.fromkeys(name for entry in entries for name in entry.last)
    return {f"metric.{name}": np.array([e.last.get(name) for e in entries], dtype=np.float64) for name in names}


FIXED_COLUMNS = ("sweep", "trial", "attempt", "step", "time")


def _metrics_table(sweep_name: str, plan: Plan, reading: Reading, index: Index) -> pd.DataFrame:
    rows = _all_rows(plan, reading, index) if reading.entries else EMPTY
    entries = _in_plan_order(plan, reading)
    codes = np.repeat(np.arange(len(entries), dtype=np.int32), [entry.n_rows for entry in entries])
    columns: dict[str, Any] = {
        "sweep": pd.Categorical.from_codes(np.zeros(len(rows), dtype=np.int8), pd.Index([sweep_name], dtype="str")),
        "trial": pd.Categorical.from_codes(codes, pd.Index([entry.id for entry in entries], dtype="str")),
        "attempt": rows.attempt,
        "step": rows.step,
        "time": rows.time,
    }
    for k, name in enumerate(rows.names):
        columns[f"metric.{name}" if name in FIXED_COLUMNS else name] = rows.values[:, k]
    return pd.DataFrame(columns)


# -- what is not right --------------------------------------------------------------------------------------------


def _warnings(sweep: SweepDir, reading: Reading, trials: pd.DataFrame, objective: Objective) -> list[str]:
    warnings = [_damage_warning(sweep, reading), *_foreign_warnings(sweep, reading), _score_warning(trials, objective)]
    return [warning for warning in warnings if warning]


def _damage_warning(sweep: SweepDir, reading: Reading) -> str:
    damaged = [entry for entry in reading.entries.values() if entry.n_bad_lines and entry.first_bad]
    if not damaged:
        return ""
    n_lines, (number, offset) = sum(entry.n_bad_lines for entry in damaged), damaged[0].first_bad or (0, 0)
    place = next(sweep.trials_dir.glob(f"*/{damaged[0].id}"), sweep.trials_dir)
    journal = TrialDir(place).attempt(number).journal.relative_to(sweep.path)
    return f"{sweep.name}: {_n(n_lines, 'damaged line')} skipped in {_n(len(damaged), 'trial')}, the first in {journal} at byte {offset}"


def _foreign_warnings(sweep: SweepDir, reading: Reading) -> list[str]:
    warnings = []
    if reading.foreign:
        first = reading.foreign[0].relative_to(sweep.path)
        warnings.append(f"{sweep.name}: {_n(len(reading.foreign), 'entry')} of no trial skipped, the first is {first}")
    if reading.problems:
        problem = reading.problems[0]
        place = problem.path.relative_to(sweep.path)
        warnings.append(f"{sweep.name}: {_n(len(reading.problems), 'place')} not readable, the first is {place}: {problem.problem}")
    if reading.gone:
        first = reading.gone[0].relative_to(sweep.path)
        warnings.append(f"{sweep.name}: {_n(len(reading.gone), 'trial')} read before and gone now, the first is {first}")
    return warnings


def _score_warning(trials: pd.DataFrame, objective: Objective) -> str:
    """Row 61: an objective that is never reported is a mistake in the spec or in the job."""
    logged = trials[trials["steps"] > 0]
    name = f"metric.{objective.metric}"
    if not len(logged):
        return ""
    if name not in trials:
        seen = sorted(column.removeprefix("metric.") for column in trials if column.startswith("metric."))
        return f"metric {objective.metric!r} not found; seen: {', '.join(seen) or 'none'}"
    n_unranked = int(((logged["state"] == State.COMPLETED.value) & logged["score"].isna()).sum())
    return f"{_n(n_unranked, 'completed trial')} without a finite {objective.metric!r}: not ranked" if n_unranked else ""


def _n(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count} {noun if count == 1 else plural}"


def join(results: Sequence[Results]) -> Results:
    """Several sweeps below one another, keyed by (sweep, trial); folders of one name are told apart by their parents."""
    names = _distinct_names([result.sweeps[0].path for result in results])

    def renamed(table: pd.DataFrame, name: str) -> pd.DataFrame:
        return table.assign(sweep=pd.Series([name] * len(table), index=table.index, dtype="str"))

    def load() -> pd.DataFrame:
        tables = [renamed(result.metrics, name).astype({"trial": "str"}) for result, name in zip(results, names, strict=True)]
        return pd.concat(tables, ignore_index=True)

    trials = [renamed(result.trials, name) for result, name in zip(results, names, strict=True)]
    warnings = [warning for result in results for warning in result.warnings]
    return Results([s for r in results for s in r.sweeps], pd.concat(trials, ignore_index=True), warnings, load)


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name}#{i}" for i, path in enumerate(paths, 1)]
