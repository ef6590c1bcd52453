"""`python -m dlcluster.worker.node_agent [PARENT]`: imports the job once, and forks a node's ranks for each trial.

Told what to do by lines on its standard input, it reports with frames on its standard output (frames.py):

    told     prepare (rules, nodes, per_node)  run (trial, attempt_dir, port)  stop  release  end  signal, kill (number)
    reports  ready (message)  progress [logged, count]  rank with outcome, or with exit  asked  gone (peak_rss_mb)

The end of its input is the end of the supervisor, or of srun: then nothing stays behind.
"""

from __future__ import annotations

from dlcluster.worker.stopping import SignalLog

signals = SignalLog()
signals.install()

import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from typing import Any  # noqa: E402

from dlcluster.errors import WorkerExit  # noqa: E402
from dlcluster.files import write_all  # noqa: E402
from dlcluster.worker import child, frames  # noqa: E402
from dlcluster.worker.environment import apply_rules  # noqa: E402
from dlcluster.worker.memory import OomCounter  # noqa: E402
from dlcluster.worker.rank import Ranks, Work  # noqa: E402
from dlcluster.worker.seat import master_address, seats_of_node  # noqa: E402
from dlcluster.worker.shared_page import SharedPage  # noqa: E402
from dlcluster.worker.stopping import PR_SET_PDEATHSIG, WARNINGS, adopt_orphans, die_with_parent  # noqa: E402
from dlcluster.worker.zygote import import_job  # noqa: E402

TICK_S = 1.0


class NodeAgent:
    """`node`: its number among those of the trial; `say`: the file descriptor that goes to the supervisor."""

    def __init__(self, node: int, hear: int, say: int) -> None:
        self.node, self._hear, self._say = node, hear, say
        self.page, self.oom = SharedPage(), OomCounter()
        self.job: child.Job | None = None
        self.rules: Mapping[str, Any] = {}
        self.ranks: Ranks | None = None
        self._rest, self._is_deaf = b"", False
        self._n_signals, self._stop_at = 0, float("inf")
        self._signs = (False, 0)
        self._next_signs = 0.0
        self._n_nodes = self._per_node = 1

    def run(self) -> None:
        """Until nobody is left to tell us anything."""
        while not self._is_deaf:
            self._wait()
            self._hear_signals()
            self._hear_orders()
            if self.ranks is not None:
                self._look_after(self.ranks)
        if self.ranks is not None:
            self.ranks.end()

    def _wait(self) -> None:
        inputs = [signals.wake_fd, self._hear, *(self.ranks.descriptors() if self.ranks else ())]
        select.select(inputs, [], [], TICK_S if self.ranks else None)
        signals.drain()

    def tell(self, **message: Any) -> None:
        try:
            write_all(self._say, frames.to_lines(self.node, message))
        except OSError:
            self._is_deaf = True  # who does not listen does not speak either

    # -- what we are told --------------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        """Slurm signals its steps, sometimes long before the supervisor: that is a request to stop.

        The supervisor passes it on to all nodes at once, so that no rank hears it long before another.
        """
        new = [number for number in signals.received[self._n_signals :] if number not in WARNINGS]
        self._n_signals = len(signals.received)
        if new:
            self._stop_at = min(self._stop_at, time.monotonic() + TICK_S)
            self.tell(asked=True)

    def _hear_orders(self) -> None:
        ready, _, _ = select.select([self._hear], [], [], 0)
        if not ready:
            return
        data = os.read(self._hear, 1 << 20)
        if not data:
            self._is_deaf = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: Mapping[str, Any]) -> None:
        match order["do"]:
            case "prepare":
                self._prepare(order)
            case "run":
                self._begin(order)
            case "stop":
                self.page.set()
            case "release" if self.ranks:
                self.ranks.release()
            case "signal" if self.ranks:
                self.ranks.send_signal(order["number"])
            case "end" if self.ranks:
                self.ranks.stop_now()
            case "kill" if self.ranks:
                self.ranks.kill(order["number"])

    def _prepare(self, order: Mapping[str, Any]) -> None:
        self.rules, self._n_nodes, self._per_node = order["rules"], order["nodes"], order["per_node"]
        apply_rules(self.rules)
        self.job, problem = import_job(self.rules)
        signals.install()  # the job's imports may have taken them
        signal.signal(signal.SIGCHLD, _wake_up)
        _prctl(PR_SET_PDEATHSIG, 0)  # from here on the end of our input says it, and leaves time to end the ranks
        self.tell(ready=self.job is not None, message=problem)

    def _begin(self, order: Mapping[str, Any]) -> None:
        self.page.clear()
        self.oom.reset()
        self._signs = (False, 0)
        address = master_address(os.environ, self._n_nodes)
        seats = seats_of_node(self.node, self._n_nodes, self._per_node, address, order["port"])
        self.ranks = Ranks(Work(self.job, order, self.page, self.rules), seats, (self._hear, self._say))

    # -- what we report ----------------------------------------------------------------------------------------

    def _look_after(self, ranks: Ranks) -> None:
        if time.monotonic() >= self._stop_at:
            self.page.set()
        exits = ranks.new_exits()
        for rank, outcome in ranks.new_outcomes():
            self.tell(rank=rank, outcome=outcome)
        for rank, code, was_killed in exits:
            is_oom = code == -signal.SIGKILL and not was_killed and self.oom.has_risen()
            self.tell(rank=rank, exit=code, was_killed=was_killed, oom=is_oom)
        ranks.lose_patience()
        if self.node == 0:
            self._tell_signs()
        if ranks.all_have_gone():
            ranks.close()
            self.ranks = None
            self.tell(gone=True, peak_rss_mb=ranks.peak_rss_mb)

    def _tell_signs(self) -> None:
        signs = (self.page.has_logged, self.page.progress)
        if signs != self._signs and time.monotonic() >= self._next_signs:
            self._signs, self._next_signs = signs, time.monotonic() + TICK_S
            self.tell(progress=signs)


def _wake_up(_number: int, _frame: Any) -> None:
    """The signal's number in the pipe of `signals` ends the waiting."""


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> int:
    parent = int(sys.argv[1]) if len(sys.argv) > 1 else None
    if parent is not None:
        die_with_parent(signal.SIGKILL, parent)  # while it imports, it may be deaf to anything less
    hear, say = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what the job prints while it is imported is no report
    adopt_orphans()
    node = 0 if parent is not None else int(os.environ.get("SLURM_PROCID", "0"))
    NodeAgent(node, hear, say).run()
    return int(WorkerExit.DONE)


if __name__ == "__main__":
    os._exit(main())
