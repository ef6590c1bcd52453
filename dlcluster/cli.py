"""The command line: what there is to call. The only module that prints errors and exits with their codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from dlcluster import __version__
from dlcluster.cli_group import Group
from dlcluster.commands import doctoring, running, showing, sweeping
from dlcluster.commands.options import EXIT_BUG, EXIT_INTERRUPTED
from dlcluster.errors import DlclusterError


@click.group(cls=Group)
@click.version_option(__version__, prog_name="dlcluster")
def app() -> None:
    """Sweeps of training runs, on a laptop or on Slurm, with tables that can be published.

    A RUN is the directory of a sweep, or its name under the runs directory.
    """


for _command in (
    *(sweeping.sweep, sweeping.sbatch, sweeping.resume),
    doctoring.doctor,
    *(running.status, running.logs, running.cancel),
    *(showing.table, showing.export, showing.tensorboard),
):
    app.add_command(_command)


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
