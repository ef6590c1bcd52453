"""How every trial stands, without looking again at those that have completed: for showing, never for deciding.

`results/status.json` remembers completed trials, which never change. It is a cache: replaced as a whole, believed only
for trials whose folder is still there and still the same one (one listing a shard tells), and not written where that is
not possible. Deleting it loses nothing. `sweep` and `resume` decide from the journals alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from dlcluster.files import make_dir_exclusively, read_json, write_json
from dlcluster.journal import State, TrialState
from dlcluster.launch.status import StateRule, TrialStatus, read_status
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.trial import Trial

INDEX_FORMAT = 2
# Written again when so many trials have completed since the last time, so that `watch` does not write every second.
REWRITE_FROM_TRIALS = 100
COMPLETED = TrialState(State.COMPLETED)
Entries = dict[str, list[Any]]


def read_statuses_quickly(sweep: SweepDir, plan: Plan) -> list[TrialStatus]:
    """What `read_statuses` says, in the order of the plan, with a listing a shard in place of two files a trial."""
    known = _load(sweep)
    folders = _folders_of_shards(sweep, {trial.shard for trial in plan.trials if trial.id in known})
    rule, statuses, fresh = StateRule(sweep, plan), [], {}
    for trial in plan.trials:
        status = _status_from_entry(trial, known.get(trial.id), folders.get(trial.id))
        if status is None:
            status = read_status(sweep, trial, rule)
            if status.state == COMPLETED:
                fresh[trial.id] = status
        statuses.append(status)
    if len(fresh) >= REWRITE_FROM_TRIALS:
        _save(sweep, plan, {status.trial.id: status for status in statuses if status.state == COMPLETED}, folders)
    return statuses


def _status_from_entry(trial: Trial, entry: Any, folder: int | None) -> TrialStatus | None:
    """The status of a completed trial, if what is known is about the folder that is there now."""
    match entry:
        case [int(inode), int(n), int(step), dict() | None as metrics, int() | float() as s, int() | float() as w]:
            is_the_same = inode == folder
            return TrialStatus(trial, COMPLETED, n, step, metrics, float(s), "", float(w)) if is_the_same else None
        case _:
            return None


def _load(sweep: SweepDir) -> Entries:
    """The entries by trial; none if there is no index that is readable and of this format."""
    try:
        index = read_json(sweep.status_index)
    except OSError:
        return {}
    is_ours = isinstance(index, dict) and index.get("format") == INDEX_FORMAT and isinstance(index.get("trials"), dict)
    return index["trials"] if is_ours else {}


def _save(sweep: SweepDir, plan: Plan, completed: Mapping[str, TrialStatus], folders: dict[str, int]) -> None:
    """Replace the index; nothing happens where it cannot be written."""
    unlisted = {trial.shard for trial in plan.trials if trial.id in completed and trial.id not in folders}
    folders = {**folders, **_folders_of_shards(sweep, unlisted)}
    trials = {
        trial_id: [
            folders[trial_id],
            status.n_attempts,
            status.step,
            status.last_metrics,
            status.seconds,
            status.wasted,
        ]
        for trial_id, status in completed.items()
        if trial_id in folders
    }
    with suppress(OSError):  # read-only, full, another owner, gone: a cache is not worth an error
        make_dir_exclusively(sweep.results_dir)  # this folder only: a run directory that is gone is not made again
        write_json(sweep.status_index, {"format": INDEX_FORMAT, "trials": trials}, durable=False)


def _folders_of_shards(sweep: SweepDir, shards: Iterable[str]) -> dict[str, int]:
    """The trial folders below some shards, with their inode numbers, which a listing gives for free."""
    found: dict[str, int] = {}
    for shard in shards:
        with suppress(OSError), os.scandir(sweep.trials_dir / shard) as entries:
            found.update((entry.name, entry.inode()) for entry in entries)
    return found
