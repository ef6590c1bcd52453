"""Processes that outlive this program: started, remembered by pid and start time, signalled, found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .commands import wait_for
from .errors import DevClusterError

SIGNALS = ("TERM", "KILL", "STOP", "CONT", "INT", "HUP")


@dataclass(frozen=True)
class Process:
    """A pid alone may belong to somebody else by now; with the start time it cannot."""

    pid: int
    started: int  # in clock ticks since the machine started
    program: str

    @property
    def state(self) -> str:
        """The letter of /proc/<pid>/stat; "" if this process is gone."""
        found = _stat(self.pid)
        if found is None or found[1] != self.started or found[0] in "ZX":
            return ""
        # Slurm's daemons change their command line, and for a moment it is empty.
        return found[0] if self.program in command_line(self.pid) + command_name(self.pid) else ""

    @property
    def is_alive(self) -> bool:
        return bool(self.state)

    @property
    def is_stopped(self) -> bool:
        return self.state == "T"

    def send(self, name: str) -> None:
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, getattr(signal, f"SIG{name}"))


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def process_of(pid: int, program: str) -> Process | None:
    """What runs under this pid now."""
    found = _stat(pid)
    return Process(pid, found[1], program) if found else None


def spawn(argv: Sequence[str], environment: Mapping[str, str], output: Path, record: Path) -> Process:
    """Start in a session of its own, with nothing of this terminal, and write down who it is."""
    with open(output, "ab") as log:
        child = subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            umask=0o022,
        )
    child.returncode = 0  # it is meant to stay when this program leaves: no ResourceWarning about that
    process = process_of(child.pid, Path(argv[0]).name)
    if process is None:
        raise DevClusterError(f"{argv[0]} was gone at once", f"see {output}")
    record.write_text(json.dumps({"pid": process.pid, "started": process.started, "program": process.program}) + "\n")
    return process


def read_record(record: Path) -> Process | None:
    try:
        found = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    return Process(found["pid"], found["started"], found["program"])


def end(processes: Sequence[Process], name: str, timeout_s: float) -> list[Process]:
    """Signal all and wait until they are gone. Returns those that are still there."""
    for process in processes:
        process.send(name)
        process.send("CONT")  # a stopped process does not take TERM
    left = list(processes)

    def all_gone() -> bool:
        left[:] = [process for process in left if process.is_alive]
        return not left

    wait_for(all_gone, timeout_s)
    return left


def every_pid() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def environment_of(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def open_files(pid: int) -> set[str]:
    """The targets of the open file descriptors."""
    found = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.add(os.readlink(entry.path))
    return found
