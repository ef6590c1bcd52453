"""`table`, `export`, `tensorboard`: the commands that show what was learned."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlcluster.cli_group import Command
from dlcluster.commands.options import (
    EXIT_DAMAGED,
    FORMATS,
    out_option,
    runs_dir_option,
)

if TYPE_CHECKING:
    from dlcluster.run_dir import SweepDir


@click.command(cls=Command)
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


@click.command(cls=Command)
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


@click.command(cls=Command)
@click.argument("run")
@runs_dir_option
@click.option("--out", type=click.Path(path_type=Path), help="A folder; default: beside the trials.")
def tensorboard(run: str, runs_dir: Path, out: Path | None) -> None:
    """Write TensorBoard event files from the journals."""
    from dlcluster.queries import find_sweep, write_event_files

    files = write_event_files(find_sweep(run, runs_dir), out)
    click.echo(f"{files.n_written} trial(s) written, {files.n_left_alone} already had event files of their training")
    click.echo(f"tensorboard --logdir {files.logdir}")
