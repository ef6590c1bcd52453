"""Who a process is, and whether it still runs, without comparing any clocks.

A process is named by its host, the host's boot, its pid and the tick at which it started: a pid alone may be reused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OF_A_PROCESS = ("boot", "pid_namespace", "pid", "pid_start")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def start_tick(pid: int) -> int | None:
    """The clock tick, counted from boot, at which a process started; None if it is gone or only a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the program's name may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def pid_namespace() -> str:
    """In which numbering of processes our pids are: two containers of one machine each have a process 1."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def identity(pid: int) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": boot_id(),
        "pid_namespace": pid_namespace(),
        "pid": pid,
        "pid_start": start_tick(pid),
    }


def is_alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether the process that `identity` described still runs; None if only another host could tell.

    The boot tells this machine, whatever its name is now; the name tells it after another boot.
    """
    if owner.get("boot") == boot_id() and owner.get("pid_namespace") == pid_namespace():
        pid, started = owner.get("pid"), owner.get("pid_start")
        return isinstance(pid, int) and started is not None and start_tick(pid) == started
    if owner.get("host") == socket.gethostname() and owner.get("boot") != boot_id():
        return False
    return None


def is_same_process(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether `identity` described one process twice."""
    return all(one.get(key) == other.get(key) for key in OF_A_PROCESS)
