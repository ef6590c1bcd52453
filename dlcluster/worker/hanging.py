"""A trial that does nothing any more: no line logged, nothing saved, not even a look at whether it should stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.worker.shared_page import SharedPage

DEFAULT_TIMEOUT_S = 1800.0
PATIENCE = 5.0  # times the longest silence so far, start-up included: epochs of an hour are no sign of hanging
SECONDS_TO_TELL = 1.0  # between SIGQUIT and SIGTERM: of two that are pending at once, the latter wins
SECONDS_TO_DIE = 30.0  # between SIGTERM and SIGKILL


class HangClock:
    """Runs from the first step that a trial logs (before, it may compile or copy data) and is set back by progress.

    Where the spec does not say how long is too long, a trial that was silent for long before and went on is given that
    much and more again.
    """

    def __init__(self, page: SharedPage, now: Callable[[], float], timeout_s: float | None) -> None:
        self._page, self._now = page, now
        self._patience = PATIENCE if timeout_s is None else 0.0
        self.timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        self._seen, self._since, self._longest = -1, now(), 0.0

    def has_hung(self) -> bool:
        if not self._page.has_logged:
            return False
        if (progress := self._page.progress) != self._seen:
            self._longest = max(self._longest, self._now() - self._since)
            self._seen, self._since = progress, self._now()
        return self._now() - self._since >= self._limit_s()

    def _limit_s(self) -> float:
        return max(self.timeout_s, self._patience * self._longest)

    def verdict(self) -> dict[str, Any]:
        return {
            "state": State.FAILED.value,
            "reason": "hung",
            "exit": int(WorkerExit.HUNG),
            "message": f"no sign of progress for {self._limit_s():g} s; the end of its log shows where it stood",
            "signature": "hung",
        }
