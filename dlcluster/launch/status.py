"""How every trial of a sweep stands. Reading changes nothing, and needs no process that has to be alive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dlcluster.journal import AttemptFacts, State, TrialState
from dlcluster.owners import Owners
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.states import MAX_ATTEMPTS_WITHOUT_PROGRESS, trial_state
from dlcluster.trial import Trial


@dataclass(frozen=True)
class TrialStatus:
    """`last_metrics` are those of the last row that was logged, `step` is its step."""

    trial: Trial
    state: TrialState
    n_attempts: int
    step: int = 0
    last_metrics: Mapping[str, Any] | None = None
    seconds: float = 0.0
    message: str = ""


class StateRule:
    """The rule by which a trial's records become its state, with one look at who is alive."""

    def __init__(self, sweep: SweepDir, plan: Plan) -> None:
        self._owners = Owners(sweep)
        launch = plan.spec.get("launch", {})
        self._max_attempts = launch.get("max_attempts", MAX_ATTEMPTS_WITHOUT_PROGRESS)
        self.hold_message = hold_message(sweep)

    def __call__(self, trial_id: str, attempts: Sequence[AttemptFacts]) -> TrialState:
        state = trial_state(attempts, lambda facts: self._owners.alive(trial_id, facts), self._max_attempts)
        if state.state is State.WAITING and self.hold_message:
            return TrialState(State.HELD, self.hold_message)
        return state


def read_statuses(sweep: SweepDir, plan: Plan, trials: Iterable[Trial] | None = None) -> list[TrialStatus]:
    """The state of all trials (or of those given), in the order of the plan."""
    rule = StateRule(sweep, plan)
    return [read_status(sweep, trial, rule) for trial in (plan.trials if trials is None else trials)]


def read_status(sweep: SweepDir, trial: Trial, rule: StateRule) -> TrialStatus:
    try:
        facts = [attempt.facts() for attempt in sweep.trial(trial).attempts()]
    except OSError as error:
        return TrialStatus(trial, TrialState(State.UNREADABLE, f"{error.strerror}: {error.filename}"), 0)
    state = rule(trial.id, facts)
    if not facts:
        return TrialStatus(trial, state, 0)
    row = next((f.last_metrics for f in reversed(facts) if f.last_metrics), None)
    ends = [f.end for f in facts if f.end]
    return TrialStatus(
        trial,
        state,
        len(facts),
        row["step"] if row else 0,
        row["metrics"] if row else None,
        sum(end.get("seconds", 0.0) for end in ends),
        ends[-1].get("message", "") if ends else "",
    )


def hold_message(sweep: SweepDir) -> str:
    """Why the newest submission starts nothing more; "" if it is not held."""
    workers = sweep.workers()
    newest = max((worker.path.name.rpartition("-")[0] for worker in workers), default="")
    for worker in workers:
        if worker.path.name.rpartition("-")[0] == newest and "hold" in worker.markers():
            with suppress(OSError):
                return worker.marker("hold").read_text(errors="replace").strip()
    return ""


def count_states(statuses: Iterable[TrialStatus]) -> dict[str, int]:
    """How many trials are in each state, in the order of `State`."""
    counts = {state.value: 0 for state in State}
    for status in statuses:
        counts[status.state.state.value] += 1
    return {state: n for state, n in counts.items() if n}
