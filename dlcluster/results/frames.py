"""What was read, as tables: a row a trial, a row a logged step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dlcluster.journal import State
from dlcluster.results.index import TrialEntry
from dlcluster.results.reading import Unreadable
from dlcluster.results.series import Series
from dlcluster.states import StateOf
from dlcluster.trial import Trial

FIXED_COLUMNS = ("sweep", "trial", "attempt", "step", "time")


def trials_table(
    sweep: str,
    trials: Sequence[Trial],
    known: Mapping[str, TrialEntry],
    problems: Sequence[Unreadable],
    state_of: StateOf,
) -> pd.DataFrame:
    """One row a trial of the plan, in its order; those that left nothing behind have the state of none."""
    entries = [known.get(trial.id) or _nothing(trial, problems, state_of) for trial in trials]
    columns: dict[str, Any] = {
        "sweep": pd.Series([sweep] * len(trials), dtype="str"),
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


def _nothing(trial: Trial, problems: Sequence[Unreadable], state_of: StateOf) -> TrialEntry:
    waiting = state_of(trial.id, ())
    state, reason = waiting.state.value, waiting.reason
    for problem in problems:
        if trial.id in problem.path.parts or problem.path.name in ("trials", trial.shard):
            state, reason = State.UNREADABLE.value, problem.problem
    return TrialEntry(trial.id, (), 0, 0, 0.0, "", None, None, {}, False, 0, None, state, reason)


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


def metrics_table(sweep: str, entries: Sequence[TrialEntry], rows: Series) -> pd.DataFrame:
    """One row a logged step; `rows` are those of the entries, in their order."""
    codes = np.repeat(np.arange(len(entries), dtype=np.int32), [entry.n_rows for entry in entries])
    columns: dict[str, Any] = {
        "sweep": pd.Categorical.from_codes(np.zeros(len(rows), dtype=np.int8), pd.Index([sweep], dtype="str")),
        "trial": pd.Categorical.from_codes(codes, pd.Index([entry.id for entry in entries], dtype="str")),
        "attempt": rows.attempt,
        "step": rows.step,
        "time": rows.time,
    }
    for k, name in enumerate(rows.names):
        columns[f"metric.{name}" if name in FIXED_COLUMNS else name] = rows.values[:, k]
    return pd.DataFrame(columns)
