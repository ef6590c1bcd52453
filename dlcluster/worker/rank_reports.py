"""What the ranks of a trial have said about their ends, and what that makes of the trial."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.worker.command import end_reason

# An end that is never the consequence of another rank's: torch's own watchdogs raise, or abort.
OF_ITS_OWN = {-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}
OF_RANK_0 = ("written", "step", "first_save_s")  # only its run writes


class RankReports:
    """In the order in which they arrive: the first rank that did not complete decides."""

    def __init__(self, n_nodes: int, per_node: int) -> None:
        self.n_nodes, self.per_node = n_nodes, per_node
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._codes: dict[int, int] = {}
        self._first: tuple[int, dict[str, Any]] | None = None
        self._crash: tuple[int, dict[str, Any]] | None = None
        self._ended: dict[int, float] = {}  # by node: the peak of its memory

    def add(self, node: int, message: Mapping[str, Any]) -> None:
        if "gone" in message:
            self._ended[node] = message["peak_rss_mb"]
        elif "outcome" in message:
            self._add_outcome(message["rank"], dict(message["outcome"]))
        elif "exit" in message:
            self._add_exit(message["rank"], message)

    def _add_outcome(self, rank: int, outcome: dict[str, Any]) -> None:
        self._outcomes[rank] = outcome
        if outcome["state"] != State.COMPLETED.value and self._first is None:
            self._first = rank, outcome

    def _add_exit(self, rank: int, message: Mapping[str, Any]) -> None:
        """Of a rank that has said nothing before, and that nobody of us had killed."""
        code = self._codes[rank] = message["exit"]
        if rank in self._outcomes or message["was_killed"]:
            return
        outcome: dict[str, Any] = {"exit": code}
        if message["oom"]:
            text = "killed: out of memory"
            outcome.update(state=State.FAILED.value, reason="oom", message=text, signature="oom")
        if code in OF_ITS_OWN and self._crash is None:
            self._crash = rank, outcome
        if self._first is None:
            self._first = rank, outcome

    @property
    def first_state(self) -> str:
        """The state of the trial as soon as a rank has ended otherwise than by completing; else nothing."""
        return self._first[1].get("state", State.FAILED.value) if self._first else ""

    @property
    def all_nodes_have_ended(self) -> bool:
        return len(self._ended) == self.n_nodes

    def verdict(self) -> dict[str, Any]:
        """As a single child's: `state`, `reason`, ...; or no more than the `exit` code of a process without a word."""
        rank, outcome = self._crash or self._first or (0, self._if_none_failed())
        own = self._outcomes.get(0, {})
        more = {name: own[name] for name in OF_RANK_0 if name in own}
        if self._ended:
            more["peak_rss_mb"] = max(self._ended.values())
        if rank == 0 or outcome["exit"] in (WorkerExit.FENCED, WorkerExit.IO_LOST):
            return {**outcome, **more}
        return {**self._named(rank, outcome), **more}

    def _if_none_failed(self) -> dict[str, Any]:
        """All have completed; or some never got that far, because somebody of us had killed them."""
        n_missing = self.n_nodes * self.per_node - len(self._outcomes)
        return dict(self._outcomes[0]) if not n_missing else {"exit": -signal.SIGKILL}

    def _named(self, rank: int, outcome: dict[str, Any]) -> dict[str, Any]:
        where = f"rank {rank}" + (f" on node {rank // self.per_node}" if self.n_nodes > 1 else "")
        if "state" not in outcome:
            reason = "no_result" if outcome["exit"] == 0 else end_reason(outcome["exit"])
            outcome = {**outcome, "state": State.FAILED.value, "reason": reason, "signature": reason}
        if outcome["state"] == State.INTERRUPTED.value:
            return outcome
        return {**outcome, "message": f"{where}: {outcome.get('message') or outcome['reason']}"}
