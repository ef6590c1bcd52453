"""From a run directory to tables: one row a trial, one row a logged step. Offline, at any time, while trials run.

Nothing is written but the index, nothing is locked, and missing, failed and unreadable trials stay visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from dlcluster.errors import UsageError
from dlcluster.journal import State
from dlcluster.results.frames import metrics_table, trials_table
from dlcluster.results.index import Index, IndexLost, load_index, save_index
from dlcluster.results.scan import Reading, no_garbage_collection, scan
from dlcluster.results.series import Objective, stack
from dlcluster.run_dir import Plan, SweepDir, TrialDir
from dlcluster.states import StateOf

# The index is written again when at least so much has been read, so that `watch` does not write it every second.
REWRITE_FROM_BYTES, REWRITE_FROM_TRIALS = 1 << 20, 50


class Results:
    """The tables of one sweep.

    `trials`: one row a trial of the plan, in its order: sweep, trial, index, config, seed, role, state, reason,
    attempts, score, score_step, epochs, steps (logged rows that count), seconds (wall time of all attempts), snapshot,
    n_dropped, n_bad_lines, nonfinite, then `param.NAME` and `metric.NAME` (as logged last).
    `metrics`: one row a logged step: sweep, trial, attempt, step, time (s since 1970), then a column a metric.
    """

    def __init__(
        self,
        sweep: SweepDir,
        plan: Plan,
        trials: pd.DataFrame,
        warnings: Sequence[str],
        load: Callable[[], pd.DataFrame],
    ) -> None:
        self.sweep, self.plan, self.trials, self.warnings = sweep, plan, trials, list(warnings)
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


def aggregate(sweep: SweepDir, state_of: StateOf, plan: Plan | None = None, *, use_index: bool = True) -> Results:
    """Read what is new, everything without an index. Raises UsageError if there is no sweep (any more).

    `state_of` turns a trial's id and the facts of its attempts into its state; completed trials stay completed.
    """
    with no_garbage_collection():
        return _read_and_save(sweep, state_of, plan or sweep.read_plan(), use_index)


def _read_and_save(sweep: SweepDir, state_of: StateOf, plan: Plan, use_index: bool) -> Results:
    objective = Objective.of(plan.spec)
    index = load_index(sweep, objective) if use_index else Index()
    try:
        reading, results = _aggregate(sweep, plan, state_of, index, objective)
        parts = reading.series(index) if use_index and _is_worth_saving(reading, index) else None
    except IndexLost:
        index = Index()
        reading, results = _aggregate(sweep, plan, state_of, index, objective)
        parts = reading.series(index) if _is_worth_saving(reading, index) else None
    if not sweep.has_plan():
        raise UsageError(f"{sweep.path}: gone while it was being read")
    if parts is not None:
        save_index(sweep, objective, list(reading.entries.values()), parts)
    return results


def _aggregate(
    sweep: SweepDir, plan: Plan, state_of: StateOf, index: Index, objective: Objective
) -> tuple[Reading, Results]:
    reading = scan(sweep, plan, state_of, index, objective)
    trials = trials_table(sweep.name, plan.trials, reading.entries, reading.problems, state_of)

    def load() -> pd.DataFrame:
        try:
            return metrics_table(sweep.name, list(reading.entries.values()), stack(reading.series(index)))
        except IndexLost:
            return aggregate(sweep, state_of, plan, use_index=False).metrics

    return reading, Results(sweep, plan, trials, _warnings(sweep, reading, trials, objective), load)


def _is_worth_saving(reading: Reading, index: Index) -> bool:
    is_much = reading.n_bytes >= REWRITE_FROM_BYTES or reading.n_fresh >= REWRITE_FROM_TRIALS
    return is_much or bool(reading.entries and index.source is None)


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
    count = f"{_n(n_lines, 'damaged line')} skipped in {_n(len(damaged), 'trial')}"
    return f"{sweep.name}: {count}, the first in {journal} at byte {offset}"


def _foreign_warnings(sweep: SweepDir, reading: Reading) -> list[str]:
    warnings = []
    if reading.foreign:
        first = reading.foreign[0].relative_to(sweep.path)
        warnings.append(f"{sweep.name}: {_n(len(reading.foreign), 'entry')} of no trial skipped, the first is {first}")
    if reading.problems:
        problem = reading.problems[0]
        place = problem.path.relative_to(sweep.path)
        warnings.append(
            f"{sweep.name}: {_n(len(reading.problems), 'place')} not readable, the first is {place}: {problem.problem}"
        )
    if reading.gone:
        first = reading.gone[0].relative_to(sweep.path)
        warnings.append(
            f"{sweep.name}: {_n(len(reading.gone), 'trial')} read before and gone now, the first is {first}"
        )
    return warnings


def _score_warning(trials: pd.DataFrame, objective: Objective) -> str:
    """Row 61: an objective that is never reported is a mistake in the spec or in the job."""
    is_logged = trials["steps"] > 0
    name = f"metric.{objective.metric}"
    if not is_logged.any():
        return ""
    if name not in trials:
        seen = sorted(column.removeprefix("metric.") for column in trials if column.startswith("metric."))
        return f"metric {objective.metric!r} not found; seen: {', '.join(seen) or 'none'}"
    n_unranked = int((is_logged & (trials["state"] == State.COMPLETED.value) & trials["score"].isna()).sum())
    return (
        f"{_n(n_unranked, 'completed trial')} without a finite {objective.metric!r}: not ranked" if n_unranked else ""
    )


def _n(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count} {noun if count == 1 else plural}"
