"""The version 1 cgroup controllers: found, mounted where possible, and cleaned up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .commands import run
from .layout import Layout

CONTROLLERS = ("freezer", "memory")  # for proctrack/cgroup and for task/cgroup


def find_or_mount(layout: Layout) -> str:
    """The folder with one mount per controller, or "" if this machine has no version 1 memory controller."""
    found = {_mounted(controller) for controller in CONTROLLERS}
    if None not in found and len(found) == 1:
        return str(found.pop())
    for controller in CONTROLLERS:
        target = layout.cgroup_mounts / controller
        target.mkdir(parents=True, exist_ok=True)
        if target.is_mount():
            continue
        mount = ["mount", "-t", "cgroup", "-o", controller, "cgroup", str(target)]
        if run(mount, check=False).returncode or not (target / "cgroup.procs").exists():
            unmount(layout)
            return ""
    return str(layout.cgroup_mounts)


def _mounted(controller: str) -> Path | None:
    """The parent of the controller's mount, if the mount is named as Slurm expects."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _device, where, kind, options = line.split()[:4]
        if kind == "cgroup" and controller in options.split(",") and Path(where).name == controller:
            return Path(where).parent
    return None


def has_swap_limits(mount: str) -> bool:
    return (Path(mount) / "memory" / "memory.memsw.limit_in_bytes").exists()


def groups_of(mount: str, nodes: Sequence[str]) -> list[Path]:
    """The topmost cgroup of each node, in each controller."""
    if not mount:
        return []
    every = [Path(mount) / controller / f"slurm_{node}" for controller in CONTROLLERS for node in nodes]
    return [path for path in every if path.is_dir()]


def remove_empty(groups: Sequence[Path]) -> None:
    """From the leaves up. A cgroup in which another cluster has processes cannot be removed, and stays."""
    for group in groups:
        for folder, _inner, _files in os.walk(group, topdown=False):  # says nothing about what others remove meanwhile
            with suppress(OSError):
                Path(folder).rmdir()


def unmount(layout: Layout) -> None:
    """What `find_or_mount` has mounted."""
    for controller in CONTROLLERS:
        target = layout.cgroup_mounts / controller
        if target.is_mount():
            run(["umount", str(target)])
