"""The supervisor's side of the zygote: start it, send it trials, hear how they ended, leave nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dlcluster.worker.claims import Claim
from dlcluster.worker.memory import OomCounter
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.stopping import SignalLog, children_of, kill_group
from dlcluster.worker.zygote import run_zygote

SECONDS_TO_GO = 1.0  # of a zygote that is told to end; in the middle of an import it may be deaf


class ZygoteFailed(Exception):
    """The job could not be imported."""


class LineReader:
    """Complete JSON lines from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self._rest, self.is_closed = connection, b"", False

    def read(self) -> list[dict[str, Any]]:
        try:
            data = self.connection.recv(1 << 20)
        except ConnectionError:
            data = b""
        self.is_closed = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Forker:
    """One zygote and at most one child of it at a time."""

    def __init__(self, page: SharedPage, rules: Mapping[str, Any], signals: SignalLog) -> None:
        self.page, self.rules, self.signals = page, rules, signals
        self.spared: set[int] = set()  # programs that the supervisor itself has started
        self._zygote_pid = self._child_pid = 0
        self._control: LineReader | None = None
        self._channel: LineReader | None = None
        self._outcome: dict[str, Any] | None = None
        self._keep_waiting: Callable[[], bool] = lambda: True

    # -- the zygote --------------------------------------------------------------------------------------------

    def start(self, keep_waiting: Callable[[], bool]) -> bool:
        """Fork the zygote and wait until the job is imported; False if `keep_waiting` said to give up.

        Raises ZygoteFailed with what the import raised.
        """
        self._keep_waiting = keep_waiting
        oom = OomCounter()
        ours, theirs = socket.socketpair()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            run_zygote(theirs, supervisor, self.page, self.rules)
        theirs.close()
        self._zygote_pid, self._control = pid, LineReader(ours)
        while keep_waiting():
            for message in self._messages(1.0):
                if not message["ready"]:
                    raise ZygoteFailed(f"the job cannot be imported: {message['message']}")
                return True
            if self._control.is_closed:
                raise ZygoteFailed(self._why_it_died(oom))
        return False

    def _why_it_died(self, oom: OomCounter) -> str:
        if not oom.has_risen():
            return "the process that imports the job has died"
        more = "; give it more with launch.mem" if self.rules.get("in_job") else ""
        return f"the process that imports the job was killed: out of memory{more}"

    def _messages(self, timeout: float) -> list[dict[str, Any]]:
        control = self._control
        return control.read() if control and control.connection in self._readable(timeout) else []

    def _readable(self, timeout: float) -> set[Any]:
        """The connections that have something to read; a signal ends the waiting too."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.signals.wake_fd, selectors.EVENT_READ)
            for reader in (self._control, self._channel):
                if reader and not reader.is_closed:
                    selector.register(reader.connection, selectors.EVENT_READ)
            ready = {key.fileobj for key, _events in selector.select(timeout)}
        self.signals.drain()
        return ready

    # -- a trial -----------------------------------------------------------------------------------------------

    def send(self, claim: Claim) -> None:
        """Have the trial run, in a new child, or in the last one if the process is reused."""
        if self._control is None and not self.start(self._keep_waiting):
            self.close()  # asked to stop while the job was imported anew: `poll` says that the trial was killed
            return
        request = {"trial": claim.trial.to_json(), "attempt_dir": str(claim.attempt.path)}
        self._outcome = None
        with contextlib.suppress(OSError):  # the zygote or the child is dead: `poll` will say how the trial ended
            if self._channel is None:
                self._spawn()
            self._channel.connection.sendall(json.dumps(request).encode() + b"\n")
            if not self.rules["reuse_process"]:
                self._channel.connection.shutdown(socket.SHUT_WR)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = LineReader(ours)
        with theirs:
            socket.send_fds(self._control.connection, [b"fork"], [theirs.fileno()])

    def poll(self, timeout: float) -> dict[str, Any] | None:
        """How the trial ended, or None if it has not within `timeout` seconds.

        From the child itself (`state`, `reason`, ...) and, once it has gone, its `exit` code.
        """
        if self._control is None:
            return {"exit": -signal.SIGKILL}
        ready = self._readable(timeout)
        if self._channel and self._channel.connection in ready:
            for message in self._channel.read():
                self._outcome = message
                if self.rules["reuse_process"]:
                    return message
        if self._control.connection in ready:
            for message in self._control.read():
                self._child_pid = message.get("pid", self._child_pid)
                if "exit" in message:
                    return self._child_has_gone(message)
            if self._control.is_closed:
                return self._zygote_has_gone()
        return None

    def _child_has_gone(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._channel and not self._channel.is_closed:
            self._channel.connection.settimeout(0)
            self._drain_channel()
        self._forget_child()
        return {**message, **self._outcome} if self._outcome else message

    def _drain_channel(self) -> None:
        try:
            for message in self._channel.read():
                self._outcome = message
        except BlockingIOError:
            pass

    def _zygote_has_gone(self) -> dict[str, Any]:
        outcome = self._outcome or {"exit": -signal.SIGKILL}
        self.kill_child(signal.SIGKILL)
        self._forget_child()
        self._control.connection.close()
        self._control = None
        os.waitpid(self._zygote_pid, 0)
        self._zygote_pid = 0
        return outcome

    def signal_child(self, number: int) -> None:
        """To the trial's own process, and to none that it has started."""
        if self._child_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child_pid, number)

    def kill_child(self, number: int) -> None:
        self.page.announce_kill()
        if self._child_pid:
            kill_group(self._child_pid, number)

    def _forget_child(self) -> None:
        if self._channel:
            self._channel.connection.close()
        self._channel, self._child_pid = None, 0
        self.kill_strays()

    def kill_strays(self) -> None:
        """Processes that left the trial's group come to us when their parents die: end them, and reap them."""
        end_strays({self._zygote_pid, *self.spared})

    def close(self) -> None:
        """End the child and the zygote, and whatever else descends from us."""
        self.kill_child(signal.SIGKILL)
        if self._control:
            self._control.connection.close()
            self._control = None
        if self._zygote_pid:
            self._end_zygote()
        self._forget_child()

    def _end_zygote(self) -> None:
        pid, self._zygote_pid = self._zygote_pid, 0
        self.page.announce_kill()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + SECONDS_TO_GO
            while time.monotonic() < end:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def end_strays(spared: Collection[int] = ()) -> None:
    """Kill and reap our children, and what becomes ours when they die."""
    while strays := [pid for pid in children_of(os.getpid()) if pid not in spared]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)  # now its own children, if it has any, are ours: look again
