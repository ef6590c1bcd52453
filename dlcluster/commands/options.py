"""Options that several commands share, and the exit codes of the command line."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("terminal", "markdown", "csv", "latex", "json")
EXIT_TRIALS_FAILED, EXIT_PRECONDITION, EXIT_NOTHING_STARTED, EXIT_PARTLY_SUBMITTED, EXIT_DAMAGED = 1, 3, 4, 5, 6
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
executor_option = click.option(
    "--executor", type=click.Choice(("local", "slurm", "submitit")), help="Where trials run; default: what SPEC says."
)
wait_option = click.option("--wait", is_flag=True, help="Follow the jobs to their end, as if they ran here.")
lost_option = click.option("--assume-lost", is_flag=True, help="Submit again what a dead command may have submitted.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing, start nothing.")
