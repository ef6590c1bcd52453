"""From what attempts say to one state: every combination of ends, owners and progress, up to four attempts."""

from __future__ import annotations

import itertools

import pytest

from dlcluster.journal import AttemptFacts, State
from dlcluster.states import (
    DEFAULT_RETRY,
    FREE_REASONS,
    OUTSIDE_REASONS,
    attempts_without_progress,
    kind_of,
    may_go_on,
    trial_state,
    with_default_retry,
)

ENDS = [
    None,
    ("completed", ""),
    ("stopped", "diverged"),
    ("failed", "exception"),
    ("failed", "oom"),
    ("failed", "crashed(11)"),
    ("failed", "exit(3)"),
    ("failed", "killed(9)"),
    ("failed", "disk"),
    ("interrupted", "deadline"),
    ("interrupted", "stop_requested"),
    ("interrupted", "exit(75)"),
    ("interrupted", "preempted"),
    ("interrupted", "stepd_lost"),
    ("failed", "hung"),
    ("cancelled", "by_user"),
]
FINAL = {State.COMPLETED, State.STOPPED, State.FAILED, State.CANCELLED}


def facts(number, end, committed=0):
    row = None if end is None else {"state": end[0], "reason": end[1]}
    return AttemptFacts(number, {"worker": "w"}, row, None, committed)


def attempts_of(ends, committed):
    return [facts(i + 1, end, step) for i, (end, step) in enumerate(zip(ends, committed, strict=True))]


def test_a_trial_without_attempts_waits():
    assert trial_state([], lambda f: None).state is State.WAITING


@pytest.mark.parametrize("alive", [True, False, None])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_history_has_one_state_and_a_reason_where_it_needs_one(n, alive):
    for ends in itertools.product(ENDS, repeat=n if n < 4 else 2):
        ends = (*[("failed", "killed(9)")] * 2, *ends) if n == 4 else ends
        for committed in ((0,) * n, tuple(range(1, n + 1))):
            check(attempts_of(ends, committed), alive)


def check(attempts, alive):
    state = trial_state(attempts, lambda f: alive)
    last = attempts[-1]
    if last.end is None and alive is not False:
        assert state.state is State.RUNNING
        return
    reason = last.end["reason"] if last.end else "vanished"
    word = last.end["state"] if last.end else "interrupted"
    if (word, reason) == ("failed", "hung"):
        n_hung = sum(a.end is not None and a.end["reason"] == "hung" for a in attempts)
        assert (state.state.value, state.reason) == ("interrupted" if n_hung == 1 else "failed", "hung")
        return
    goes_on = word == "interrupted" or (word == "failed" and kind_of(reason) in OUTSIDE_REASONS)
    if not goes_on:
        assert (state.state.value, state.reason) == (word, reason)
    elif attempts_without_progress(attempts) >= 3:
        assert (state.state, state.reason) == (State.FAILED, f"{reason}, no progress in 3 attempts")
    else:
        assert (state.state, state.reason) == (State.INTERRUPTED, reason)
    assert may_go_on(state) == (state.state is State.INTERRUPTED)
    assert (state.state in FINAL) != may_go_on(state)


def test_the_owner_is_asked_about_the_last_attempt_only_and_only_if_it_has_no_end():
    def never(_facts):
        raise AssertionError

    trial_state([facts(1, None), facts(2, ("completed", ""))], never)
    asked = []
    trial_state([facts(1, None), facts(2, None)], lambda f: asked.append(f.number) or True)
    assert asked == [2]


KILLED, STOPPED, DEADLINE = ("failed", "killed(9)"), ("interrupted", "stop_requested"), ("interrupted", "deadline")


@pytest.mark.parametrize(
    ("ends", "committed", "expected"),
    [
        ([KILLED] * 3, [0, 0, 0], 3),
        ([None] * 3, [0, 0, 0], 3),
        ([KILLED] * 9, range(1, 10), 0),
        ([KILLED] * 4, [2, 0, 0, 0], 3),
        ([KILLED] * 4, [0, 0, 2, 0], 1),
        ([KILLED] * 4, [0, 0, 2, 2], 1),
        ([STOPPED] * 9, [0] * 9, 0),
        ([KILLED, STOPPED, KILLED, STOPPED, KILLED], [0] * 5, 3),
        ([DEADLINE] * 3, [0, 0, 0], 3),
        ([DEADLINE] * 3, [5, 10, 15], 0),
        ([], [], 0),
    ],
)
def test_attempts_without_a_new_checkpoint_are_counted(ends, committed, expected):
    assert attempts_without_progress(attempts_of(ends, committed)) == expected


def command_facts(number, logged, committed=0):
    row = None if logged is None else {"kind": "metrics", "step": logged, "metrics": {}}
    end = {"state": "interrupted", "reason": "deadline"}
    return AttemptFacts(number, {"worker": "w", "command": True}, end, row, committed)


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ([5, 10, 15, 20], 0),
        ([5, 10, 10, 7], 2),
        ([None, None, None], 3),
        ([0, 0, 0], 3),
        ([9, None, 3, 12, None], 1),
    ],
)
def test_a_program_gets_further_by_what_it_logs(logged, expected):
    attempts = [command_facts(i, step) for i, step in enumerate(logged, start=1)]
    assert attempts_without_progress(attempts) == expected


def test_a_job_gets_further_by_its_checkpoints_only():
    attempts = [AttemptFacts(i, {"worker": "w"}, None, {"step": 10 * i}, 0) for i in (1, 2, 3)]
    assert attempts_without_progress(attempts) == 3
    assert attempts_without_progress([command_facts(1, 2, committed=4), command_facts(2, 3, committed=0)]) == 1


def state_after(*reasons, retry, committed=None):
    ends = [("failed", reason) for reason in reasons]
    return trial_state(attempts_of(ends, committed or [0] * len(ends)), lambda f: False, 3, retry).state


@pytest.mark.parametrize("kind", ["exception", "oom", "cuda_oom", "crashed(11)", "exit(3)", "hung"])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_failures_of_a_kind_are_survived_as_often_as_was_asked(kind, n):
    retry = with_default_retry({kind_of(kind): n})
    for k in range(1, n + 1):
        assert state_after(*[kind] * k, retry=retry) is State.INTERRUPTED
    assert state_after(*[kind] * (n + 1), retry=retry) is State.FAILED


def test_only_failures_of_the_same_kind_are_counted():
    retry = with_default_retry({"exception": 1})
    assert state_after("hung", "exception", retry=retry) is State.INTERRUPTED
    assert state_after("exception", "hung", retry=retry) is State.INTERRUPTED
    assert state_after("exception", "hung", "exception", retry=retry) is State.FAILED
    interrupted = [facts(1, ("interrupted", "exception")), facts(2, ("failed", "exception"))]
    assert trial_state(interrupted, lambda f: False, retry=retry).state is State.INTERRUPTED


def test_a_kind_that_is_named_has_no_other_budget():
    assert state_after(*["killed(9)"] * 3, retry=with_default_retry(None)) is State.FAILED
    assert state_after("killed(9)", retry={"killed": 0}) is State.FAILED
    assert state_after(*["killed(9)"] * 5, retry={"killed": 5}) is State.INTERRUPTED


def test_hanging_once_is_forgiven_and_nothing_else_is():
    assert with_default_retry(None) == DEFAULT_RETRY
    assert {kind for kind, n in DEFAULT_RETRY.items() if n} == {"hung"}
    assert not set(DEFAULT_RETRY) & set(OUTSIDE_REASONS)


def test_preemptions_never_use_up_the_budget():
    attempts = [facts(i, ("interrupted", "preempted")) for i in range(1, 50)]
    assert trial_state(attempts, lambda f: None).state is State.INTERRUPTED


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_the_budget_can_be_set(budget):
    for n in range(1, 7):
        state = trial_state([facts(i, KILLED) for i in range(1, n + 1)], lambda f: False, budget)
        assert state.state is (State.FAILED if n >= budget else State.INTERRUPTED)


def test_only_what_is_no_fault_of_the_trial_is_free():
    assert set(FREE_REASONS) == {"stop_requested", "preempted", "requeued", "node_fail"}
    assert set(FREE_REASONS) < set(OUTSIDE_REASONS)
