"""`doctor`: what this machine or cluster offers and forbids."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from dlcluster.cli_group import Command
from dlcluster.commands.options import EXIT_PRECONDITION, json_option, runs_dir_option


@click.command(cls=Command)
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@runs_dir_option
@json_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the spec; repeatable.")
@click.option("--probe", is_flag=True, help="Submit one tiny job that looks at a compute node, and wait for it.")
@click.option("--write-profile", "profile", metavar="NAME", help="Write what was found as a site profile.")
def doctor(
    spec: Path | None, runs_dir: Path, *, as_json: bool, overrides: tuple[str, ...], probe: bool, profile: str | None
) -> None:
    """What this machine or cluster offers and forbids, for SPEC if one is given. Exit code 3 if sweeps cannot run."""
    from dlcluster.doctor_text import doctor_json, doctor_text
    from dlcluster.queries import examine_site

    def say(text: str) -> None:
        click.echo(text, err=True)

    found, written = examine_site(spec, overrides, runs_dir, probe=probe, profile=profile, say=say)
    click.echo(json.dumps(doctor_json(found)) if as_json else doctor_text(found.findings))
    if written:
        say(f"written: {written}; in a spec: launch.profile: {profile}")
    sys.exit(EXIT_PRECONDITION if found.has_problem else 0)
