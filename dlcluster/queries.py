"""The commands that read a run directory, or leave a word for its workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcluster.errors import UsageError
from dlcluster.launch.status import StateRule, TrialStatus
from dlcluster.launch.status_index import read_statuses_quickly
from dlcluster.run_dir import Plan, SweepDir

if TYPE_CHECKING:
    from dlcluster.launch.cancel import Cancelled
    from dlcluster.launch.doctor import Examination
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


def cancel_trials(sweep: SweepDir, only: str | None, timeout_s: float) -> tuple[Cancelled, bool]:
    """End what runs and call off what waits; what has not ended by then is ended by the scheduler.

    Returns what was told, and whether all of it has ended within the time.
    """
    from dlcluster.launch.cancel import cancel, end_by_force, wait_until_ended

    told = cancel(sweep, only)
    ended = wait_until_ended(sweep, told.workers, only, timeout_s)
    if not ended and only is None:
        end_by_force(sweep)
    return told, ended


def aggregate_sweep(sweep: SweepDir) -> tuple[Plan, Any]:
    """All results of a sweep, as data frames."""
    from dlcluster.results.aggregate import aggregate

    plan = sweep.read_plan()
    return plan, aggregate(sweep, StateRule(sweep, plan), plan)


def make_table(sweep: SweepDir) -> tuple[Table, Any]:
    """The comparison table of a sweep, and the results it rests on."""
    from dlcluster.results.tables import comparison_table

    _plan, results = aggregate_sweep(sweep)
    return comparison_table(results), results


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


def examine_site(
    spec_file: Path | None,
    overrides: Sequence[str],
    runs_dir: Path,
    *,
    probe: bool,
    profile: str | None,
    say: Callable[[str], None],
) -> tuple[Examination, Path | None]:
    """What `doctor` finds, and the profile that it has written if it was asked to."""
    from dlcluster.launch.doctor import examine
    from dlcluster.launch.doctor_checks import Wanted, choose_partition
    from dlcluster.launch.doctor_machine import torch_version
    from dlcluster.launch.profiles import chosen_profile, find_profile, write_profile

    root, launch, is_python = Path.cwd(), {}, True
    if spec_file is not None:
        from dlcluster.spec.schema import load_spec

        spec = load_spec(spec_file, overrides, find_profile=find_profile, profile=chosen_profile(None))
        root, launch, is_python = spec.project_root, spec.launch.model_dump(), spec.command is None
    wanted = Wanted.of(launch)
    found = examine(runs_dir, wanted, with_torch=is_python)
    if probe and found.partitions:
        from dlcluster.launch.probe import Probe

        partition = choose_partition(found.partitions, wanted)
        with_torch = is_python and torch_version() is not None
        found.findings += Probe(launch, partition, say, with_torch=with_torch).run(runs_dir)
    written = write_profile(profile, root, found, wanted) if profile else None
    return found, written
