"""The commands that read a run directory, or leave a word for its workers."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcluster.errors import UsageError
from dlcluster.files import write_text
from dlcluster.launch.follow import alive_workers
from dlcluster.launch.status import StateRule, TrialStatus
from dlcluster.launch.status_index import read_statuses_quickly
from dlcluster.run_dir import Plan, SweepDir

if TYPE_CHECKING:
    from dlcluster.results.tables import Table


def find_sweep(run: str, runs_dir: Path) -> SweepDir:
    """A run directory, by its path or by its name under the runs directory. Raises UsageError with what there is."""
    for path in (Path(run), runs_dir / run):
        if SweepDir(path).has_plan():
            return SweepDir(path.resolve())
    names = sorted(p.name for p in runs_dir.iterdir() if SweepDir(p).has_plan()) if runs_dir.is_dir() else []
    there = f"there are: {', '.join(names[:20])}" if names else f"there is none under {runs_dir}"
    raise UsageError(f"no sweep at {run!r} nor at {str(runs_dir / run)!r}", there)


def read_status(sweep: SweepDir) -> tuple[Plan, list[TrialStatus]]:
    plan = sweep.read_plan()
    return plan, read_statuses_quickly(sweep, plan)


def cancel_trials(sweep: SweepDir, only: str | None) -> list[str]:
    """Tell the workers that run to end their trials as cancelled (or the one trial). Returns the workers told."""
    plan = sweep.read_plan()
    wanted = plan.by_id(only).id if only is not None else None
    told = []
    for beat in alive_workers(sweep):
        current = beat.get("current")
        if wanted is None or (current and current[0] == wanted):
            write_text(sweep.worker(beat["worker"]).marker("cancel"), wanted or "", durable=False)
            told.append(beat["worker"])
    return told


def wait_until_ended(sweep: SweepDir, workers: Collection[str], only: str | None, timeout_s: float) -> bool:
    """Whether the workers (or the one trial) have come to an end within the time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        busy = [b for b in alive_workers(sweep) if b["worker"] in workers]
        if not [b for b in busy if only is None or (b.get("current") or [None])[0] == only]:
            return True
        time.sleep(0.1)
    return False


def aggregate_sweep(sweep: SweepDir) -> tuple[Plan, Any]:
    """All results of a sweep, as data frames."""
    from dlcluster.results.aggregate import aggregate

    plan = sweep.read_plan()
    return plan, aggregate(sweep, StateRule(sweep, plan))


def make_table(sweep: SweepDir) -> tuple[Table, Any]:
    """The comparison table of a sweep, and the results it rests on."""
    from dlcluster.results.tables import comparison_table

    _plan, results = aggregate_sweep(sweep)
    return comparison_table(results, sweep), results


def write_event_files(sweep: SweepDir, out: Path | None) -> Any:
    """Where TensorBoard finds the event files that were written, as text, and how many they are."""
    from dlcluster.results.tensorboard import write_tensorboard

    _plan, results = aggregate_sweep(sweep)
    return write_tensorboard(sweep, results, out)


def newest_log(sweep: SweepDir, trial_id: str, attempt: int | None) -> Path:
    """The log of a trial's last attempt (or of the one asked for). Raises UsageError if there is none."""
    trial = sweep.read_plan().by_id(trial_id)
    attempts = sweep.trial(trial).attempts()
    chosen = [a for a in attempts if attempt is None or a.number == attempt]
    if not chosen:
        what = f"attempt {attempt}" if attempt else "any attempt"
        raise UsageError(f"trial {trial_id} has not had {what} yet", f"it has had {len(attempts)}")
    return chosen[-1].log
