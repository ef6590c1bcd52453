"""How every trial of a sweep stands. Reading changes nothing, and needs no process that has to be alive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcluster.journal import AttemptFacts, State, TrialState
from dlcluster.launch.usage import seconds_of, wasted_seconds
from dlcluster.owners import Owners
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.states import MAX_ATTEMPTS_WITHOUT_PROGRESS, trial_state, with_default_retry
from dlcluster.trial import Trial

if TYPE_CHECKING:
    from dlcluster.launch.coverage import Coverage

UNSETTLED = frozenset({State.WAITING, State.RUNNING, State.INTERRUPTED})


@dataclass(frozen=True)
class TrialStatus:
    """`last_metrics` are those of the last row that was logged, `step` is its step.

    `seconds` of all attempts, `wasted` seconds of those that brought nothing.
    """

    trial: Trial
    state: TrialState
    n_attempts: int
    step: int = 0
    last_metrics: Mapping[str, Any] | None = None
    seconds: float = 0.0
    message: str = ""
    wasted: float = 0.0


class StateRule:
    """The rule by which a trial's records become its state, with one look at who is alive.

    `max_age_s`: how old the scheduler's answer may be, where it has to be asked.
    """

    def __init__(self, sweep: SweepDir, plan: Plan, max_age_s: float | None = None) -> None:
        self._owners = Owners(sweep)
        launch = plan.spec.get("launch", {})
        self._max_attempts = launch.get("max_attempts", MAX_ATTEMPTS_WITHOUT_PROGRESS)
        self._retry = with_default_retry(launch.get("retry"))
        self.hold_message = hold_message(sweep)
        self.coverage = find_coverage(sweep, max_age_s)

    def __call__(self, trial_id: str, attempts: Sequence[AttemptFacts]) -> TrialState:
        state = self._from_files(trial_id, attempts)
        if self.coverage is not None and not self._is_plain(trial_id, attempts, state):
            state = self._with_scheduler(self.coverage, trial_id, attempts, state)
        if state.state is State.WAITING and self.hold_message:
            return TrialState(State.HELD, self.hold_message)
        return state

    def _is_plain(self, trial_id: str, attempts: Sequence[AttemptFacts], state: TrialState) -> bool:
        """Whether the files say all there is to say: it has completed, or runs here before our eyes."""
        if state.state is State.RUNNING:
            return self._owners.alive(trial_id, attempts[-1]) is True
        return state.state is State.COMPLETED

    def _from_files(self, trial_id: str, attempts: Sequence[AttemptFacts]) -> TrialState:
        return trial_state(attempts, lambda facts: self._owners.alive(trial_id, facts), self._max_attempts, self._retry)

    def _with_scheduler(
        self, coverage: Coverage, trial_id: str, attempts: Sequence[AttemptFacts], state: TrialState
    ) -> TrialState:
        from dlcluster.launch.settle import Hearsay, settle, with_end_from_scheduler

        covering = coverage.covering(trial_id)
        n_first = covering[2] if covering else 0
        if state.state not in UNSETTLED and len(attempts) >= n_first:
            return state  # final, and nobody has asked for it again: the scheduler need not be asked
        own = coverage.word_of_job(attempts[-1].start or {}) if attempts else None
        if attempts:
            alive = self._owners.alive(trial_id, attempts[-1])
            state = self._from_files(trial_id, with_end_from_scheduler(attempts, alive, own, coverage.answers))
        cover = coverage.word_for(covering[0], covering[1]) if covering else None
        called_off = bool(covering and covering[0].is_called_off(trial_id))
        return settle(state, len(attempts), Hearsay(own, cover, n_first, called_off, coverage.silence()))


def find_coverage(sweep: SweepDir, max_age_s: float | None) -> Coverage | None:
    """Where to ask about the jobs of a sweep; None if it has never been given to a scheduler."""
    if not any(submission.script(0).exists() for submission in sweep.submissions()):
        return None
    from dlcluster.launch.coverage import Coverage

    return Coverage(sweep) if max_age_s is None else Coverage(sweep, max_age_s)


def read_statuses(
    sweep: SweepDir, plan: Plan, trials: Iterable[Trial] | None = None, max_age_s: float | None = None
) -> list[TrialStatus]:
    """The state of all trials (or of those given), in the order of the plan."""
    rule = StateRule(sweep, plan, max_age_s)
    return [read_status(sweep, trial, rule) for trial in (plan.trials if trials is None else trials)]


def read_status(sweep: SweepDir, trial: Trial, rule: StateRule) -> TrialStatus:
    try:
        facts = [attempt.facts() for attempt in sweep.trial(trial).attempts()]
        state = rule(trial.id, facts)
        if facts and facts[-1].end is None and state.state is not State.RUNNING:
            # it may have ended, and its job as well, after we read its files and before we asked about the job
            facts = [attempt.facts() for attempt in sweep.trial(trial).attempts()]
            state = rule(trial.id, facts)
    except OSError as error:
        return TrialStatus(trial, TrialState(State.UNREADABLE, f"{error.strerror}: {error.filename}"), 0)
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
        sum(map(seconds_of, facts)),
        ends[-1].get("message", "") if ends else "",
        wasted_seconds(facts),
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
