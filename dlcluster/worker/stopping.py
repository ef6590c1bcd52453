"""How a request to stop travels: from a signal or a marker, through one byte of shared memory, to a step boundary.

Nothing is ever saved inside a signal handler: the handler notes the signal, the supervisor sets the byte, and the
training code sees it in `run.should_stop()` or when it logs or saves.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from dlcluster.worker.shared_page import SharedPage

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # the end is near; a SIGTERM that follows is no second request
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *WARNINGS)


class SignalLog:
    """Collects stop signals; `wake_fd` becomes readable with each of them, so that a waiting loop notices at once."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.n_continued = 0
        self.wake_fd, self._write_fd = os.pipe()
        for fd in (self.wake_fd, self._write_fd):
            os.set_blocking(fd, False)

    def install(self) -> None:
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, self._note_continued)  # the system has already let us go on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by who started us: now they arrive

    def _note(self, number: int, _frame: Any) -> None:
        self.received.append(number)

    def _note_continued(self, _number: int, _frame: Any) -> None:
        self.n_continued += 1

    def drain(self) -> None:
        try:
            while os.read(self.wake_fd, 512):
                pass
        except BlockingIOError:
            pass


def forget_handlers() -> None:
    """In a forked child: signals do what they do to any program, and none of ours runs in it."""
    signal.set_wakeup_fd(-1)
    for number in (*STOP_SIGNALS, signal.SIGCONT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def hear_requests(page: SharedPage) -> None:
    """In the child of a worker under Slurm: a SIGTERM that the supervisor has not announced is a request to stop.

    Under proctrack/linuxproc slurmstepd signals every process of the job, the trial's too, which would die of it while
    it could still save. What the trial forks gets the default back, so that data loaders can be ended as ever.
    A trial that is deaf in C code does not hear this handler either: SIGKILL ends it.
    """
    owner = os.getpid()

    def hear(_number: int, _frame: Any) -> None:
        if os.getpid() == owner and not page.is_kill_announced():
            page.set()
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def wait() -> None:
        # Python drops in the new process what arrives before it is ready: so it arrives afterwards
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def forget() -> None:
        if signal.getsignal(signal.SIGTERM) is hear:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        go_on()

    signal.signal(signal.SIGTERM, hear)
    os.register_at_fork(before=wait, after_in_parent=go_on, after_in_child=forget)


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
    """A deadline that can be moved closer, and before it the moment for a SIGTERM."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.sigterm_at: float | None = None
        self.at: float | None = None

    def within(self, seconds: float, sigterm_s: float | None = None) -> None:
        """Be over after so many seconds; without `sigterm_s` the SIGTERM is due after half of them."""
        now = self._now()
        self.until(now + (seconds / 2 if sigterm_s is None else sigterm_s), now + seconds)

    def until(self, sigterm_at: float | None, at: float | None) -> None:
        self.sigterm_at = _earlier(self.sigterm_at, sigterm_at)
        self.at = _earlier(self.at, at)

    def is_time_for_sigterm(self) -> bool:
        return self.sigterm_at is not None and self._now() >= self.sigterm_at

    def is_over(self) -> bool:
        return self.at is not None and self._now() >= self.at


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
