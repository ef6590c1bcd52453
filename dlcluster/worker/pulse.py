"""What a worker says about itself, in one small file rewritten now and then, and the markers that tell it things."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from dlcluster.files import make_dir, reserve_space, write_json, write_text
from dlcluster.journal import State
from dlcluster.run_dir import SweepDir, WorkerDir
from dlcluster.states import IDENTICAL_FAILURES_THAT_HOLD

BEAT_S = 30.0
MARKERS_S = 1.0
LOOK_AT_A_FELLOW_S = 0.05  # with this much time for each, the file server is asked 20 times a second by a worker
SPARE_BYTES = 65_536


class Pulse:
    """The heartbeat of one worker: who it is, what it works on, how its trials ended."""

    def __init__(self, sweep: SweepDir, owner: Mapping[str, Any], submission: str, beat_s: float = BEAT_S) -> None:
        self.sweep, self.submission, self.beat_s = sweep, submission, beat_s
        self.name: str = owner["worker"]
        self.dir: WorkerDir = sweep.worker(self.name)
        self._beat: dict[str, Any] = {
            **owner,
            "submission": submission,
            "seq": 0,
            "current": None,
            "since": None,
            "finished": {},
            "last": None,
            "ended": "",
        }
        self._failures: dict[str, list[str]] = {}  # the first trials that failed in this way
        self._success_seen = False
        self._next_beat = self._next_look = self._next_look_at_fellows = -math.inf
        self._is_held = False

    def begin(self) -> None:
        make_dir(self.dir.path)
        reserve_space(self.dir.spare, SPARE_BYTES)
        self._write()

    def finish(self, reason: str) -> None:
        """The last beat. Says nothing if it cannot: the run directory may be gone or full."""
        self._beat.update(current=None, ended=reason or "done")
        self.release_space()
        with contextlib.suppress(OSError):
            self._write()

    def working_on(self, trial_id: str, attempt: int) -> None:
        """Said before the claim, so that a claim is never without an owner."""
        self._beat.update(current=[trial_id, attempt], since=time.time())
        self._write()

    def idle(self) -> None:
        self._beat.update(current=None)
        self._write()

    def beat_if_due(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._write()

    def _write(self) -> None:
        self._beat.update(seq=self._beat["seq"] + 1, time=time.time(), failures=dict(self._failures))
        write_json(self.dir.heartbeat, self._beat, durable=False)
        self._next_beat = time.monotonic() + self.beat_s

    # -- the end of trials -------------------------------------------------------------------------------------

    def count(self, trial_id: str, outcome: Mapping[str, Any]) -> None:
        state = outcome["state"]
        self._beat["finished"][state] = self._beat["finished"].get(state, 0) + 1
        self._beat["last"] = trial_id
        if state == State.COMPLETED.value:
            self._success_seen = True
        elif state == State.FAILED.value and outcome.get("signature"):
            trials = self._failures.setdefault(outcome["signature"], [])
            if trial_id not in trials and len(trials) < IDENTICAL_FAILURES_THAT_HOLD:
                trials.append(trial_id)

    def shall_hold(self, signature: str) -> bool:
        """Whether enough trials have failed like this, in all workers of the submission, without one success."""
        if self._success_seen or not signature:
            return False
        self._write()
        trials: set[str] = set()
        for beat in self.beats_of_fellows():
            if has_completed(beat):
                self._success_seen = True
                return False
            trials.update(beat.get("failures", {}).get(signature, ()))
        return len(trials) >= IDENTICAL_FAILURES_THAT_HOLD

    def hold(self, message: str) -> None:
        write_text(self.dir.marker("hold"), message + "\n", durable=False)

    def is_held(self) -> bool:
        """Whether any worker of the submission holds it. Where there are hundreds, each looks at all less often."""
        if not self._is_held and time.monotonic() >= self._next_look_at_fellows:
            fellows = list(self._fellows())
            self._is_held = any("hold" in worker.markers() for worker in fellows)
            self._next_look_at_fellows = time.monotonic() + len(fellows) * LOOK_AT_A_FELLOW_S
        return self._is_held

    def beats_of_fellows(self) -> list[dict[str, Any]]:
        """The heartbeats of all workers of the submission, this one's included."""
        found = (worker.read_heartbeat() for worker in self._fellows())
        return [beat for beat in found if isinstance(beat, dict)]

    def _fellows(self) -> Iterator[WorkerDir]:
        """All workers of the submission, this one included."""
        return (worker for worker in self.sweep.workers() if worker.path.name.startswith(self.submission))

    # -- markers and space -------------------------------------------------------------------------------------

    def markers_are_due(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + MARKERS_S
        return True

    def markers(self) -> set[str]:
        return self.dir.markers()

    def cancelled_trial(self) -> str | None:
        """The trial that a cancel marker names; None if it means all of them."""
        try:
            return self.dir.marker("cancel").read_text().strip() or None
        except OSError:
            return None

    def release_space(self) -> None:
        """Give the spare blocks back, so that a last record fits on a full disk."""
        with contextlib.suppress(OSError):
            self.dir.spare.unlink(missing_ok=True)

    def has_space(self) -> bool:
        """Probe by writing: whether there is room again for records."""
        try:
            reserve_space(self.dir.spare, SPARE_BYTES)
        except OSError:
            return False
        return True


def has_completed(beat: Mapping[str, Any]) -> bool:
    """Whether the worker of a heartbeat has brought any trial to its end."""
    return bool(beat.get("finished", {}).get(State.COMPLETED.value))
