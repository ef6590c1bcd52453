"""`sweep`, `sbatch`, `resume`: the commands that start trials."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlcluster.cli_group import Command
from dlcluster.commands.options import (
    EXIT_DAMAGED,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_STARTED,
    EXIT_PARTLY_SUBMITTED,
    EXIT_PRECONDITION,
    EXIT_TRIALS_FAILED,
    dry_run_option,
    executor_option,
    fail_option,
    lost_option,
    parallel_option,
    quiet_option,
    runs_dir_option,
    wait_option,
)
from dlcluster.commands.showing import print_table

if TYPE_CHECKING:
    from dlcluster.run_dir import SweepDir
    from dlcluster.sweep_call import SweepOptions, SweepResult


@click.command(cls=Command)
@click.argument("spec", type=click.Path(path_type=Path))
@runs_dir_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the spec; repeatable.")
@click.option("--name", help="Another name than the spec's.")
@parallel_option
@executor_option
@wait_option
@lost_option
@dry_run_option
@click.option("--no-import-check", is_flag=True, help="Do not import the job here (a login node without torch, say).")
@click.option("--allow-large", is_flag=True, help="Allow more than 100,000 trials.")
@fail_option
@quiet_option
def sweep(spec: Path, fail_on_trial_error: bool, quiet: bool, **flags: Any) -> None:
    """Run what SPEC asks for and is not there yet: all of it, the rest of it, or a top-up."""
    from dlcluster.pipeline import run_sweep
    from dlcluster.screen import make_view
    from dlcluster.sweep_call import SweepOptions

    options = SweepOptions(
        runs_dir=flags["runs_dir"],
        overrides=flags["overrides"],
        name=flags["name"],
        parallel=flags["parallel"],
        dry_run=flags["dry_run"],
        import_check=not flags["no_import_check"],
        allow_large=flags["allow_large"],
        executor=flags["executor"],
        wait=flags["wait"],
        assume_lost=flags["assume_lost"],
        argv=tuple(sys.argv),
    )
    finish_sweep(run_sweep(spec, options, make_view(quiet=quiet)), options, fail_on_trial_error, quiet)


@click.command(cls=Command)
@click.argument("spec", type=click.Path(path_type=Path))
@runs_dir_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the spec; repeatable.")
@click.option("--name", help="Another name than the spec's.")
@parallel_option
@click.option("--no-import-check", is_flag=True, help="Do not import the job here (a login node without torch, say).")
def sbatch(spec: Path, **flags: Any) -> None:
    """Write the batch scripts for what SPEC asks for and is not there yet; submit nothing."""
    from dlcluster.pipeline import run_sweep
    from dlcluster.screen import make_view
    from dlcluster.sweep_call import SweepOptions
    from dlcluster.sweep_text import scripts_text

    options = SweepOptions(
        runs_dir=flags["runs_dir"],
        overrides=flags["overrides"],
        name=flags["name"],
        parallel=flags["parallel"],
        import_check=not flags["no_import_check"],
        executor="slurm",
        by_hand=True,
        argv=tuple(sys.argv),
    )
    click.echo(scripts_text(run_sweep(spec, options, make_view(quiet=False))))


@click.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--failed", is_flag=True, help="Run failed, diverged, stopped and cancelled trials again too.")
@click.option("--trial", help="Only this trial.")
@parallel_option
@executor_option
@wait_option
@lost_option
@dry_run_option
@fail_option
@quiet_option
def resume(run: str, fail_on_trial_error: bool, quiet: bool, **flags: Any) -> None:
    """Go on with a sweep from its run directory, with the code that it was started with."""
    from dlcluster.launch.plan import FINAL_BUT_NOT_DONE
    from dlcluster.pipeline import resume_sweep
    from dlcluster.queries import find_sweep
    from dlcluster.screen import make_view
    from dlcluster.sweep_call import SweepOptions

    options = SweepOptions(
        runs_dir=flags["runs_dir"],
        parallel=flags["parallel"],
        dry_run=flags["dry_run"],
        import_check=False,
        executor=flags["executor"],
        wait=flags["wait"],
        assume_lost=flags["assume_lost"],
        argv=tuple(sys.argv),
    )
    again = FINAL_BUT_NOT_DONE if flags["failed"] else frozenset()
    found = find_sweep(run, options.runs_dir)
    result = resume_sweep(found, again, flags["trial"], options, make_view(quiet=quiet))
    finish_sweep(result, options, fail_on_trial_error, quiet)


def finish_sweep(result: SweepResult, options: SweepOptions, fail_on_trial_error: bool, quiet: bool) -> None:
    """Say what has come of a sweep, and leave with the right code."""
    from dlcluster.sweep_text import dry_run_text, nothing_missing_text

    if options.dry_run:
        click.echo(dry_run_text(result))
        return
    if result.submitted is not None:
        finish_submission(result, quiet)
    elif not result.started and not result.followed:
        click.echo(nothing_missing_text(result))
        sys.exit(_code_of_failures(result.sweep, fail_on_trial_error))
    if result.left_alone:
        click.echo("no longer following; the jobs go on", err=True)
        sys.exit(EXIT_INTERRUPTED)
    finish_trials(result, fail_on_trial_error, quiet)


def finish_submission(result: SweepResult, quiet: bool) -> None:
    """Say what the scheduler has taken; leave, unless the jobs have been followed."""
    from dlcluster.sweep_text import submitted_text

    done = result.submitted
    assert done is not None  # noqa: S101
    if done.problem or not quiet:
        click.echo(submitted_text(result), err=bool(done.problem))
    if done.problem:
        sys.exit(EXIT_PARTLY_SUBMITTED if done.job_ids else EXIT_NOTHING_STARTED)
    if not result.followed:
        sys.exit(0)


def finish_trials(result: SweepResult, fail_on_trial_error: bool, quiet: bool) -> None:
    """The table of what has been run, and what is left."""
    from dlcluster.queries import read_status

    if result.worker_problem:
        click.echo(f"error: {result.worker_problem}", err=True)
    damaged = (not quiet or not result.interrupted) and print_table(result.sweep, "terminal", "-")
    if result.interrupted:
        n = len(result.unfinished)
        click.echo(f"interrupted: {n} trial(s) left; the same command goes on with them", err=True)
        sys.exit(EXIT_INTERRUPTED)
    plan, statuses = read_status(result.sweep)
    if result.unfinished:
        n_left = len(result.unfinished)
        click.echo(
            f"{n_left} of {len(plan.trials)} trials have not come to an end; the same command tries again", err=True
        )
        if result.lost_its_place():
            sys.exit(EXIT_PRECONDITION)
        if result.worker_problem and result.nothing_began():
            sys.exit(EXIT_NOTHING_STARTED)
    sys.exit(_code_of_failures(result.sweep, fail_on_trial_error, statuses) or (EXIT_DAMAGED if damaged else 0))


def _code_of_failures(found: SweepDir, fail_on_trial_error: bool, statuses: Sequence[Any] | None = None) -> int:
    from dlcluster.journal import State
    from dlcluster.queries import read_status

    if not fail_on_trial_error:
        return 0
    statuses = statuses if statuses is not None else read_status(found)[1]
    return EXIT_TRIALS_FAILED if any(s.state.state in (State.FAILED, State.HELD) for s in statuses) else 0
