"""The supervisor: owns signals, the clock, the heartbeat, the claims and the last word about every attempt."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcluster.errors import WorkerExit
from dlcluster.files import is_disk_full
from dlcluster.journal import State
from dlcluster.liveness import identity
from dlcluster.run_dir import SweepDir
from dlcluster.worker.claims import Claim, Claims, start_record
from dlcluster.worker.command import end_reason
from dlcluster.worker.environment import SnapshotChanged, apply_rules, check_snapshot, complain
from dlcluster.worker.forkserver import Forker, ZygoteFailed
from dlcluster.worker.memory import OomCounter
from dlcluster.worker.pulse import Pulse
from dlcluster.worker.records import Recorder, RunDirectoryGone
from dlcluster.worker.stopping import WARNINGS, Patience, SignalLog, StopFlag, adopt_orphans

TICK_S, SHORTEST_TICK_S = 1.0, 0.05
TIME_FOR_THE_RECORD = 0.1  # of the margin: left when a trial that has not stopped is killed
MAY_NOT_WRITE = (WorkerExit.FENCED, WorkerExit.IO_LOST)  # says a child without a word; a program may exit so as well
DID_NOT_STOP = {"state": State.INTERRUPTED.value, "reason": "stop_requested", "message": "did not stop in time"}


class Supervisor:
    """One worker: takes trials of a submission until none is left, its time is up, or it is told to stop."""

    def __init__(self, sweep: SweepDir, intent: Mapping[str, Any], worker_id: str, signals: SignalLog) -> None:
        self.rules = intent["rules"]
        self.sweep, self.intent, self.signals = sweep, intent, signals
        self.owner = {"worker": worker_id, **identity(os.getpid())}
        self.parent = os.getppid()
        self.pulse = Pulse(sweep, worker_id, self.owner, intent["id"])
        self.claims = Claims(sweep, sweep.read_plan(), intent["trials"], self.rules["max_attempts"])
        self.stop, self.patience = StopFlag(), Patience()
        self.recorder = Recorder(self.pulse)
        self.oom = OomCounter()
        self.started = time.monotonic()
        self.stop_reason = ""  # why this worker takes no further trial
        self.exit_code = WorkerExit.DONE
        self._n_signals_seen = 0
        self._was_asked = self._in_a_hurry = False
        self._time_to_kill_at: float | None = None  # when a trial that has not stopped by itself gets a SIGTERM
        self._was_killed = False
        self._cancelled_trial: str | None = None

    def run(self) -> int:
        """Work until done. Returns the exit code of the worker."""
        adopt_orphans()
        forker = Forker(self.stop, self.rules, self.signals)
        try:
            self.pulse.begin()
            check_snapshot(Path(self.rules["code"]), self.intent["snapshot"])
            if forker.start(self._may_wait):
                self._work(forker)
        except (ZygoteFailed, SnapshotChanged) as failure:
            self._hold(str(failure))
            self.exit_code = WorkerExit.BAD_ENVIRONMENT
        except RunDirectoryGone as gone:
            complain(f"{gone}: the run directory is gone; stopping")
            self.exit_code = WorkerExit.IO_LOST
        except OSError as error:
            complain(f"{error}; stopping")
            self.exit_code = WorkerExit.DISK if is_disk_full(error) else WorkerExit.IO_LOST
        finally:
            forker.close()
            self.recorder.finish_quietly()
            self.pulse.finish(self.stop_reason)
        return int(self.exit_code)

    # -- one trial after another -------------------------------------------------------------------------------

    def _work(self, forker: Forker) -> None:
        claim = self._next_claim()
        while claim is not None:
            self._start(claim)
            forker.send(claim)
            self.recorder.record_waiting()  # the last trial's records become durable while this one trains
            outcome = self._wait_for_outcome(forker, claim)
            if outcome is not None:
                self._finish(forker, claim, outcome)
            claim = self._next_claim()
        self.recorder.record_waiting()

    def _next_claim(self) -> Claim | None:
        self._look_around()
        if self.stop_reason or not self._has_time_for_another():
            return None
        if self.claims.all_have_been_tried():
            self.recorder.record_waiting()  # what this worker itself has just ended may be free again
        for trial, number in self.claims.candidates():
            self.pulse.working_on(trial.id, number)
            claim = self.claims.claim(trial, number)
            if claim is not None:
                return claim
        self.pulse.idle()
        return None

    def _start(self, claim: Claim) -> None:
        self.stop.clear()
        self._cancelled_trial = None
        self.oom.reset()
        origin = {"submission": self.intent["id"], "snapshot": self.intent["snapshot"]}
        if self.rules["command"]:
            origin["command"] = True  # its checkpoints are its own: what it logs is its progress
        self.recorder.start(claim, start_record(claim, self.owner, time=time.time(), **origin))

    def _finish(self, forker: Forker, claim: Claim, outcome: dict[str, Any]) -> None:
        self.recorder.add(claim, outcome)
        self.pulse.count(claim.trial.id, outcome)
        if outcome["reason"] == "disk" and not self.pulse.has_space():
            raise OSError(28, os.strerror(28), str(self.sweep.path))
        if outcome["state"] == State.FAILED.value and self.pulse.shall_hold(outcome.get("signature", "")):
            self._hold(f"{outcome['reason']}: {outcome['message']}")

    # -- waiting for a trial -----------------------------------------------------------------------------------

    def _wait_for_outcome(self, forker: Forker, claim: Claim) -> dict[str, Any] | None:
        """How the trial ended, or None if another worker has taken it over."""
        began = time.monotonic()
        self.patience, self._time_to_kill_at, self._was_killed = Patience(), None, False
        outcome: dict[str, Any] | None = None
        while outcome is None:
            outcome = forker.poll(self._tick_s())
            self._look_around()
            if self.stop_reason or self._cancelled_trial == claim.trial.id:
                self._ask_child_to_stop()
            self._lose_patience(forker)
            if outcome is None and self.recorder.is_due() and self._is_fenced(forker, claim):
                return None
        outcome["seconds"] = round(time.monotonic() - began, 3)
        return self._judge(outcome, claim, began)

    def _tick_s(self) -> float:
        """Until the next look around: a second, or less if something is to be done before."""
        moments = [self.patience.at, None if self._was_killed else self._time_to_kill_at]
        if not self.stop_reason:
            moments.append(self._deadline())
        left = min((moment - time.monotonic() for moment in moments if moment is not None), default=TICK_S)
        return min(max(left, SHORTEST_TICK_S), TICK_S)

    def _lose_patience(self, forker: Forker) -> None:
        if self.patience.is_over():
            forker.kill_child(signal.SIGKILL)
        elif self._time_to_kill_at is not None and not self._was_killed and time.monotonic() >= self._time_to_kill_at:
            forker.kill_child(signal.SIGTERM)
            self._was_killed = True

    def _judge(self, outcome: dict[str, Any], claim: Claim, began: float) -> dict[str, Any] | None:
        """The supervisor's knowledge on top of what the child said: why it was stopped, and what killed it."""
        if "state" not in outcome:
            if outcome["exit"] in MAY_NOT_WRITE and self.recorder.is_fenced(claim):
                return None
            outcome.update(self._from_exit_code(outcome["exit"]))
        elif self._was_killed and outcome["state"] == State.FAILED.value:
            outcome.update(DID_NOT_STOP)  # our SIGTERM has hit its data loaders first, say
        if not self.stop.is_set() or outcome["state"] != State.INTERRUPTED.value:
            return outcome
        if self._cancelled_trial == claim.trial.id or self.stop_reason == "cancelled":
            outcome.update(state=State.CANCELLED.value, reason="by_user")
        else:
            outcome["reason"] = "deadline" if self._had_its_time(began) else "stop_requested"
        return outcome

    def _had_its_time(self, began: float) -> bool:
        """Stopped by the deadline; but a trial that began late in the worker's time has only been interrupted."""
        if self.stop_reason != "deadline":
            return False
        return began - self.started <= (self.rules["time"] - self.rules["margin"]) / 2

    def _from_exit_code(self, code: int) -> dict[str, Any]:
        if self.stop.is_set():
            return dict(DID_NOT_STOP)
        if code == -signal.SIGKILL and self.oom.has_risen():
            return {"state": State.FAILED.value, "reason": "oom", "message": "killed: out of memory"}
        reason = "no_result" if code == 0 else end_reason(code)
        return {"state": State.FAILED.value, "reason": reason, "message": "", "signature": reason}

    def _is_fenced(self, forker: Forker, claim: Claim) -> bool:
        """Another worker has begun a later attempt: end ours without another byte."""
        try:
            fenced = self.recorder.is_fenced(claim)
        except RunDirectoryGone:
            forker.kill_child(signal.SIGKILL)
            raise
        if fenced:
            forker.close()
        return fenced

    # -- being told to stop ------------------------------------------------------------------------------------

    def _may_wait(self) -> bool:
        """Whether to go on waiting for the job's import."""
        self._look_around()
        return not self.stop_reason

    def _look_around(self) -> None:
        """Signals, markers, the deadline, the parent: anything that says that it is time to go."""
        self.pulse.beat_if_due()
        new_signals = self.signals.received[self._n_signals_seen :]
        self._n_signals_seen += len(new_signals)
        for number in new_signals:
            self._hear(number)
        if self.pulse.markers_are_due():
            self._read_markers()
            if os.getppid() != self.parent:
                self._stop("stop_requested")  # nobody is left who could stop us later
        if self._deadline_margin_reached():
            self._stop("deadline")

    def _hear(self, number: int) -> None:
        """Whoever asks twice wants it at once; a warning, or the end of the time, is not asking."""
        if number not in WARNINGS:
            if self._was_asked:
                self._in_a_hurry = True
                self.patience.within(0)
            self._was_asked = True
        self._stop("stop_requested")

    def _stop(self, reason: str) -> None:
        """The first reason counts; but a sweep that is held lets trials go on, and a reason to stop does not."""
        if self.stop_reason in ("", "held"):
            self.stop_reason = reason
            self.exit_code = WorkerExit.DONE if reason == "cancelled" else WorkerExit.INTERRUPTED

    def _read_markers(self) -> None:
        markers = self.pulse.markers()
        if "cancel" in markers:
            trial = self.pulse.cancelled_trial()
            if trial is None:
                self._stop("cancelled")
            else:
                self._cancelled_trial = trial
        if "stop" in markers:
            self._stop("stop_requested")
        if self.pulse.is_held():
            self.stop_reason = self.stop_reason or "held"

    def _ask_child_to_stop(self) -> None:
        if self.stop_reason == "held" or self.stop.is_set():
            return  # a held sweep starts nothing new; what runs may finish
        self.stop.set()
        patience_s = 0.0 if self._in_a_hurry else self._patience_s()
        self.patience.within(patience_s)
        if not self.rules["command"]:  # a program has had a SIGTERM as the request; a second would disturb its saving
            self._time_to_kill_at = time.monotonic() + patience_s / 2

    def _patience_s(self) -> float:
        """A trial asked by the deadline has until shortly before the worker's time is over, any other its grace."""
        limit = self.rules["time"]
        if limit is None:
            return self.rules["grace"]
        left = self.started + limit - TIME_FOR_THE_RECORD * self.rules["margin"] - time.monotonic()
        return max(0.0, left if self.stop_reason == "deadline" else min(left, self.rules["grace"]))

    def _hold(self, message: str) -> None:
        self.stop_reason = "held"
        self.pulse.hold(message)
        complain(f"holding the sweep: {message}")

    # -- the clock ---------------------------------------------------------------------------------------------

    def _deadline_margin_reached(self) -> bool:
        deadline = self._deadline()
        return deadline is not None and time.monotonic() >= deadline

    def _deadline(self) -> float | None:
        """When trials are asked to stop, so that they have ended before the worker's time has."""
        limit = self.rules["time"]
        return None if limit is None else self.started + limit - self.rules["margin"]

    def _has_time_for_another(self) -> bool:
        if self._deadline_margin_reached():
            self.exit_code = WorkerExit.INTERRUPTED
            return False
        return True


def work(run_dir: Path, submission_id: str, worker_id: str, signals: SignalLog) -> int:
    """The whole life of a worker. Returns its exit code."""
    sweep = SweepDir(run_dir)
    intent = sweep.submission(submission_id).read_intent()
    if intent is None:
        complain(f"{run_dir}: no submission {submission_id!r}")
        return int(WorkerExit.BAD_ENVIRONMENT)
    apply_rules(intent["rules"])
    return Supervisor(sweep, intent, worker_id, signals).run()
