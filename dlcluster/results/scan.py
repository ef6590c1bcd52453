"""One pass over a run directory: what is new is read from the journals, the rest is known from the index."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dlcluster.results.index import Index, TrialEntry, entry_of
from dlcluster.results.pile import Pile
from dlcluster.results.reading import Unreadable, list_journals, read_on, read_trial, stat_journal
from dlcluster.results.series import Objective, Series
from dlcluster.run_dir import Plan, SweepDir, TrialDir
from dlcluster.states import StateOf


@dataclass
class Reading:
    """What one pass over a run directory found.

    `entries` are in the order of the plan; `fresh` are, in the same order, the metrics of those that the index does not
    have.
    """

    entries: dict[str, TrialEntry] = field(default_factory=dict)
    fresh: Pile = field(default_factory=Pile)
    n_fresh: int = 0
    n_bytes: int = 0
    problems: list[Unreadable] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)

    def series(self, index: Index) -> list[Series]:
        """The metrics of all entries, in their order and in few parts. Raises IndexLost."""
        parts, n_fresh = list[Series](), 0
        run, first, end = self.fresh, 0, 0
        for entry in self.entries.values():
            is_known = index.entries.get(entry.id) is entry
            pile, at = index.place(entry) if is_known else (self.fresh, n_fresh)
            n_fresh += 0 if is_known else entry.n_rows
            if pile is not run or at != end:
                parts += run.take(first, end)
                run, first = pile, at
            end = at + entry.n_rows
        return [*parts, *run.take(first, end)]


def scan(sweep: SweepDir, plan: Plan, state_of: StateOf, index: Index, objective: Objective) -> Reading:
    """Every trial of the plan that has left something behind. Raises IndexLost."""
    reading = Reading()
    folders = _list_trials(sweep, plan, reading)
    for trial in {trial.id: trial for trial in plan.trials}.values():  # the order of `fresh` needs each of them once
        known = index.entries.get(trial.id)
        shard = folders.get(trial.id)
        if shard is None:
            if known and known.marks:
                reading.gone.append(sweep.trial(trial).path)
            continue
        try:
            _read_one(reading, f"{shard}/{trial.id}", trial.id, index, objective)
        except Unreadable as problem:
            reading.problems.append(problem)
            continue
        entry = reading.entries[trial.id]
        if not entry.is_final:
            entry.set_state(state_of(trial.id, [mark.facts() for mark in entry.marks]))
    return reading


def _read_one(reading: Reading, folder: str, trial_id: str, index: Index, objective: Objective) -> None:
    """Put the trial's entry into the reading, and its metrics if they are not those of the index."""
    known = index.entries.get(trial_id)
    if known and known.is_final and _has_same_end(folder, known):
        reading.entries[trial_id] = known
        return
    journals = list_journals(folder)
    if known is None or known.is_final:
        new = read_trial(journals)
    elif len(journals) == len(known.marks) and all(
        mark.number == journal.number and mark.is_unchanged(stat_journal(journal))
        for mark, journal in zip(known.marks, journals, strict=True)
    ):
        reading.entries[trial_id] = known
        return
    else:
        new = read_on(known.reading(index.series(known)), journals)
    reading.entries[trial_id] = entry_of(trial_id, new, objective)
    reading.fresh.add(new.series)
    reading.n_fresh += 1
    reading.n_bytes += new.n_bytes


def _has_same_end(folder: str, known: TrialEntry) -> bool:
    """One look at the newest journal."""
    last = known.marks[-1]
    try:
        now = os.stat(f"{folder}/{_journal_of(last.number)}")
    except OSError:
        return False
    return last.is_unchanged(now)


@cache
def _journal_of(number: int) -> str:
    """The path of an attempt's journal below its trial's folder."""
    return str(TrialDir(Path()).attempt(number).journal)


def _list_trials(sweep: SweepDir, plan: Plan, reading: Reading) -> dict[str, str]:
    """The trials that have a folder, and where: one scandir a shard. Everything else there is noted as foreign.

    Paths are text here: ten thousand `Path`s take as long as all the looks.
    """
    expected: dict[str, set[str]] = {}
    for trial in plan.trials:
        expected.setdefault(trial.shard, set()).add(trial.id)
    folders: dict[str, str] = {}
    for shard in _folders(sweep.trials_dir, expected, reading):
        path = sweep.trials_dir / shard
        folders |= dict.fromkeys(_folders(path, expected[shard], reading), str(path))
    return folders


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


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Millions of short-lived records without a cycle: looking for cycles took a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
