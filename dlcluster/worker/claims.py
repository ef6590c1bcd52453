"""Which trial a worker takes next: the first that nobody has, claimed by making its attempt's folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcluster.files import make_dir_exclusively
from dlcluster.journal import TrialState
from dlcluster.owners import Owners
from dlcluster.run_dir import AttemptDir, Plan, SweepDir
from dlcluster.states import DEFAULT_RETRY, may_go_on, trial_state
from dlcluster.trial import Trial


@dataclass(frozen=True)
class Claim:
    trial: Trial
    attempt: AttemptDir


class Claims:
    """The trials of one submission, in order; each is claimed at most once by any of all workers.

    `job` is the Slurm job of this worker, if it runs in one. `called_off` reads which trials are not to be run any more
    (None: none of them), also while this worker works.
    """

    def __init__(
        self,
        sweep: SweepDir,
        plan: Plan,
        wanted: Sequence[Sequence[Any]],
        max_attempts: int,
        *,
        retry: Mapping[str, int] = DEFAULT_RETRY,
        job: Mapping[str, Any] | None = None,
        called_off: Callable[[], Collection[str] | None] = frozenset,
    ) -> None:
        self.sweep, self.max_attempts, self.retry, self.job = sweep, max_attempts, retry, job
        self._called_off = called_off
        trials = {trial.id: trial for trial in plan.trials}
        self._wanted: list[tuple[Trial, int]] = [
            (trials[trial_id], first) for trial_id, first in wanted if trial_id in trials
        ]
        self._n_tried = 0
        self._open: dict[str, Trial] = {trial.id: trial for trial, _first in self._wanted}
        self._owners = Owners(sweep, job)

    def candidates(self, dead: Collection[str] = ()) -> Iterator[tuple[Trial, int]]:
        """Trials that may be free, with the attempt to claim: first all as submitted, then what others have dropped."""
        if (called_off := self._called_off()) is None:
            return
        while self._n_tried < len(self._wanted):
            self._n_tried += 1
            if self._wanted[self._n_tried - 1][0].id not in called_off:
                yield self._wanted[self._n_tried - 1]
        yield from self._dropped(dead, called_off)

    def all_have_been_tried(self) -> bool:
        return self._n_tried == len(self._wanted)

    def is_any_left(self, dead: Collection[str] = ()) -> bool:
        """Whether a trial could be begun or go on now. A look: nothing is claimed, and all may be offered again."""
        if (called_off := self._called_off()) is None:
            return False
        for trial, first in self._wanted[self._n_tried :]:
            attempts = self.sweep.trial(trial).attempts()
            if trial.id not in called_off and (not attempts or attempts[-1].number < first):
                return True
        return any(True for _ in self._dropped(dead, called_off))

    def are_called_off(self) -> bool:
        """Whether none of them is to be run any more."""
        return self._called_off() is None

    def unknown_owners(self) -> set[str]:
        """The workers, of attempts without an end, of which the last look could not tell whether they are alive."""
        return self._owners.unknown

    def _dropped(self, dead: Collection[str], called_off: Collection[str]) -> Iterator[tuple[Trial, int]]:
        self._owners = Owners(self.sweep, self.job, dead)
        for trial in [trial for trial in self._open.values() if trial.id not in called_off]:
            state, number, has_ended = self._state_of(trial, self._owners)
            if may_go_on(state):
                yield trial, number + 1
            elif has_ended:
                del self._open[trial.id]

    def _state_of(self, trial: Trial, owners: Owners) -> tuple[TrialState, int, bool]:
        """How a trial stands, the number of its last attempt, and whether that has an end."""

        def look() -> tuple[TrialState, int, bool]:
            facts = [attempt.facts() for attempt in self.sweep.trial(trial).attempts()]
            state = trial_state(facts, lambda f: owners.alive(trial.id, f), self.max_attempts, self.retry)
            return state, facts[-1].number if facts else 0, bool(facts) and facts[-1].end is not None

        state, number, has_ended = look()
        if number and may_go_on(state) and not has_ended:
            return look()  # its worker is gone by now, but may have recorded the end after we had read the journal
        return state, number, has_ended

    def claim(self, trial: Trial, number: int) -> Claim | None:
        """Make the attempt's folder. Parents are made one by one, so that a run directory that is gone stays gone."""
        folder = self.sweep.trial(trial)
        attempt = folder.attempt(number)
        if number == 1:
            make_dir_exclusively(folder.path)
            make_dir_exclusively(folder.attempts_dir)
        return Claim(trial, attempt) if make_dir_exclusively(attempt.path) else None


def start_record(claim: Claim, owner: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    trial = claim.trial
    return {
        "kind": "start",
        "trial": trial.id,
        "config": trial.config,
        "seed": trial.seed,
        "params": dict(trial.params),
        "attempt": claim.attempt.number,
        **owner,
        **more,
    }
