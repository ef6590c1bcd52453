"""A cluster as a whole: up, down, status, and single daemons on request."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from . import accounting, cgroups, configs, users
from .commands import clean_environment, run, wait_for
from .daemons import STOP_S, Daemon, all_daemons
from .errors import DevClusterError
from .layout import Layout, check_folder, delete, make_folders
from .nodes import kill_jobs
from .packages import check_programs, check_root
from .ports import reserved_block
from .processes import end
from .settings import CGROUP_NODES, NODES, Settings, read_settings, write_settings

MUNGE_KEY_BYTES = 128
NODES_READY_S = 60
READY_STATES = ("idle", "mix", "alloc", "comp")
DOWN_ORDER = (("slurmctld", *(f"slurmd.{node}" for node in NODES)), ("slurmdbd",), ("mariadb", "munged"))
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cluster:
    layout: Layout
    settings: Settings

    @property
    def daemons(self) -> dict[str, Daemon]:
        return all_daemons(self.layout, self.settings)

    @property
    def alive(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons.values() if daemon.process]

    def run(self, *argv: str) -> str:
        return run(argv, clean_environment(self.layout.slurm_conf)).stdout

    def node_states(self) -> dict[str, str]:
        """`idle`, `down*` ... of each node."""
        asked = ["sinfo", "-h", "-N", "-o", "%N %t"]
        said = run(asked, clean_environment(self.layout.slurm_conf), check=False).stdout
        return dict(line.split() for line in said.splitlines())


def open_cluster(layout: Layout) -> Cluster:
    """One that was started before, whether it runs or not."""
    return Cluster(layout, read_settings(layout))


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """One command at a time changes a cluster; others wait."""
    with open(layout.lock, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def up(layout: Layout, wanted: Settings | None, say: Say) -> Cluster:
    """Start what does not run. Without `wanted`: as it was started last time, or the default."""
    check_root()
    check_programs()
    os.umask(0o022)
    check_folder(layout)
    layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(layout), ExitStack() as stack:
        known = open_cluster(layout) if layout.settings.exists() else None
        if known and known.alive:
            _check_same(known, wanted)
            cluster = known
        else:
            settings = wanted or (known.settings if known else Settings())
            block = stack.enter_context(reserved_block(known.settings.block if known else None))
            cluster = _prepare(layout, replace(settings, block=block), say)
        start_all(cluster)
        wait_for_nodes(cluster)
    return cluster


def _check_same(known: Cluster, wanted: Settings | None) -> None:
    if wanted and not wanted.same_cluster(known.settings):
        raise DevClusterError(
            f"the cluster in {known.layout.root} runs with other settings: {describe(known.settings)}",
            "run devcluster down first, or start a second cluster with --dir",
        )


def _prepare(layout: Layout, settings: Settings, say: Say) -> Cluster:
    """Everything that daemons read. The settings come first: they show to whom the folder belongs."""
    write_settings(layout, settings)
    make_folders(layout, NODES)
    mount = "" if "no-cgroup" in settings.variants else cgroups.find_or_mount(layout)
    if not mount and "no-cgroup" not in settings.variants:
        say(
            "no version 1 memory cgroups on this machine: n1 and n2 run without limits, as n3 and n4, "
            "and no job will end as OUT_OF_MEMORY"
        )
    settings = replace(settings, cgroup_mount=mount, swap_limits=bool(mount) and cgroups.has_swap_limits(mount))
    user = users.ensure_user(settings.user)
    users.give_home(layout, user)
    if not layout.munge_key.exists():
        configs.write_secret(layout.munge_key, secrets.token_hex(MUNGE_KEY_BYTES))
    configs.write_all(layout, settings, accounting.make_password(layout))
    write_settings(layout, settings)
    users.check_can_read(layout, user)
    return Cluster(layout, settings)


def start_all(cluster: Cluster) -> None:
    for name, daemon in cluster.daemons.items():
        was_running = bool(daemon.process)
        daemon.start()
        if name == "slurmdbd" and not was_running:
            accounting.register(cluster.layout, cluster.settings)


def wait_for_nodes(cluster: Cluster) -> None:
    """Until each node can take jobs."""

    def all_ready() -> bool:
        states = cluster.node_states()
        return set(states) == set(NODES) and all(state in READY_STATES for state in states.values())

    if not wait_for(all_ready, NODES_READY_S):
        found = " ".join(f"{node}={state}" for node, state in cluster.node_states().items()) or "no answer"
        raise DevClusterError(
            f"the nodes were not ready within {NODES_READY_S} s: {found}",
            f"look at `sinfo -R` and at {cluster.layout.log('slurmctld').parent}",
        )


def down(layout: Layout, *, delete_folder: bool) -> None:
    """End everything that was started, jobs included, and leave nothing but the folder, or not even that."""
    check_root()
    check_folder(layout)
    cluster = open_cluster(layout)
    with locked(layout):
        _end_daemons(cluster, DOWN_ORDER[0])
        if not kill_jobs(layout, cluster.settings, NODES):
            raise DevClusterError("processes of jobs do not go away, not even after SIGKILL", "try again later")
        for names in DOWN_ORDER[1:]:
            _end_daemons(cluster, names)
        cgroups.remove_empty(cgroups.groups_of(cluster.settings.cgroup_mount, CGROUP_NODES))
        cgroups.unmount(layout)
        if delete_folder:
            delete(layout)


def _end_daemons(cluster: Cluster, names: tuple[str, ...]) -> None:
    """TERM first; KILL for what takes too long."""
    processes = [daemon.process for name, daemon in cluster.daemons.items() if name in names]
    left = end([process for process in processes if process], "TERM", STOP_S)
    if end(left, "KILL", STOP_S):
        raise DevClusterError(f"still running: {', '.join(str(process.pid) for process in left)}", "try again later")


def stop(layout: Layout, name: str, signal_name: str) -> str:
    """End or signal one daemon; `node.n1` means its slurmd and everything it has started, as in a power cut."""
    check_root()
    cluster = open_cluster(layout)
    with locked(layout):
        if not name.startswith("node."):
            return daemon_of(cluster, name).stop(signal_name)
        node = name.removeprefix("node.")
        said = daemon_of(cluster, f"slurmd.{node}").stop("KILL")
        kill_jobs(layout, cluster.settings, (node,))
        return f"{said}, and its jobs are gone"


def start(layout: Layout, name: str) -> str:
    check_root()
    cluster = open_cluster(layout)
    with locked(layout):
        return daemon_of(cluster, name.replace("node.", "slurmd.")).start()


def daemon_of(cluster: Cluster, name: str) -> Daemon:
    if name not in cluster.daemons:
        known = ", ".join(name.replace(".", " ") for name in cluster.daemons)
        raise DevClusterError(f"there is no daemon {name.replace('.', ' ')!r} in this cluster", f"there are {known}")
    return cluster.daemons[name]


def describe(settings: Settings) -> str:
    keys = " ".join(f"{key}={value}" for key, value in settings.keys)
    return f"variant {'+'.join(settings.variants)}, user {settings.user}" + (f", {keys}" if keys else "")
