"""The supervisor: owns signals, the clock, the heartbeat, the claims and the last word about every attempt."""

from __future__ import annotations

import os
import select
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
from dlcluster.states import with_default_retry
from dlcluster.worker.agents import Agents
from dlcluster.worker.canary import Canary
from dlcluster.worker.claims import Claim, Claims, start_record
from dlcluster.worker.environment import SnapshotChanged, apply_rules, check_snapshot, complain
from dlcluster.worker.fellows import Fellows
from dlcluster.worker.forecast import Forecast
from dlcluster.worker.forkserver import Forker, ZygoteFailed
from dlcluster.worker.job_orders import DEFAULT_KILL_WAIT_S, JobOrders
from dlcluster.worker.leases import Leases
from dlcluster.worker.leaving import Leaving, reason_in_log
from dlcluster.worker.memory import OomCounter
from dlcluster.worker.orders import Orders
from dlcluster.worker.place import Place
from dlcluster.worker.pulse import BEAT_S, Pulse
from dlcluster.worker.quick_look import QuickLook
from dlcluster.worker.records import Recorder, RunDirectoryGone
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.slurm_job import LogWitness
from dlcluster.worker.stopping import SignalLog, adopt_orphans
from dlcluster.worker.trial_watch import MAY_NOT_WRITE, TrialWatch
from dlcluster.worker.worktime import WorkTime

LEASE_LOOK_S = 5.0
SHORT_WAIT_S = 0.2  # before looking again for a trial that others were about to take


class Supervisor:
    """One worker: takes trials of a submission until none is left, its time is up, or it is told to stop."""

    def __init__(
        self, sweep: SweepDir, intent: Mapping[str, Any], place: Place, signals: SignalLog, beat_s: float = BEAT_S
    ) -> None:
        self.rules = {**intent["rules"], "in_job": place.job is not None}
        self.sweep, self.intent, self.place, self.signals = sweep, intent, place, signals
        self.witness = LogWitness(place.job.log_file if place.job else None)
        self.owner = {**place.owner, **identity(os.getpid())}
        self.clock = WorkTime(self.rules["time"], self.rules["margin"], place.elapsed)
        if place.left is not None:
            self.clock.end_within(place.left)
        self.pulse = Pulse(sweep, self.owner, intent["id"], beat_s)
        self.page, self.recorder, self.oom = SharedPage(), Recorder(self.pulse), OomCounter()
        self.forker = self._make_forker()
        self.orders = self._make_orders()
        n_fellows = self.rules.get("trials_at_once", 1) - 1
        self.fellows = Fellows(sweep.path, intent["id"], place, n_fellows, self.forker.spared)
        self.orders.pass_on = self.fellows.pass_on
        self.claims = Claims(
            sweep,
            sweep.read_plan(),
            place.share(intent),
            self.rules["max_attempts"],
            retry=with_default_retry(self.rules.get("retry")),
            job=self.owner.get("job"),
            called_off=sweep.submission(intent["id"]).read_called_off,
        )
        self.leases = Leases(sweep, beat_s, self.clock.now)
        self.canary = Canary(self.pulse, bool(self.rules.get("canary")))
        self.forecast = Forecast()
        self._last: tuple[Claim, dict[str, Any]] | None = None

    def _make_forker(self) -> Forker | Agents:
        """A trial of several processes has an agent on each of its nodes, in place of the zygote."""
        n_nodes, per_node = self.rules.get("nodes", 1), self.rules.get("processes_per_node", 1)
        if n_nodes * per_node == 1:
            return Forker(self.page, self.rules, self.signals)
        return Agents(
            self.page,
            self.rules,
            self.signals,
            n_nodes=n_nodes,
            per_node=per_node,
            asked=lambda: self.orders.stop("stop_requested"),
        )

    def _make_orders(self) -> Orders:
        common = self.pulse, self.signals, self.clock, self.place.parent
        if self.place.job is None:
            return Orders(*common)
        look = QuickLook(self.place.job, self.forker.spared)
        kill_wait = self.rules.get("kill_wait") or DEFAULT_KILL_WAIT_S
        return JobOrders(*common, look=look, kill_wait_s=kill_wait, grace_s=self.rules["grace"])

    def run(self) -> int:
        """Work until done. Returns the exit code of the worker."""
        adopt_orphans()
        try:
            self.pulse.begin()
            self._work()
        except (ZygoteFailed, SnapshotChanged) as failure:
            self.orders.hold(str(failure))
            self.orders.exit_code = WorkerExit.BAD_ENVIRONMENT
        except RunDirectoryGone as gone:
            complain(f"{gone}: the run directory is gone; stopping")
            self.orders.exit_code = WorkerExit.IO_LOST
        except OSError as error:
            complain(f"{error}; stopping")
            self.orders.exit_code = WorkerExit.DISK if is_disk_full(error) else WorkerExit.IO_LOST
        finally:
            self.forker.close()
            self.recorder.finish_quietly()
            self.fellows.see_off(self.orders, self._wait)
            self.orders.close()
            self.pulse.finish(self.orders.reason)
        return int(self._leave())

    def _leave(self) -> WorkerExit:
        if self.place.job is None:
            return self.orders.exit_code
        leaving = Leaving(
            self.place.job,
            self.orders,
            self.recorder,
            witness=self.witness,
            is_called_off=self.claims.are_called_off,
        )
        try:
            if self.place.fellow:
                return leaving.leave_it_to_the_first(self._last)
            return leaving.leave(
                self._last,
                lambda: self.claims.is_any_left(self.leases.dead),
                lambda: self.fellows.have_begun(self.pulse.beats_of_fellows()),
            )
        except OSError as error:
            complain(f"not requeued: {error}")
            return WorkerExit.IO_LOST

    # -- one trial after another -------------------------------------------------------------------------------

    def _work(self) -> None:
        """A job that is started again and finds its share finished leaves before it has imported anything."""
        if not self._something_is_left():
            return
        check_snapshot(Path(self.rules["code"]), self.intent["snapshot"])
        self.fellows.start()
        if not self.forker.start(self.orders.may_go_on):
            return
        while (claim := self._next_claim()) is not None:
            self._start(claim)
            self.forker.send(claim)
            self.recorder.record_waiting()  # the last trial's records become durable while this one trains
            outcome = self._wait_for_outcome(claim)
            if outcome is not None:
                self._finish(claim, outcome)
        self.recorder.record_waiting()

    def _next_claim(self) -> Claim | None:
        while self.orders.may_go_on() and self._has_time_for_another():
            if self.canary.must_wait(self.leases.dead):
                self.leases.look(self.canary.unknown)
                self._wait(self.canary.look_s)
            elif claim := self._claim_one():
                return claim
            elif self._something_is_left():
                self._wait(SHORT_WAIT_S)
            elif not self.fellows.wait_for_one(self.orders.may_go_on, self._wait):
                return None
        return None

    def _claim_one(self) -> Claim | None:
        if self.claims.all_have_been_tried():
            self.recorder.record_waiting()  # what this worker itself has just ended may be free again
        for trial, number in self.claims.candidates(self.leases.dead):
            self.pulse.working_on(trial.id, number)
            if self.canary.must_stand_back(self.leases.dead):
                break
            if claim := self.claims.claim(trial, number):
                return claim
            if not self.canary.is_over:
                break
        self.pulse.idle()
        return None

    def _has_time_for_another(self) -> bool:
        """Not for one that could neither save something nor end before it would be asked to stop."""
        left = self.clock.seconds_to_deadline()
        if left is None or left > self.forecast.needed_s():
            return True
        self.recorder.record_waiting()
        if self.claims.is_any_left(self.leases.dead):
            self.orders.stop("deadline")
        return False

    def _something_is_left(self) -> bool:
        """Whether to go on looking. Where only another host could tell who is alive, its heartbeats are watched.

        That takes one beat if all of them move, and three if one does not: then its trial is free.
        """
        self.recorder.record_waiting()
        self.leases.begin()
        while self.orders.may_go_on():
            if self.claims.is_any_left(self.leases.dead):
                return True
            n_dead, unknown = len(self.leases.dead), self.claims.unknown_owners()
            self.leases.look(unknown)
            if not self.leases.undecided(unknown):
                return False
            if len(self.leases.dead) == n_dead:
                self._wait(min(LEASE_LOOK_S, self.leases.beat_s / 4))
        return False

    def _wait(self, seconds: float) -> None:
        """A signal ends it."""
        select.select([self.signals.wake_fd], [], [], seconds)
        self.signals.drain()

    def _start(self, claim: Claim) -> None:
        self.page.clear()
        self.orders.cancelled_trial = None
        self.oom.reset()
        origin = {"submission": self.intent["id"], "snapshot": self.intent["snapshot"]}
        if self.rules["command"]:
            origin["command"] = True  # its checkpoints are its own: what it logs is its progress
        self.recorder.start(claim, start_record(claim, self.owner, time=time.time(), **origin))

    def _finish(self, claim: Claim, outcome: dict[str, Any]) -> None:
        if self.place.job is not None and outcome["reason"] == "stop_requested":
            # already in the log: asked of Slurm first, it might come too late for a record before the SIGKILL
            outcome["reason"] = reason_in_log(self.witness.tail(), self.place.job) or outcome["reason"]
        self._last = claim, outcome
        self.recorder.add(claim, outcome)
        self.forecast.note(outcome)
        self.pulse.count(claim.trial.id, outcome)
        if outcome["reason"] == "disk" and not self.pulse.has_space():
            raise OSError(28, os.strerror(28), str(self.sweep.path))
        if outcome["state"] == State.FAILED.value and self.pulse.shall_hold(outcome.get("signature", "")):
            self.orders.hold(f"{outcome['reason']}: {outcome['message']}")

    def _wait_for_outcome(self, claim: Claim) -> dict[str, Any] | None:
        """How the trial ended, or None if another worker has taken it over."""
        watch = TrialWatch(claim.trial.id, self.forker, self.page, self.orders, self.rules)
        outcome: dict[str, Any] | None = None
        while outcome is None:
            outcome = self.forker.poll(watch.tick_s)
            self.orders.look_around()
            watch.act()
            if outcome is None and self.recorder.is_due() and self._is_fenced(claim):
                return None
        if "state" not in outcome and outcome["exit"] in MAY_NOT_WRITE and self.recorder.is_fenced(claim):
            return None
        return watch.judge(outcome, self.oom.has_risen)

    def _is_fenced(self, claim: Claim) -> bool:
        """Another worker has begun a later attempt: end ours without another byte."""
        try:
            fenced = self.recorder.is_fenced(claim)
        except RunDirectoryGone:
            self.forker.kill_child(signal.SIGKILL)
            raise
        if fenced:
            self.forker.close()
        return fenced


def work(run_dir: Path, submission_id: str, place: Place, signals: SignalLog, beat_s: float = BEAT_S) -> int:
    """The whole life of a worker. Returns its exit code."""
    sweep = SweepDir(run_dir)
    try:
        intent = sweep.submission(submission_id).read_intent()
        if intent is None:
            complain(f"{run_dir}: no submission {submission_id!r}")
            return int(WorkerExit.BAD_ENVIRONMENT)
        apply_rules(intent["rules"])
        supervisor = Supervisor(sweep, intent, place, signals, beat_s)
    except OSError as error:
        complain(f"{error}; nothing was started")
        return int(WorkerExit.IO_LOST)
    return supervisor.run()
