"""Whether the kernel has killed for want of memory: the counters of our memory cgroup (v1 or v2), else of the host."""

from __future__ import annotations

import re
from pathlib import Path

OOM_LINE = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def counter_files() -> list[Path]:
    """Where the kernel counts: `memory.events` (cgroup v2), `memory.oom_control` (v1) and `/proc/vmstat`."""
    files = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append(Path("/sys/fs/cgroup" + path) / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(Path("/sys/fs/cgroup/memory" + path) / "memory.oom_control")
    return [*files, Path("/proc/vmstat")]


def n_oom_kills(file: Path) -> int | None:
    try:
        match = OOM_LINE.search(file.read_text())
    except OSError:
        return None
    return int(match[1]) if match else None


class OomCounter:
    """Notices that somebody was killed for want of memory since `reset`, by the narrowest counter there is."""

    def __init__(self) -> None:
        readable = [file for file in counter_files() if n_oom_kills(file) is not None]
        self._file = readable[0] if readable else None
        self._before = 0
        self.reset()

    def reset(self) -> None:
        self._before = self._count()

    def has_risen(self) -> bool:
        return self._count() > self._before

    def _count(self) -> int:
        return (n_oom_kills(self._file) or 0) if self._file else 0
