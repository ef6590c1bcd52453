"""The daemons of a cluster: how each is started, and how it shows that it is ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import accounting
from .commands import clean_environment, wait_for
from .errors import DevClusterError
from .layout import Layout
from .ports import is_open, is_open_unix, port_of
from .processes import Process, end, read_record, spawn
from .settings import CGROUP_NODES, NODES, Settings

START_S = 60
STOP_S = 30
SIGNAL_S = 10
TAIL_LINES = 6


@dataclass(frozen=True)
class Daemon:
    name: str
    layout: Layout
    argv: tuple[str, ...]
    is_ready: Callable[[], bool]
    port: int | None = None
    prepare: Callable[[], None] = lambda: None

    @property
    def process(self) -> Process | None:
        """The one that was started last, if it still lives."""
        process = read_record(self.layout.record(self.name))
        return process if process and process.is_alive else None

    def start(self) -> str:
        """Start it, or wake it if it was stopped with STOP. Returns what was done."""
        if process := self.process:
            if not process.is_stopped:
                return f"{self.name} is running, pid {process.pid}"
            process.send("CONT")
            return f"{self.name} goes on, pid {process.pid}"
        if self.port is not None and is_open(self.port):
            raise DevClusterError(
                f"{self.name} cannot start: another program listens on port {self.port}",
                "stop that program, or run devcluster down and devcluster up, which chooses free ports",
            )
        self.prepare()
        record = self.layout.record(self.name)
        environment = clean_environment(self.layout.slurm_conf)
        process = spawn(self.argv, environment, self.layout.output(self.name), record)
        wait_for(lambda: self.is_ready() or not process.is_alive, START_S)
        if not (process.is_alive and self.is_ready()):
            what = "did not get ready" if process.is_alive else "ended at once"
            raise DevClusterError(f"{self.name} {what}:\n{self._last_words()}", f"see {self.layout.log(self.name)}")
        return f"{self.name} started, pid {process.pid}"

    def stop(self, signal_name: str = "TERM") -> str:
        """End or signal it, and wait until that shows."""
        process = self.process
        if process is None:
            return f"{self.name} is not running"
        if signal_name in ("TERM", "INT", "KILL"):
            if end([process], signal_name, STOP_S):
                raise DevClusterError(
                    f"{self.name}, pid {process.pid}, is still there {STOP_S} s after SIG{signal_name}",
                    f"use --signal KILL, and see {self.layout.log(self.name)}",
                )
            return f"{self.name} ended, pid {process.pid}"
        process.send(signal_name)
        if signal_name in ("STOP", "CONT"):
            wait_for(lambda: process.is_stopped == (signal_name == "STOP"), SIGNAL_S)
        return f"{self.name} got SIG{signal_name}, pid {process.pid}"

    def _last_words(self) -> str:
        lines = []
        for path in (self.layout.log(self.name), self.layout.output(self.name)):
            if path.exists():
                lines = path.read_text(errors="replace").splitlines() or lines
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


def all_daemons(layout: Layout, settings: Settings) -> dict[str, Daemon]:
    """In the order in which they are started."""
    made = [_munged(layout)]
    if settings.has_accounting:
        made += [_mariadb(layout, settings), _slurm(layout, settings, "slurmdbd", "slurmdbd", ())]
    made.append(_slurm(layout, settings, "slurmctld", "slurmctld", ("-f", str(layout.slurm_conf))))
    for node in NODES:
        conf = layout.slurm_conf if node in CGROUP_NODES else layout.slurm_conf_linuxproc
        made.append(_slurm(layout, settings, f"slurmd.{node}", node, ("-f", str(conf), "-N", node)))
    return {daemon.name: daemon for daemon in made}


def _munged(layout: Layout) -> Daemon:
    argv = (
        *("munged", "--foreground", f"--key-file={layout.munge_key}", f"--socket={layout.munge_socket}"),
        *(f"--pid-file={layout.run}/munged.pid", f"--log-file={layout.log('munged')}"),
        *(f"--seed-file={layout.munge_key.parent}/munge.seed", "--num-threads=10"),
    )
    return Daemon("munged", layout, argv, lambda: is_open_unix(str(layout.munge_socket)))


def _mariadb(layout: Layout, settings: Settings) -> Daemon:
    port = _port(settings, "mariadb")
    argv = accounting.mariadb_argv(layout, port)
    return Daemon("mariadb", layout, argv, lambda: is_open(port), port, lambda: accounting.prepare_database(layout))


def _slurm(layout: Layout, settings: Settings, name: str, port_name: str, options: tuple[str, ...]) -> Daemon:
    """A daemon of Slurm, in the foreground; without slurmctld's -c, so that jobs survive a restart."""
    port = _port(settings, port_name)
    return Daemon(name, layout, (name.split(".", maxsplit=1)[0], "-D", *options), lambda: is_open(port), port)


def _port(settings: Settings, name: str) -> int:
    return port_of(settings.block or 0, name)
