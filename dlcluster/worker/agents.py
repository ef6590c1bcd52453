"""The supervisor's side of a trial with several processes: an agent on each of its nodes, in place of a zygote.

Which rank ended first is decided here, by the order in which the agents' reports arrive: a rank that has not completed
goes on living until its report is here, so that what other ranks say because it has gone comes later.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from dlcluster.journal import State
from dlcluster.worker.claims import Claim
from dlcluster.worker.forkserver import ZygoteFailed, end_strays
from dlcluster.worker.frames import Assembler
from dlcluster.worker.rank_reports import RankReports
from dlcluster.worker.seat import free_port
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.step import AGENT, Step, srun_command
from dlcluster.worker.stopping import SignalLog

SECONDS_TO_FOLLOW = 5.0  # of the other ranks, when one has stopped as it was asked to
SECONDS_TO_EXPLAIN = 1.0  # of a rank that has closed its connections before it has said why it fails
SECONDS_TO_GO = 3.0  # of agents whose input has been closed
SECONDS_TO_KILL = 10.0  # of agents that were told to kill their ranks: after that they are taken for lost


class Agents:
    """The same calls as those of `Forker`: one trial at a time, and nothing left behind.

    `asked`: is called when Slurm has signalled an agent, which may be long before it signals the supervisor.
    """

    def __init__(
        self,
        page: SharedPage,
        rules: Mapping[str, Any],
        signals: SignalLog,
        *,
        n_nodes: int,
        per_node: int,
        asked: Callable[[], None],
    ) -> None:
        self.page, self.rules, self.signals, self._asked = page, rules, signals, asked
        self.n_nodes, self.per_node = n_nodes, per_node
        self.spared: set[int] = set()  # programs that the supervisor itself has started
        self._step: Step | None = None
        self._heard = Assembler()
        self._ready: dict[int, str] = {}  # by node: what went wrong, or nothing
        self._reports: RankReports | None = None
        self._has_told_to_stop = self._has_released = False
        self._end_at = self._give_up_at = float("inf")
        self._keep_waiting: Callable[[], bool] = lambda: True

    # -- the agents --------------------------------------------------------------------------------------------

    def start(self, keep_waiting: Callable[[], bool]) -> bool:
        """Have the job imported on all nodes; False if `keep_waiting` said to give up. Raises ZygoteFailed."""
        self._keep_waiting = keep_waiting
        self._ready, self._heard = {}, Assembler()
        self._step = self._start_step()
        self._tell(do="prepare", rules=dict(self.rules), nodes=self.n_nodes, per_node=self.per_node)
        while keep_waiting():
            is_open = self._listen(1.0)
            if problem := next(filter(None, self._ready.values()), ""):
                raise ZygoteFailed(f"the job cannot be imported: {problem}")
            if len(self._ready) == self.n_nodes:
                return True
            if not is_open:
                raise ZygoteFailed(f"the processes that import the job have died{self._where_to_look()}")
        return False

    def _where_to_look(self) -> str:
        return "; what srun says about it is in the job's log" if self.n_nodes > 1 else ""

    def _start_step(self) -> Step:
        if self.n_nodes > 1 and not self.rules["in_job"]:
            raise ZygoteFailed("a trial on several nodes needs a job of Slurm")  # srun would wait for a new one
        try:
            if self.n_nodes == 1:
                step = Step([*AGENT, str(os.getpid())], detached=False)
                self.spared.add(step.pid)
                return step
            cpus = self.rules["cpus"] * self.per_node
            return Step(srun_command(self.n_nodes, cpus), detached=True)
        except OSError as error:
            raise ZygoteFailed(f"the agents cannot be started: {error}") from None

    def _tell(self, **order: Any) -> None:
        if self._step is not None:
            self._step.write(json.dumps(order).encode() + b"\n")

    def _listen(self, timeout: float) -> bool:
        """Take in what the agents say; a signal ends the waiting too. False once they have all gone."""
        step = self._step
        with selectors.DefaultSelector() as selector:
            selector.register(self.signals.wake_fd, selectors.EVENT_READ)
            selector.register(step.output, selectors.EVENT_READ)
            if step.input_if_full is not None:
                selector.register(step.input_if_full, selectors.EVENT_WRITE)
            selector.select(timeout)
        self.signals.drain()
        step.flush()
        data = step.read()
        for node, message in self._heard.feed(data or b""):
            self._take(node, message)
        return data != b""

    def _take(self, node: int, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            self._ready[node] = "" if message["ready"] else message["message"] or "?"
        elif "asked" in message:
            self._asked()
        elif "progress" in message:
            has_logged, progress = message["progress"]
            self.page.copy_signs(has_logged=has_logged, progress=progress)
        elif self._reports is not None:
            self._reports.add(node, message)
            self._end_what_is_over(self._reports)

    # -- a trial -----------------------------------------------------------------------------------------------

    def send(self, claim: Claim) -> None:
        """Have the trial run on all nodes."""
        self._reports = None
        self._has_told_to_stop = self._has_released = False
        self._end_at = self._give_up_at = float("inf")
        if self._step is None and not self.start(self._keep_waiting):
            self.close()  # asked to stop while the job was imported anew: `poll` says that the trial was killed
            return
        self._reports = RankReports(self.n_nodes, self.per_node)
        path = str(claim.attempt.path)
        self._tell(do="run", trial=claim.trial.to_json(), attempt_dir=path, port=free_port(f"{os.getpid()} {path}"))

    def poll(self, timeout: float) -> dict[str, Any] | None:
        """How the trial ended, or None if it has not within `timeout` seconds: as `Forker.poll`."""
        if self._step is None or self._reports is None:
            return {"exit": -signal.SIGKILL}
        if self.page.is_set() and not self._has_told_to_stop:
            self._has_told_to_stop = True
            self._tell(do="stop")
        is_open = self._listen(min(timeout, max(0.0, self._end_at - time.monotonic())))
        if self._reports.all_nodes_have_ended:
            return self._reports.verdict()
        if not is_open or time.monotonic() >= self._give_up_at:
            self._lose_step()
            return self._reports.verdict()
        if time.monotonic() >= self._end_at:
            self._end_ranks()
        return None

    def _end_what_is_over(self, reports: RankReports) -> None:
        """A rank has ended otherwise than by completing: the others cannot go on without it."""
        if not reports.first_state or self._give_up_at != float("inf"):
            return
        if not reports.is_explained:
            self._end_at = min(self._end_at, time.monotonic() + SECONDS_TO_EXPLAIN)
        elif reports.first_state != State.INTERRUPTED.value:
            self._end_ranks()
        elif not self._has_released:
            self._has_released = True
            self._tell(do="release")
            self._end_at = time.monotonic() + SECONDS_TO_FOLLOW

    def _end_ranks(self) -> None:
        self._end_at = float("inf")
        self._give_up_at = time.monotonic() + SECONDS_TO_KILL
        self._tell(do="end")

    def signal_child(self, number: int) -> None:
        """To all ranks, and to no process that they have started."""
        self._tell(do="signal", number=int(number))

    def kill_child(self, number: int) -> None:
        self.page.announce_kill()
        self._tell(do="kill", number=int(number))
        if number == signal.SIGKILL:
            self._give_up_at = min(self._give_up_at, time.monotonic() + SECONDS_TO_KILL)

    # -- the end -----------------------------------------------------------------------------------------------

    def _lose_step(self) -> None:
        """The agents are gone, or do not answer: whatever is left of them is ended."""
        step, self._step = self._step, None
        if step is None:
            return
        step.close_input()
        end = time.monotonic() + SECONDS_TO_GO
        while step.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        step.send_signal(signal.SIGTERM if self.n_nodes > 1 else signal.SIGKILL)  # srun ends its step at once
        end = time.monotonic() + SECONDS_TO_GO
        while step.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        step.close()
        self.spared.discard(step.pid)
        end_strays(self.spared)

    def close(self) -> None:
        """End the ranks and the agents. An agent whose input is closed ends its ranks at once."""
        self.page.announce_kill()
        self._lose_step()
