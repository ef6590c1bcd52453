"""What runs on a pretended node besides its slurmd: slurmstepds and the processes of jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from .cgroups import groups_of
from .commands import wait_for
from .layout import Layout
from .ports import JOBS_PER_BLOCK, first_job_id
from .processes import Process, command_line, environment_of, every_pid, open_files, parent_of, process_of
from .settings import Settings

JOB_CGROUP = re.compile(r"job_(\d+)$")


def kill_jobs(layout: Layout, settings: Settings, nodes: Sequence[str], timeout_s: float = 10) -> bool:
    """As a power cut would: everything on these nodes is gone. False if something does not go."""

    def all_gone() -> bool:
        found = job_processes(layout, settings, nodes)
        for process in found:
            process.send("KILL")
        _thaw(settings, nodes)
        return not found

    return wait_for(all_gone, timeout_s)


def job_processes(layout: Layout, settings: Settings, nodes: Sequence[str]) -> list[Process]:
    """Known by their slurmstepd, by the environment that slurmd gave them, or by their cgroup: each can be lacking."""
    pids = every_pid()
    stepds = {pid for pid in pids if _is_stepd(layout, nodes, pid)}
    marked = {pid for pid in pids if _has_environment(layout, nodes, pid)}
    found = _with_descendants(stepds | marked, pids) | _in_cgroups(settings, nodes)
    processes = (process_of(pid, "") for pid in found)
    return [process for process in processes if process is not None and process.is_alive]


def _is_stepd(layout: Layout, nodes: Sequence[str], pid: int) -> bool:
    """Its command line is only `slurmstepd: [7.batch]`, but it writes to the log of its slurmd."""
    if "slurmstepd" not in command_line(pid):
        return False
    return not open_files(pid).isdisjoint(str(layout.log(f"slurmd.{node}")) for node in nodes)


def _has_environment(layout: Layout, nodes: Sequence[str], pid: int) -> bool:
    environment = environment_of(pid)
    confs = (layout.slurm_conf, layout.slurm_conf_linuxproc)
    return any(f"SLURMD_NODENAME={node}".encode() in environment for node in nodes) and any(
        f"SLURM_CONF={conf}".encode() in environment for conf in confs
    )


def _with_descendants(roots: set[int], pids: Sequence[int]) -> set[int]:
    parents = {pid: parent_of(pid) for pid in pids}
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def _in_cgroups(settings: Settings, nodes: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for job in _groups_of_jobs(settings, nodes):
        for members in job.rglob("cgroup.procs"):
            with suppress(OSError):
                found |= {int(pid) for pid in members.read_text().split()}
    return found


def _thaw(settings: Settings, nodes: Sequence[str]) -> None:
    """A job that was suspended is frozen: it dies of nothing, not even of SIGKILL."""
    for job in _groups_of_jobs(settings, nodes):
        for state in job.rglob("freezer.state"):
            with suppress(OSError):
                state.write_text("THAWED")


def _groups_of_jobs(settings: Settings, nodes: Sequence[str]) -> Iterator[Path]:
    """Other clusters have nodes of the same names, but other job ids."""
    first = first_job_id(settings.block or 0)
    for group in groups_of(settings.cgroup_mount, nodes):
        for job in group.glob("uid_*/job_*"):
            number = JOB_CGROUP.search(job.name)
            if number is not None and first <= int(number[1]) < first + JOBS_PER_BLOCK:
                yield job
