"""Event files for TensorBoard from the journals, at any time after (or during) training.

    tensorboard --logdir runs/lr/trials       after `write_tensorboard(sweep)`
A trial's attempts are one history: a step that was done again appears once. The HParams tab shows all trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlcluster.event_files import Scalars, distinct_tags, event_file
from dlcluster.files import make_dir, write_bytes
from dlcluster.results.aggregate import Results
from dlcluster.results.reading import Unreadable, list_journals, read_trial
from dlcluster.results.series import EMPTY, Objective, Series
from dlcluster.run_dir import SweepDir
from dlcluster.trial import Trial

OUR_FILE = "events.out.tfevents.0000000000.dlcluster"
EVENT_FILES = "*tfevents*"


@dataclass(frozen=True)
class EventFiles:
    """Where to point TensorBoard; how many trials have an event file now, and how many were left alone."""

    logdir: Path
    n_written: int
    n_left_alone: int

    def __str__(self) -> str:
        return str(self.logdir)


def write_tensorboard(sweep: SweepDir, results: Results | None = None, out: Path | None = None) -> EventFiles:
    """One event file a trial with metrics, in `out/<trial>` or in the trial's own folder; an earlier one is replaced.

    Folders with event files that training wrote itself are left alone: their steps would appear twice. With `results`,
    trials that have logged nothing are not looked at.
    """
    plan = sweep.read_plan() if results is None else results.plan
    objective, n_written, n_left_alone = Objective.of(plan.spec), 0, 0
    silent = set() if results is None else set(results.trials.loc[results.trials["steps"] == 0, "trial"])
    for trial in plan.trials:
        folder = sweep.trial(trial).tensorboard if out is None else out / trial.id
        series = _history(sweep, trial) if trial.id not in silent else EMPTY
        if any(file.name != OUR_FILE for file in folder.rglob(EVENT_FILES)):
            n_left_alone += 1
        elif len(series):
            params = {**trial.params, "seed": trial.seed}
            make_dir(folder)
            write_bytes(folder / OUR_FILE, event_file(trial.id, params, objective.metric, _rows(series)), durable=False)
            n_written += 1
    return EventFiles(sweep.trials_dir if out is None else out, n_written, n_left_alone)


def _history(sweep: SweepDir, trial: Trial) -> Series:
    try:
        return read_trial(list_journals(sweep.trial(trial).path)).series
    except Unreadable:
        return EMPTY


def _rows(series: Series) -> list[Scalars]:
    tags = distinct_tags(series.names)
    return [
        (int(step), float(time), {tag: float(v) for tag, v, here in zip(tags, values, present, strict=True) if here})
        for step, time, values, present in zip(series.step, series.time, series.values, series.present, strict=True)
    ]
