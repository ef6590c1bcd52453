"""`status`, `logs`, `cancel`: the commands about trials that run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from dlcluster.cli_group import Command
from dlcluster.commands.options import (
    EXIT_PRECONDITION,
    json_option,
    runs_dir_option,
)


@click.command(cls=Command)
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


@click.command(cls=Command)
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


@click.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--trial", help="Only this trial.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for the end.")
def cancel(run: str, runs_dir: Path, trial: str | None, timeout: float) -> None:
    """End what runs: trials save, and count as cancelled until `resume --failed`."""
    from dlcluster.queries import cancel_trials, find_sweep
    from dlcluster.sweep_text import cancelled_text

    found = find_sweep(run, runs_dir)
    told, ended = cancel_trials(found, trial, timeout)
    click.echo(cancelled_text(found.name, told, ended))
    if told.problem:
        click.echo(f"error: {told.problem}", err=True)
        sys.exit(EXIT_PRECONDITION)
