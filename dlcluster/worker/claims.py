"""Which trial a worker takes next: the first that nobody has, claimed by making its attempt's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcluster.files import make_dir_exclusively
from dlcluster.owners import Owners
from dlcluster.run_dir import AttemptDir, Plan, SweepDir
from dlcluster.states import may_go_on, trial_state
from dlcluster.trial import Trial


@dataclass(frozen=True)
class Claim:
    trial: Trial
    attempt: AttemptDir


class Claims:
    """The trials of one submission, in order; each is claimed at most once by any of all workers."""

    def __init__(self, sweep: SweepDir, plan: Plan, wanted: Sequence[Sequence[Any]], max_attempts: int) -> None:
        self.sweep, self.max_attempts = sweep, max_attempts
        trials = {trial.id: trial for trial in plan.trials}
        self._wanted: list[tuple[Trial, int]] = [
            (trials[trial_id], first) for trial_id, first in wanted if trial_id in trials
        ]
        self._n_tried = 0
        self._open: dict[str, Trial] = {trial.id: trial for trial, _first in self._wanted}

    def candidates(self) -> Iterator[tuple[Trial, int]]:
        """Trials that may be free, with the attempt to claim: first all as submitted, then what others have dropped."""
        while self._n_tried < len(self._wanted):
            self._n_tried += 1
            yield self._wanted[self._n_tried - 1]
        owners = Owners(self.sweep)
        for trial in list(self._open.values()):
            attempts = self.sweep.trial(trial).attempts()
            facts = [attempt.facts() for attempt in attempts]
            state = trial_state(facts, lambda f, t=trial: owners.alive(t.id, f), self.max_attempts)
            if may_go_on(state):
                yield trial, attempts[-1].number + 1 if attempts else 1
            elif facts and facts[-1].end is not None:
                del self._open[trial.id]

    def all_have_been_tried(self) -> bool:
        return self._n_tried == len(self._wanted)

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
