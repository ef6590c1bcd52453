"""Flags -> one pipeline call -> words. The only module that prints errors and exits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dlcluster import __version__
from dlcluster.cli_group import Command, Group
from dlcluster.errors import DlclusterError

if TYPE_CHECKING:
    from dlcluster.pipeline import SweepOptions, SweepResult
    from dlcluster.run_dir import SweepDir

FORMATS = ("terminal", "markdown", "csv", "latex", "json")
EXIT_TRIALS_FAILED, EXIT_PRECONDITION, EXIT_NOTHING_STARTED, EXIT_DAMAGED = 1, 3, 4, 6
EXIT_BUG, EXIT_INTERRUPTED = 70, 130

runs_dir_option = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, readable=False),
    default=Path("runs"),
    show_default=True,
    help="Where sweeps live.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Say nothing but the result.")
json_option = click.option("--json", "as_json", is_flag=True, help="For machines: one JSON value.")
out_option = click.option("--out", default="-", help="A file; - for standard output.", show_default=True)
fail_option = click.option(
    "--fail-on-trial-error", is_flag=True, help="Exit with 1 if a trial failed (a sweep with failures is a result too)."
)
parallel_option = click.option("--parallel", type=click.IntRange(1), help="Workers at once.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing, start nothing.")


@click.group(cls=Group)
@click.version_option(__version__, prog_name="dlcluster")
def app() -> None:
    """Sweeps of training runs, on a laptop or on Slurm, with tables that can be published.

    A RUN is the directory of a sweep, or its name under the runs directory.
    """


@app.command(cls=Command)
@click.argument("spec", type=click.Path(path_type=Path))
@runs_dir_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the spec; repeatable.")
@click.option("--name", help="Another name than the spec's.")
@parallel_option
@dry_run_option
@click.option("--no-import-check", is_flag=True, help="Do not import the job here (a login node without torch, say).")
@click.option("--allow-large", is_flag=True, help="Allow more than 100,000 trials.")
@fail_option
@quiet_option
def sweep(spec: Path, fail_on_trial_error: bool, quiet: bool, **flags: Any) -> None:
    """Run what SPEC asks for and is not there yet: all of it, the rest of it, or a top-up."""
    from dlcluster.pipeline import SweepOptions, run_sweep
    from dlcluster.screen import make_view

    options = SweepOptions(
        runs_dir=flags["runs_dir"],
        overrides=flags["overrides"],
        name=flags["name"],
        parallel=flags["parallel"],
        dry_run=flags["dry_run"],
        import_check=not flags["no_import_check"],
        allow_large=flags["allow_large"],
        argv=tuple(sys.argv),
    )
    finish_sweep(run_sweep(spec, options, make_view(quiet=quiet)), options, fail_on_trial_error, quiet)


@app.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--failed", is_flag=True, help="Run failed, diverged, stopped and cancelled trials again too.")
@click.option("--trial", help="Only this trial.")
@parallel_option
@dry_run_option
@fail_option
@quiet_option
def resume(run: str, fail_on_trial_error: bool, quiet: bool, **flags: Any) -> None:
    """Go on with a sweep from its run directory, with the code that it was started with."""
    from dlcluster.launch.plan import FINAL_BUT_NOT_DONE
    from dlcluster.pipeline import SweepOptions, resume_sweep
    from dlcluster.queries import find_sweep
    from dlcluster.screen import make_view

    options = SweepOptions(
        runs_dir=flags["runs_dir"],
        parallel=flags["parallel"],
        dry_run=flags["dry_run"],
        import_check=False,
        argv=tuple(sys.argv),
    )
    again = FINAL_BUT_NOT_DONE if flags["failed"] else frozenset()
    found = find_sweep(run, options.runs_dir)
    result = resume_sweep(found, again, flags["trial"], options, make_view(quiet=quiet))
    finish_sweep(result, options, fail_on_trial_error, quiet)


def finish_sweep(result: SweepResult, options: SweepOptions, fail_on_trial_error: bool, quiet: bool) -> None:
    """Say what has come of a sweep, and leave with the right code."""
    from dlcluster.queries import read_status
    from dlcluster.sweep_text import dry_run_text, nothing_missing_text

    if options.dry_run:
        click.echo(dry_run_text(result))
        return
    if not result.started:
        click.echo(nothing_missing_text(result))
        sys.exit(_code_of_failures(result.sweep, fail_on_trial_error))
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


@app.command(cls=Command)
@click.argument("run")
@runs_dir_option
@json_option
@click.option("--all", "show_all", is_flag=True, help="Every trial, not only those that need attention.")
def status(run: str, runs_dir: Path, as_json: bool, show_all: bool) -> None:
    """How every trial stands, from the files alone."""
    from dlcluster.queries import find_sweep, read_status
    from dlcluster.status_text import status_json, status_text

    found = find_sweep(run, runs_dir)
    plan, statuses = read_status(found)
    click.echo(json.dumps(status_json(plan, statuses)) if as_json else status_text(found, plan, statuses, show_all))


@app.command(cls=Command)
@click.argument("run")
@click.argument("trial")
@runs_dir_option
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until the trial ends.")
@click.option("--attempt", type=click.IntRange(1), help="An earlier attempt than the last.")
def logs(run: str, trial: str, runs_dir: Path, follow: bool, attempt: int | None) -> None:
    """What a trial has printed."""
    from dlcluster.queries import find_sweep, newest_log
    from dlcluster.status_text import follow_log

    found = find_sweep(run, runs_dir)
    for chunk in follow_log(found, trial, newest_log(found, trial, attempt), follow):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


@app.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--trial", help="Only this trial.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for the end.")
def cancel(run: str, runs_dir: Path, trial: str | None, timeout: float) -> None:
    """End what runs: trials save, and count as cancelled until `resume --failed`."""
    from dlcluster.queries import cancel_trials, find_sweep, wait_until_ended

    found = find_sweep(run, runs_dir)
    told = cancel_trials(found, trial)
    if not told:
        click.echo(f"{found.name}: nothing is running")
        return
    ended = wait_until_ended(found, told, trial, timeout)
    click.echo(f"{found.name}: {len(told)} worker(s) told to stop" + ("" if ended else "; not all have ended yet"))


@app.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--format", "output_format", type=click.Choice(FORMATS), default="terminal", show_default=True)
@out_option
def table(run: str, runs_dir: Path, output_format: str, out: str) -> None:
    """The comparison table, with an interval on every mean."""
    from dlcluster.queries import find_sweep

    if print_table(find_sweep(run, runs_dir), output_format, out):
        sys.exit(EXIT_DAMAGED)


def print_table(found: SweepDir, output_format: str, out: str) -> bool:
    """Write the table; warnings go to standard error. Returns whether damaged data were found."""
    import shutil

    from dlcluster.queries import make_table
    from dlcluster.results.tables import render

    made, results = make_table(found)
    color = out == "-" and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((100, 24)).columns if color else 100
    write_out(render(made, output_format, width=width, color=color), out)
    return say_warnings(results, made.warnings if output_format == "csv" else ())


def say_warnings(results: Any, more: Sequence[str] = ()) -> bool:
    """Returns whether damaged data were found: what is readable has been shown, and the exit code says so."""
    for warning in (*results.warnings, *more):
        click.echo(f"warning: {warning}", err=True)
    return results.has_damage


def write_out(content: str | bytes, out: str) -> None:
    """To standard output (`-`), or replacing a file as a whole."""
    from dlcluster.files import write_bytes

    data = content if isinstance(content, bytes) else content.rstrip("\n").encode() + b"\n"
    if out == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_bytes(Path(out), data)


@app.command(cls=Command)
@click.argument("run")
@click.argument("what", type=click.Choice(("trials", "metrics")))
@runs_dir_option
@click.option("--format", "file_format", type=click.Choice(("csv", "parquet")), default="csv", show_default=True)
@click.option("--out", required=True, help="The file to write; - for standard output.")
def export(run: str, what: str, runs_dir: Path, file_format: str, out: str) -> None:
    """All trials, or all rows of metrics, for other programs."""
    from dlcluster.queries import aggregate_sweep, find_sweep
    from dlcluster.results.rendering import export_bytes

    _plan, results = aggregate_sweep(find_sweep(run, runs_dir))
    write_out(export_bytes(results, what, file_format), out)
    if say_warnings(results):
        sys.exit(EXIT_DAMAGED)


@app.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--out", type=click.Path(path_type=Path), help="A folder; default: beside the trials.")
def tensorboard(run: str, runs_dir: Path, out: Path | None) -> None:
    """Write TensorBoard event files from the journals."""
    from dlcluster.queries import find_sweep, write_event_files

    files = write_event_files(find_sweep(run, runs_dir), out)
    click.echo(f"{files.n_written} trial(s) written, {files.n_left_alone} already had event files of their training")
    click.echo(f"tensorboard --logdir {files.logdir}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; expected errors become a message and an exit code, all others a traceback and 70."""
    try:
        app.main(args=None if arguments is None else list(arguments), prog_name="dlcluster", standalone_mode=False)
        code = 0
    except DlclusterError as error:
        click.echo(error_text(error), err=True)
        code = error.exit_code
    except click.exceptions.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as error:
        click.echo(f"error: {error.filename or ''}: {error.strerror or error} ({type(error).__name__})", err=True)
        code = 3
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo("this is a bug in dlcluster; please report it with the lines above", err=True)
        code = EXIT_BUG
    sys.exit(code)


def error_text(error: DlclusterError) -> str:
    from dlcluster.errors import SpecError

    return str(error) if isinstance(error, SpecError) else f"error: {error}"
