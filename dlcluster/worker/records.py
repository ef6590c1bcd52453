"""The first and the last record of every attempt, written by the supervisor and made durable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcluster.files import AppendFile, append_json_line, is_disk_full, sync_dir, sync_file
from dlcluster.run_dir import TrialDir
from dlcluster.worker.claims import Claim
from dlcluster.worker.environment import complain
from dlcluster.worker.pulse import Pulse

CHECK_S = 1.0


class RunDirectoryGone(OSError):
    """The folder that this worker writes in has been deleted, moved or unmounted."""


class Recorder:
    """Ends are queued and written while the next trial trains: an fsync costs more than a short trial."""

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self._waiting: list[tuple[Claim, Mapping[str, Any]]] = []
        self._next_check = 0.0

    def start(self, claim: Claim, row: Mapping[str, Any]) -> None:
        try:
            append_json_line(claim.attempt.journal, dict(row))
        except FileNotFoundError:
            raise RunDirectoryGone(str(claim.attempt.path)) from None

    def add(self, claim: Claim, outcome: Mapping[str, Any]) -> None:
        self._waiting.append((claim, outcome))

    def record_waiting(self) -> None:
        """Make everything of the queued trials durable, and only then say that they have ended."""
        while self._waiting:
            claim, outcome = self._waiting[0]
            try:
                self._record(claim, outcome)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                self.pulse.release_space()
                self._record(claim, outcome)
            self._waiting.pop(0)

    def finish_quietly(self) -> None:
        try:
            self.record_waiting()
        except OSError as error:
            complain(f"the last record could not be written: {error}")

    def _record(self, claim: Claim, outcome: Mapping[str, Any]) -> None:
        if self.is_fenced(claim):
            return
        for name in outcome.get("written", ()):
            sync_if_there(Path(name))
        row = {
            "kind": "end",
            "time": time.time(),
            "state": outcome["state"],
            "reason": outcome["reason"],
            "message": outcome.get("message", ""),
            "exit": outcome["exit"],
            "seconds": outcome["seconds"],
            "peak_rss_mb": outcome.get("peak_rss_mb"),
        }
        journal = AppendFile(claim.attempt.journal)
        try:
            self._sync_folders(claim, bool(outcome.get("written")))
            journal.write_row(row)
            journal.sync()
        finally:
            journal.close()

    def _sync_folders(self, claim: Claim, has_predictions: bool) -> None:
        trial = TrialDir(claim.attempt.path.parent.parent)
        folders = [claim.attempt.path, trial.attempts_dir]
        if claim.attempt.number == 1:
            folders += [trial.path, trial.path.parent]
        if has_predictions:
            folders.append(trial.predictions)
        for folder in folders:
            sync_dir(folder)

    # -- still ours? -------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        if time.monotonic() < self._next_check:
            return False
        self._next_check = time.monotonic() + CHECK_S
        return True

    def is_fenced(self, claim: Claim) -> bool:
        """Whether a higher attempt exists. Raises RunDirectoryGone if not even our own is there any more."""
        attempts = TrialDir(claim.attempt.path.parent.parent).attempts()
        if all(attempt.number != claim.attempt.number for attempt in attempts):
            raise RunDirectoryGone(str(claim.attempt.path))
        return attempts[-1].number > claim.attempt.number


def sync_if_there(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        sync_file(path)
