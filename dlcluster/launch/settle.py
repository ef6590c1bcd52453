"""Files say X, the scheduler says Y: one state with a reason. Pure; the files' last word beats the scheduler's.

The scheduler decides between waiting, alive and gone only, and no answer from it changes nothing. It is asked about
two jobs of a trial: the one that made its last attempt (`own`) and the one that would make its next (`cover`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dlcluster.journal import AttemptFacts, State, TrialState
from dlcluster.launch.slurm_words import JobWord, Standing

IN_THE_QUEUE = (Standing.WAITING, Standing.ALIVE, Standing.FINISHING)
# Ends that a worker could not explain itself: what the scheduler knows about its job is the better word.
NEVER_BEGAN = ("launch", "setup")  # no worker has come as far as its first trial
UNEXPLAINED = ("vanished", "stop_requested", "killed(9)")
NO_EXPLANATION = ("no_result", "interrupted", "exit")  # of a job: no better than any word of the files


@dataclass(frozen=True)
class Hearsay:
    """What the scheduler says. `silence` is set if it does not answer; then both words are None.

    `first` is the attempt with which the covering submission begins; `is_called_off`: it was cancelled.
    """

    own: JobWord | None = None
    cover: JobWord | None = None
    first: int = 0
    is_called_off: bool = False
    silence: str = ""


def with_end_from_scheduler(
    attempts: Sequence[AttemptFacts], owner_alive: bool | None, own: JobWord | None, answers: bool
) -> Sequence[AttemptFacts]:
    """The attempts, the last with the end that the scheduler knows, if the files have none or cannot explain it.

    An attempt of another host's that the scheduler, having answered, does not know has vanished.
    """
    last = attempts[-1]
    if last.end is not None and (last.end["state"] != State.INTERRUPTED.value or last.end["reason"] not in UNEXPLAINED):
        return attempts
    if last.end is None and owner_alive is True:
        return attempts
    if last.end is not None and own is not None and own.reason.partition("(")[0] in NO_EXPLANATION:
        return attempts
    end = _end_of(own) if own is not None else None
    if end is None and own is None and answers and last.end is None and owner_alive is None:
        end = {"state": State.INTERRUPTED.value, "reason": "vanished"}
    return attempts if end is None else [*attempts[:-1], replace(last, end={**(last.end or {}), **end})]


def _end_of(word: JobWord) -> dict[str, str] | None:
    """The end record that the job's fate stands for; None while it has not ended, or nothing is known."""
    if word.standing in (Standing.WAITING, Standing.HELD):
        return {"state": State.INTERRUPTED.value, "reason": "requeued"}
    if word.standing is not Standing.GONE:
        return None
    state = {"cancelled": State.CANCELLED, "oom": State.FAILED, "no_result": State.INTERRUPTED}.get(
        word.reason, State.INTERRUPTED
    )
    reason = {"cancelled": "by_user", "no_result": "vanished", "exit": "vanished"}.get(word.reason, word.reason)
    return {"state": state.value, "reason": reason, "message": word.text}


def settle(state: TrialState, n_attempts: int, hearsay: Hearsay) -> TrialState:
    """The state of a trial whose files say `state`, when a job may be waiting to run it."""
    if state.state is State.COMPLETED:
        return state  # by an attempt that was thought to be lost, when another had been asked for
    is_wanted = n_attempts < hearsay.first or state.state in (State.WAITING, State.INTERRUPTED)
    if state.state is State.RUNNING:
        own = hearsay.own
        is_plain = own is None or (own.standing is Standing.ALIVE and not own.reason)
        return TrialState(State.RUNNING, hearsay.silence or ("" if is_plain else own.text) or state.reason)
    if not is_wanted:
        return state
    if hearsay.silence:
        return TrialState(State.PENDING, hearsay.silence) if hearsay.first else state
    if hearsay.is_called_off:
        return TrialState(State.CANCELLED, "by_user")
    return state if hearsay.cover is None else _by_cover(state, hearsay.cover)


def _by_cover(state: TrialState, cover: JobWord) -> TrialState:
    """A trial that is wanted, by what became of the jobs that were to run it."""
    if cover.standing in IN_THE_QUEUE:
        return TrialState(State.PENDING, cover.text if cover.standing is Standing.WAITING else state.reason, True)
    if cover.standing in (Standing.HELD, Standing.UNKNOWN):
        return TrialState(State.HELD if cover.standing is Standing.HELD else State.PENDING, cover.text, in_queue=True)
    if state.state in (State.WAITING, State.INTERRUPTED) and cover.reason == "cancelled":
        return TrialState(State.CANCELLED, "by_user")
    if state.state is State.WAITING and (cover.reason in NEVER_BEGAN or cover.reason.startswith("exit")):
        return TrialState(State.HELD, cover.text)  # the next job would fail in the same way
    return TrialState(state.state, state.reason or cover.text)
