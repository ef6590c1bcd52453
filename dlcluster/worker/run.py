"""The run: what training code gets. It logs metrics, saves checkpoints, resumes, and hears when it should stop."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.files import AppendFile, make_dir_exclusively, sync_dir, write_bytes
from dlcluster.journal import State
from dlcluster.run_dir import AttemptDir, TrialDir
from dlcluster.trial import Trial
from dlcluster.worker import checkpoints
from dlcluster.worker.checkpoints import Checkpoint
from dlcluster.worker.records import sync_if_there
from dlcluster.worker.seat import ALONE, Seat
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.values import check_name, split_nonfinite

SECONDS_BETWEEN_SYNCS = 10.0


class Stopped(BaseException):
    """Raised by `run.log` and `run.save` when the trial has to end. Let it pass; `except Exception` does not catch it.

    Not an Exception, like KeyboardInterrupt: a training loop that survives errors must not survive this.
    """

    def __init__(self, state: State, reason: str, exit_code: WorkerExit, message: str = "") -> None:
        super().__init__(reason)
        self.state, self.reason, self.exit_code, self.message = state, reason, exit_code, message


class Fenced(BaseException):
    """Another attempt at this trial has begun: this process must not write another byte."""


class Lost(BaseException):
    """The folder of this attempt is gone: there is nowhere to write, and nothing is made anew."""


class Run:
    """The live handle of one attempt. Only the process that was given it may use it; forked loaders may not."""

    def __init__(
        self,
        trial: Trial,
        attempt: AttemptDir,
        trial_dir: TrialDir,
        page: SharedPage,
        rules: Mapping,
        *,
        seat: Seat = ALONE,
    ) -> None:
        self.trial_id, self.seed, self.params = trial.id, trial.seed, dict(trial.params)
        self.attempt, self.dir = attempt.number, trial_dir.path
        # of a trial with several processes; rank 0 is the one whose `log`, `save` and `predictions` write
        self.rank, self.world_size, self.local_rank = seat.rank, seat.world_size, seat.local_rank
        self.written: list[str] = []  # files that the supervisor makes durable before the trial counts as finished
        self.verdict: Stopped | None = None
        self._trial_dir, self._attempt_dir, self._page = trial_dir, attempt, page
        self._objective, self._on_nonfinite = rules["objective"], rules["on_nonfinite"]
        self._journal = self._open_journal()
        self._step, self._pid = 0, os.getpid()
        self._known_names: set[str] = set()
        self._began = self._synced = time.monotonic()
        self.first_save_s: float | None = None  # how long it took to a checkpoint that nobody had asked for
        self._names_are_durable, self._n_durable = False, 0  # of the journal's folders; of `written`
        self._asked = False  # whether the training code has been told that it should stop
        self._logged_since_request = False
        self.raises_when_asked = True
        self._checked_loadable = False
        self.on_metrics: Callable[[int, Mapping[str, Any]], None] | None = None

    # -- what training code calls ------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
        """Record numbers for a step (default: one more than the last). May raise Stopped.

        Numbers, numpy scalars and one-element tensors are taken; anything else raises TypeError with the metric's name.
        """
        self._check_process("log")
        values = {**metrics, **more} if metrics else more
        self._check_names(values)
        numbers, nonfinite = split_nonfinite(values)
        self._step = self._step + 1 if step is None else _checked_count("log: step", step)
        row: dict[str, Any] = {"kind": "metrics", "step": self._step, "time": time.time(), "metrics": numbers}
        if nonfinite:
            row["nonfinite"] = nonfinite
        self._journal.write_row(row)
        self._page.count_step()
        if self.on_metrics:
            self.on_metrics(self._step, numbers)
        if nonfinite:
            self._apply_nonfinite_policy(nonfinite)
        self._sync_now_and_then()
        if self._page.is_set() and self.raises_when_asked:
            self._stop_at_second_sight()

    def save(self, state: Mapping[str, Any], *, epoch: int = 0) -> None:
        """Write a checkpoint: atomic, verified by hash, the newest two are kept. Raises Stopped when asked to stop."""
        self._check_process("save")
        self._page.count()
        self._check_fence()
        self._sync_journal()
        self._sync_predictions()
        manifest = checkpoints.save(
            self._trial_dir,
            state,
            epoch=_checked_count("save: epoch", epoch),
            step=self._step,
            attempt=self.attempt,
            check=not self._checked_loadable,
        )
        self._checked_loadable = True
        if self.first_save_s is None and not self._page.is_set():
            self.first_save_s = round(time.monotonic() - self._began, 3)
        self._write("checkpoint", **{k: manifest[k] for k in ("step", "file", "bytes", "sha256")})
        self._page.count()
        if self._page.is_set():
            raise self._verdict(State.INTERRUPTED, "stop_requested", WorkerExit.INTERRUPTED)

    def resume(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, as a mapping with `.epoch` and `.step`, or None: start from scratch."""
        self._check_process("resume")
        found = checkpoints.load_newest(self._trial_dir, self.note)
        if found is None:
            if self.attempt > 1:
                self.went_on_from(0)
            return None
        checkpoint, name = found
        self._step = checkpoint.step
        self.went_on_from(checkpoint.step, file=name)
        return checkpoint

    def should_stop(self) -> bool:
        """Whether the trial has been asked to stop: save, then return. Cheap enough for every batch.

        Of several processes one may hear it a moment before the others: let them agree, say by an all_reduce with MAX.
        """
        self._page.count()
        return self.is_asked()

    def tick(self) -> None:
        """Say that the trial is not hanging, where it logs, saves and asks for a long time nothing."""
        self._page.count()

    def predictions(
        self,
        split: str,
        ids: Sequence[Any],
        *,
        correct: Sequence[Any] | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Store per-item results of the last logged step: `ids` (n,), and `correct` (n,) of bool or `scores` (n,).

        Paired tests and the crossed interval need them; all seeds of a config should report the same items.
        """
        self._check_process("predictions")
        self._check_fence()
        if split not in ("train", "validation"):
            raise ValueError(f"run.predictions: split is 'train' or 'validation', got {split!r}; test data stay sealed")
        from dlcluster.worker.predictions import npz_bytes

        make_dir_exclusively(self._trial_dir.predictions)
        file = self._trial_dir.predictions_file(split, self._step)
        write_bytes(file, npz_bytes(ids, correct, scores), durable=False)
        self.written.append(str(file))

    def note(self, message: str) -> None:
        """Put a remark into the journal."""
        self._write("note", message=message[:2000])

    # -- what the worker calls ---------------------------------------------------------------------------------

    def is_asked(self) -> bool:
        """As `should_stop`, but no sign of progress."""
        if self._page.is_set():
            self._asked = True
        return self._asked

    @property
    def step(self) -> int:
        return self._step

    def went_on_from(self, step: int, **more: Any) -> None:
        self._write("resume", step=step, **more)

    def was_asked_to_stop(self) -> bool:
        """Whether a normal return means "interrupted": the code has seen the request before it returned."""
        return self._asked

    def close(self) -> None:
        self._journal.close()

    # -- details -----------------------------------------------------------------------------------------------

    def _open_journal(self) -> AppendFile:
        return AppendFile(self._attempt_dir.journal)

    def _write(self, kind: str, **fields: Any) -> None:
        self._journal.write_row({"kind": kind, "time": time.time(), **fields})

    def _check_process(self, method: str) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(f"run.{method}: called in a forked process; only the trial's own process may")

    def _check_names(self, values: Mapping[str, Any]) -> None:
        for name in values:
            if name not in self._known_names:
                check_name(name)
                self._known_names.add(name)

    def _check_fence(self) -> None:
        numbers = [attempt.number for attempt in self._trial_dir.attempts()]
        if self.attempt not in numbers:
            raise Lost
        if numbers[-1] > self.attempt:
            raise Fenced

    def _verdict(self, state: State, reason: str, exit_code: WorkerExit, message: str = "") -> Stopped:
        """Remembered here too, in case the training code swallows the exception."""
        self.verdict = Stopped(state, reason, exit_code, message)
        return self.verdict

    def _apply_nonfinite_policy(self, nonfinite: Mapping[str, str]) -> None:
        grave = [name for name in nonfinite if name == self._objective or "loss" in name.lower()]
        if not grave or self._on_nonfinite == "record":
            return
        state = State.FAILED if self._on_nonfinite == "fail" else State.STOPPED
        message = f"{grave[0]} is {nonfinite[grave[0]]} at step {self._step}"
        raise self._verdict(state, "diverged", WorkerExit.DIVERGED, message)

    def _sync_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._synced > SECONDS_BETWEEN_SYNCS:
            self._sync_journal()
            self._synced = now

    def _sync_journal(self) -> None:
        """With the names on the way to it, once: a file that is durable in a folder that is not would be lost."""
        self._journal.sync()
        if self._names_are_durable:
            return
        trial = self._trial_dir
        try:
            for folder in (self._attempt_dir.path, trial.attempts_dir, trial.path, trial.path.parent):
                sync_dir(folder)
        except FileNotFoundError:
            raise Lost from None
        self._names_are_durable = True

    def _sync_predictions(self) -> None:
        """A checkpoint says that the trial has got this far: what it stored on the way will not be stored again."""
        new = self.written[self._n_durable :]
        if not new:
            return
        for name in new:
            sync_if_there(Path(name))
        sync_dir(self._trial_dir.predictions)
        if not self._n_durable:
            sync_dir(self._trial_dir.path)
        self._n_durable += len(new)

    def _stop_at_second_sight(self) -> None:
        """The first `log` after a request returns, so that the `save` after it can store this very step."""
        if self._logged_since_request:
            raise self._verdict(State.INTERRUPTED, "stop_requested", WorkerExit.INTERRUPTED)
        self._logged_since_request = True


def _checked_count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 0:
        raise ValueError(f"run.{what} must be an integer >= 0, got {value!r}")
    return value.__index__()


def seed_everything(seed: int) -> None:
    """The same start for python, numpy and torch, as far as the job has imported them."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
