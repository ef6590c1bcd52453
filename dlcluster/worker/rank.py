"""The ranks of one trial on one node: forked, listened to, ended, and nothing of them left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.files import open_log, write_all
from dlcluster.journal import State
from dlcluster.run_dir import AttemptDir
from dlcluster.worker import child
from dlcluster.worker.forkserver import end_strays
from dlcluster.worker.seat import Seat
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import die_with_parent, forget_handlers, kill_group

SECONDS_TO_BE_RELEASED = 5.0  # of a rank that has not completed: until everybody knows that it was first
SECONDS_TO_DIE = 1.0  # between SIGTERM and SIGKILL, for ranks whose trial is over
LONGEST_LINE = 8192


@dataclass(frozen=True)
class Work:
    """What the ranks of a node have in common."""

    job: child.Job
    request: Mapping[str, Any]
    page: SharedPage
    rules: Mapping[str, Any]


@dataclass
class Rank:
    """One process, as its agent sees it."""

    seat: Seat
    pid: int
    channel: socket.socket
    output: int | None  # the end of a pipe; rank 0 writes into the log itself, and others may close theirs
    is_mute: bool = False  # it has closed its channel: it has ended, or is about to
    rest: bytes = b""
    said: bytes = b""
    code: int | None = None


class Ranks:
    """All ranks of a node for one trial, from the fork on. `private`: descriptors of the agent that they do not get."""

    def __init__(self, work: Work, seats: Sequence[Seat], private: Sequence[int]) -> None:
        attempt, node = AttemptDir(Path(work.request["attempt_dir"])), seats[0].node
        self.log_file = attempt.log_of_node(node)
        self.peak_rss_mb = 0.0
        self._work, self._private, self._log = work, private, -1
        self._was_killed, self._kill_at = False, float("inf")
        self._all: list[Rank] = []
        for seat in seats:
            self._all.append(self._fork(seat))

    # -- their beginning ---------------------------------------------------------------------------------------

    def _fork(self, seat: Seat) -> Rank:
        ours, theirs = socket.socketpair()
        output, their_output = (None, None) if seat.is_first else os.pipe()
        agent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for descriptor in (*self._private, *self.descriptors(), ours.fileno(), *([output] if output else ())):
                os.close(descriptor)
            _be_rank(their_output, agent, lambda: _serve(theirs, self._work, seat))
        theirs.close()
        ours.setblocking(False)
        if their_output is not None:
            os.close(their_output)
            os.set_blocking(output, False)
        return Rank(seat, pid, ours, output)

    # -- what they say -----------------------------------------------------------------------------------------

    def descriptors(self) -> list[int]:
        """What becomes readable when one of them says something."""
        open_ones = [rank for rank in self._all if rank.code is None]
        channels = [rank.channel.fileno() for rank in open_ones if not rank.is_mute]
        return channels + [rank.output for rank in open_ones if rank.output is not None]

    def new_outcomes(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for rank in self._all:
            self._copy_output(rank)
            with contextlib.suppress(BlockingIOError):
                while data := _receive(rank.channel):
                    rank.said += data
                rank.is_mute = True
            *lines, rank.said = rank.said.split(b"\n")
            for line in lines:
                yield rank.seat.rank, json.loads(line)

    def new_exits(self) -> list[tuple[int, int, bool]]:
        """Rank, exit code, and whether we had killed it. Only then is all there that `new_outcomes` can find of it."""
        found = []
        for rank in self._all:
            if rank.code is not None:
                continue
            pid, status, usage = os.wait4(rank.pid, os.WNOHANG)
            if not pid:
                continue
            kill_group(rank.pid, signal.SIGKILL)  # what it has left running
            rank.code = os.waitstatus_to_exitcode(status)
            self.peak_rss_mb = round(self.peak_rss_mb + usage.ru_maxrss / 1024, 1)
            found.append((rank.seat.rank, rank.code, self._was_killed))
        return found

    def _copy_output(self, rank: Rank) -> None:
        """Into the log of the node, each line with the number of its rank."""
        if rank.output is None:
            return
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(rank.output, 1 << 16):
                data += piece
            os.close(rank.output)
            rank.output = None
        *lines, rank.rest = (rank.rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(rank.rest) > LONGEST_LINE:
            lines, rank.rest = [*lines, rank.rest], b""
        self._write(rank, lines)

    def _write(self, rank: Rank, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        with contextlib.suppress(OSError):  # the disk is full, or the folder gone: the journal is what counts
            if self._log < 0:
                self._log = open_log(self.log_file)
            write_all(self._log, b"".join(b"[rank %d] %s\n" % (rank.seat.rank, line) for line in lines))

    # -- their end ---------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Whoever waits with its outcome may go."""
        for rank in self._all:
            with contextlib.suppress(OSError):
                rank.channel.send(b"\n")

    def send_signal(self, number: int) -> None:
        """To the ranks themselves, and to none that they have started."""
        for rank in self._all:
            if rank.code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.pid, number)

    def stop_now(self) -> None:
        """Their trial is over: SIGTERM, and a second later SIGKILL."""
        self._kill_at = min(self._kill_at, time.monotonic() + SECONDS_TO_DIE)
        self.kill(signal.SIGTERM)

    def kill(self, number: int) -> None:
        self._was_killed = True
        self._work.page.announce_kill()
        for rank in self._all:
            if rank.code is None:
                kill_group(rank.pid, number)

    def lose_patience(self) -> None:
        if time.monotonic() >= self._kill_at:
            self._kill_at = float("inf")
            self.kill(signal.SIGKILL)

    def all_have_gone(self) -> bool:
        return all(rank.code is not None for rank in self._all)

    def end(self) -> None:
        """All of them, at once."""
        self.kill(signal.SIGKILL)
        for rank in self._all:
            if rank.code is None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(rank.pid, 0)
        self.close()

    def close(self) -> None:
        """Also of what has left its rank's process group, and so come to us."""
        end_strays()
        for rank in self._all:
            self._copy_output(rank)
            self._write(rank, [rank.rest] if rank.rest else [])
            rank.channel.close()
            if rank.output is not None:
                os.close(rank.output)
        if self._log >= 0:
            os.close(self._log)


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1 << 16)
    except ConnectionError:
        return b""


def _be_rank(output: int | None, agent: int, serve: Callable[[], int]) -> None:
    """The life of a rank. Never returns."""
    code = int(WorkerExit.BAD_ENVIRONMENT)
    try:
        forget_handlers()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL, agent)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
        code = serve()
    except BaseException as error:
        child.print_traceback(error)
    finally:
        os._exit(code)


def _serve(channel: socket.socket, work: Work, seat: Seat) -> int:
    child.begin(work.page, work.rules)
    os.environ.update(seat.environment())
    outcome = child.run_trial(work.request, work.job, work.page, work.rules, seat)
    if isinstance(outcome, WorkerExit):
        return outcome
    channel.sendall(json.dumps(outcome).encode() + b"\n")
    if outcome["state"] != State.COMPLETED.value:
        _wait_to_be_released(channel)
    return outcome["exit"]


def _wait_to_be_released(channel: socket.socket) -> None:
    """Our end closes connections, and other ranks fail of that: so first everybody must know that ours came first."""
    channel.settimeout(SECONDS_TO_BE_RELEASED)
    with contextlib.suppress(OSError):
        channel.recv(1)
