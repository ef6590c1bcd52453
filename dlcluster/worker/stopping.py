"""How a request to stop travels: from a signal or a marker, through one byte of shared memory, to a step boundary.

Nothing is ever saved inside a signal handler: the handler notes the signal, the supervisor sets the byte, and the
training code sees it in `run.should_stop()` or when it logs or saves.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import time
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # the end is near; a SIGTERM that follows is no second request
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *WARNINGS)


class StopFlag:
    """One byte that a supervisor shares with all processes forked from it; looking at it costs no system call."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._memory[0] = 1

    def clear(self) -> None:
        self._memory[0] = 0

    def is_set(self) -> bool:
        return self._memory[0] != 0


class SignalLog:
    """Collects stop signals; `wake_fd` becomes readable with each of them, so that a waiting loop notices at once."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.wake_fd, self._write_fd = os.pipe()
        for fd in (self.wake_fd, self._write_fd):
            os.set_blocking(fd, False)

    def install(self) -> None:
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by who started us: now they arrive

    def _note(self, number: int, _frame: Any) -> None:
        self.received.append(number)

    def drain(self) -> None:
        try:
            while os.read(self.wake_fd, 512):
                pass
        except BlockingIOError:
            pass


def forget_handlers() -> None:
    """In a forked child: signals do what they do to any program, and none of ours runs in it."""
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def die_with_parent(number: int, parent: int) -> None:
    """Ask the kernel for a signal when the parent dies, and notice if it died just before."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Descendants whose parent dies become our children, so that none of them can get away."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def kill_group(pid: int, number: int) -> None:
    """Signal a process group that we started; no error if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def children_of(pid: int) -> list[int]:
    """The pids of a process's children, without starting a program."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(text) for text in file.read().split()]
    except OSError:
        pass  # a kernel without CONFIG_PROC_CHILDREN
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found.append(int(name))
    return found


class Patience:
    """A deadline that can be moved closer, on the clock that never jumps."""

    def __init__(self) -> None:
        self.at: float | None = None

    def within(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.at = end if self.at is None else min(self.at, end)

    def is_over(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at
