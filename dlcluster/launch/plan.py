"""What to do about each trial: a pure decision, which a dry run prints and a submission carries out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from dlcluster.journal import State, TrialState
from dlcluster.launch.status import TrialStatus

# What `resume --failed` runs again, and `sweep` does not: it would only fail again.
FINAL_BUT_NOT_DONE = frozenset({State.FAILED, State.CANCELLED, State.STOPPED})


class Action(Enum):
    START = "start"  # the first attempt
    GO_ON = "go on"  # the next attempt, from the newest checkpoint
    KEEP = "keep"  # finished, or somebody is at it


def decide(state: TrialState, again: Collection[State] = ()) -> Action:
    """`again` are the final states that somebody has asked to run again."""
    if state.in_queue:
        return Action.KEEP
    match state.state:
        case State.WAITING | State.HELD:
            return Action.START
        case State.INTERRUPTED:
            return Action.GO_ON
        case final if final in again:
            return Action.GO_ON
        case _:
            return Action.KEEP  # running, or done: never start it twice


@dataclass(frozen=True)
class Decision:
    status: TrialStatus
    action: Action

    @property
    def next_attempt(self) -> int:
        """Fixed here: of two commands that decide the same, only one can make this attempt's folder."""
        return self.status.n_attempts + 1


@dataclass(frozen=True)
class LaunchPlan:
    decisions: Sequence[Decision]

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """The trials to run, each with the attempt to claim."""
        return [(d.status.trial.id, d.next_attempt) for d in self.decisions if d.action is not Action.KEEP]

    def count(self, action: Action) -> int:
        return sum(decision.action is action for decision in self.decisions)


def make_launch_plan(statuses: Iterable[TrialStatus], again: Collection[State] = ()) -> LaunchPlan:
    return LaunchPlan([Decision(status, decide(status.state, again)) for status in statuses])
