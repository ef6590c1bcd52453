"""What this machine or cluster offers and forbids, as a list of findings."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dlcluster.errors import PreconditionError
from dlcluster.launch.doctor_checks import (
    Wanted,
    access_findings,
    choose_partition,
    partition_findings,
    site_findings,
    slurm,
)
from dlcluster.launch.doctor_machine import existing, folder_findings, machine_findings, reach_finding
from dlcluster.launch.file_systems import file_system_of
from dlcluster.launch.findings import Finding, Level, worst
from dlcluster.launch.partitions import Partition, read_partitions, usable_accounts
from dlcluster.launch.site import Site, read_site

NOTHING_WANTED = Wanted()


@dataclass
class Examination:
    """All findings, and the facts behind them: what a profile is written from."""

    findings: list[Finding] = field(default_factory=list)
    site: Site | None = None
    partitions: tuple[Partition, ...] = ()
    accounts: tuple[str, ...] | None = None

    @property
    def has_problem(self) -> bool:
        return worst(self.findings) is Level.PROBLEM


def examine(runs_dir: Path, wanted: Wanted = NOTHING_WANTED, *, with_torch: bool = True) -> Examination:
    """Look at this machine, the run directory and, if there is one, the scheduler. Leaves nothing behind."""
    found = Examination()
    found.findings += machine_findings(with_torch=with_torch)
    found.findings += folder_findings(runs_dir)
    found.findings += _scheduler(found, runs_dir, wanted)
    return found


def _scheduler(found: Examination, runs_dir: Path, wanted: Wanted) -> Iterator[Finding]:
    try:
        found.site = read_site(fresh=True)
        if found.site is None:
            yield slurm.note("slurm", "no Slurm on this machine: sweeps run here", "")
            return
        found.partitions = read_partitions()
    except PreconditionError as error:
        text, _, advice = str(error).partition("\n  hint: ")
        yield slurm.problem("slurm", text, advice)
        return
    if found.site.has_accounting:
        found.accounts = usable_accounts()
        if found.accounts is None:
            yield slurm.note("accounts", "the accounting database does not answer", "jobs run without it")
    yield from site_findings(found.site)
    yield from _inside_a_job()
    yield from partition_findings(found.site, found.partitions, wanted)
    yield from access_findings(found.site, found.partitions, wanted, group_names(), found.accounts)
    yield from _places(found.partitions, runs_dir, wanted)


def _inside_a_job() -> Iterator[Finding]:
    if job := os.environ.get("SLURM_JOB_ID"):
        text = f"this is inside job {job}: what sweeps run locally is limited by it, what they submit is not"
        yield slurm.note("inside", text)


def _places(partitions: tuple[Partition, ...], runs_dir: Path, wanted: Wanted) -> Iterator[Finding]:
    """Where jobs may run, seen from here: of the wanted partition, else of any."""
    chosen = choose_partition(partitions, wanted)
    nodes = chosen.nodes if chosen else tuple({node.name: node for p in partitions for node in p.nodes}.values())
    here = [node.name for node in nodes if node.is_here]
    if here:
        yield slurm.note("submit_host", f"this machine is a compute node too ({', '.join(here[:5])})")
    if nodes:
        yield reach_finding(file_system_of(existing(runs_dir)), nodes)


def group_names() -> list[str]:
    """The names of the groups that this process belongs to."""
    names = []
    for number in {os.getgid(), *os.getgroups()}:
        with suppress(KeyError):
            names.append(grp.getgrgid(number).gr_name)
    return names
