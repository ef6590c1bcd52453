"""What the ranks of a trial have said about their ends, and what that makes of the trial."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.worker.command import end_reason

# What a rank says when another one has gone. Its own connections may be closed before it has said why it goes: by a
# `finally` with dist.destroy_process_group(), say.
CONSEQUENCE = re.compile(
    r"\A(ConnectionError|Connection\w+Error|BrokenPipeError|DistBackendError|DistNetworkError|EOFError)\b"
    r"|connection (was )?(closed|reset|refused)|broken pipe|socket|gloo|nccl|TCPStore|store->|timed out",
    re.IGNORECASE,
)
OF_RANK_0 = ("written", "step", "first_save_s")  # only its run writes


class RankReports:
    """In the order in which they arrive: the first rank that did not complete decides.

    But one that has ended without a word, or fails of something else than its connections, is the cause and not the
    consequence, and comes before those that fail of a connection. torch's watchdogs, too, end a rank with SIGABRT.
    """

    def __init__(self, n_nodes: int, per_node: int) -> None:
        self.n_nodes, self.per_node = n_nodes, per_node
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._codes: dict[int, int] = {}
        self._first: tuple[int, dict[str, Any]] | None = None
        self._cause: tuple[int, dict[str, Any]] | None = None
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
        if outcome["state"] != State.COMPLETED.value:
            is_consequence = outcome["state"] == State.FAILED.value and CONSEQUENCE.search(outcome["message"])
            self._note(rank, outcome, is_cause=not is_consequence)

    def _note(self, rank: int, outcome: dict[str, Any], *, is_cause: bool) -> None:
        if self._first is None:
            self._first = rank, outcome
        if is_cause and self._cause is None:
            self._cause = rank, outcome

    def _add_exit(self, rank: int, message: Mapping[str, Any]) -> None:
        """Of a rank that has said nothing before, and that nobody of us had killed."""
        code = self._codes[rank] = message["exit"]
        if rank in self._outcomes or message["was_killed"]:
            return
        outcome: dict[str, Any] = {"exit": code}
        if message["oom"]:
            text = "killed: out of memory"
            outcome.update(state=State.FAILED.value, reason="oom", message=text, signature="oom")
        self._note(rank, outcome, is_cause=code != -signal.SIGABRT)

    @property
    def first_state(self) -> str:
        """The state of the trial as soon as a rank has ended otherwise than by completing; else nothing."""
        decisive = self._cause or self._first
        return decisive[1].get("state", State.FAILED.value) if decisive else ""

    @property
    def is_explained(self) -> bool:
        """Whether the cause has been heard, and not only what it did to others."""
        return self._cause is not None

    @property
    def all_nodes_have_ended(self) -> bool:
        return len(self._ended) == self.n_nodes

    def verdict(self) -> dict[str, Any]:
        """As a single child's: `state`, `reason`, ...; or no more than the `exit` code of a process without a word."""
        rank, outcome = self._cause or self._first or (0, self._if_none_failed())
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
