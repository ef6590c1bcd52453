"""The run of a rank other than 0: the same calls, none of which writes, so that a train function needs no `if`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.journal import State
from dlcluster.worker import checkpoints
from dlcluster.worker.checkpoints import Checkpoint
from dlcluster.worker.run import Run


class Nowhere:
    """A journal that nobody keeps: only rank 0 has one."""

    def write_row(self, _row: Mapping[str, Any]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class Follower(Run):
    """`log`, `save` and `predictions` check what they are given and end a trial that is asked to stop, as in rank 0."""

    def _open_journal(self) -> Any:
        return Nowhere()

    def save(self, state: Mapping[str, Any], *, epoch: int = 0) -> None:
        self._check_process("save")
        self._page.count()
        if self._page.is_set():
            raise self._verdict(State.INTERRUPTED, "stop_requested", WorkerExit.INTERRUPTED)

    def predictions(self, split: str, ids: Sequence[Any], **_results: Any) -> None:
        self._check_process("predictions")

    def resume(self) -> Checkpoint | None:
        """The checkpoint that rank 0 has taken: what this attempt has saved meanwhile does not count."""
        self._check_process("resume")
        found = checkpoints.load_of_earlier_attempt(self._trial_dir, self.attempt)
        if found is None:
            return None
        self._step = found.step
        return found

    def _sync_journal(self) -> None:
        pass

    def _apply_nonfinite_policy(self, nonfinite: Mapping[str, str]) -> None:
        """What is not recorded decides nothing: rank 0 has logged the value that counts."""
