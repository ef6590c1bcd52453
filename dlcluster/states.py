"""From what the files of a trial say to its one state: a pure rule, the same for commands and for workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dlcluster.journal import AttemptFacts, State, TrialState

StateOf = Callable[[str, Sequence[AttemptFacts]], TrialState]  # of a trial id and what its attempts say
MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
IDENTICAL_FAILURES_THAT_HOLD = 5

# Reasons that say nothing about the trial itself: somebody or something outside ended it, so it goes on.
OUTSIDE_REASONS = (
    *("killed", "vanished", "disk", "io_lost", "deadline", "stop_requested"),
    *("preempted", "requeued", "timeout", "node_fail", "stepd_lost", "launch"),
)
# Of these, those that may come however often through no fault of the trial: they use up no budget.
FREE_REASONS = ("stop_requested", "preempted", "requeued", "node_fail")
# How often a trial goes on after a failure that is its own; other reasons than these and the outside ones: never.
DEFAULT_RETRY = {"hung": 1, "cuda_oom": 0, "oom": 0, "exception": 0, "diverged": 0, "no_result": 0}


def with_default_retry(retry: Mapping[str, int] | None) -> dict[str, int]:
    """What a spec says about failures of a kind, and the default for the others."""
    return {**DEFAULT_RETRY, **(retry or {})}


def kind_of(reason: str) -> str:
    """`killed(9)` -> `killed`: the reason without its detail."""
    return reason.partition("(")[0]


def trial_state(
    attempts: Sequence[AttemptFacts],
    owner_alive: Callable[[AttemptFacts], bool | None],
    max_attempts: int = MAX_ATTEMPTS_WITHOUT_PROGRESS,
    retry: Mapping[str, int] = DEFAULT_RETRY,
) -> TrialState:
    """One state with a reason. `owner_alive` is asked for an attempt without an end; None means "cannot tell".

    `retry`: how many failures of a kind a trial survives; for a kind that it names, the budget counts no more.
    """
    if not attempts:
        return TrialState(State.WAITING)
    last = attempts[-1]
    if last.end is None:
        if owner_alive(last) is not False:
            return TrialState(State.RUNNING)
        return _unless_used_up(attempts, "vanished", max_attempts)
    state, reason = State(last.end["state"]), last.end.get("reason", "")
    if state is State.FAILED and (kind := kind_of(reason)) in retry:
        return TrialState(State.INTERRUPTED if _n_failures(attempts, kind) <= retry[kind] else state, reason)
    if state is State.INTERRUPTED or (state is State.FAILED and kind_of(reason) in OUTSIDE_REASONS):
        return _unless_used_up(attempts, reason, max_attempts)
    return TrialState(state, reason)


def _n_failures(attempts: Sequence[AttemptFacts], kind: str) -> int:
    ends = [attempt.end for attempt in attempts if attempt.end is not None]
    return sum(end["state"] == State.FAILED.value and kind_of(end.get("reason", "")) == kind for end in ends)


def _unless_used_up(attempts: Sequence[AttemptFacts], reason: str, max_attempts: int) -> TrialState:
    if attempts_without_progress(attempts) < max_attempts:
        return TrialState(State.INTERRUPTED, reason)
    return TrialState(State.FAILED, f"{reason}, no progress in {max_attempts} attempts")


def attempts_without_progress(attempts: Sequence[AttemptFacts]) -> int:
    """How many attempts at the end of the list have died without getting beyond all the earlier ones."""
    best, count = 0, 0
    for attempt in attempts:
        reason = (attempt.end or {}).get("reason", "vanished")
        if (step := progress_of(attempt)) > best:
            best, count = step, 0
        elif kind_of(reason) not in FREE_REASONS:
            count += 1
    return count


def progress_of(attempt: AttemptFacts) -> int:
    """The step of the last checkpoint; where a program keeps its own, which nobody sees, the last step it logged."""
    if attempt.start is None or not attempt.start.get("command"):
        return attempt.committed_step
    return max(attempt.committed_step, attempt.last_metrics["step"] if attempt.last_metrics else 0)


def may_go_on(state: TrialState) -> bool:
    """Whether a worker may take the trial without anybody asking for it again."""
    return state.state in (State.WAITING, State.INTERRUPTED)
