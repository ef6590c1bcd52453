"""What the records of a trial's attempts add up to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dlcluster.journal import State, TrialState, facts_from_rows, is_sound, merge_attempts


def metrics(step, **values):
    return {"kind": "metrics", "step": step, "time": 0.0, "metrics": values or {"loss": float(step)}}


def resume(step):
    return {"kind": "resume", "step": step, "time": 0.0}


def steps_of(history):
    return [row["step"] for row in history.metrics]


def test_a_trial_that_was_never_interrupted_is_its_rows():
    history = merge_attempts({1: [metrics(1), metrics(2), metrics(3)]}, [])
    assert steps_of(history) == [1, 2, 3]
    assert history.n_dropped == 0


def test_an_attempt_replaces_what_was_logged_after_its_checkpoint():
    first = [metrics(step, loss=1.0) for step in (1, 2, 3, 4, 5)]
    history = merge_attempts({1: first, 2: [resume(2), metrics(3, loss=2.0)]}, [])
    assert [(r["step"], r["metrics"]["loss"], r["attempt"]) for r in history.metrics] == [
        (1, 1.0, 1),
        (2, 1.0, 1),
        (3, 2.0, 2),
    ]
    assert history.n_dropped == 3


def test_an_attempt_without_a_checkpoint_replaces_everything():
    history = merge_attempts({1: [metrics(1), metrics(2)], 2: [metrics(1)]}, [])
    assert steps_of(history) == [1]
    assert history.n_dropped == 2


def test_an_attempt_that_died_before_it_did_anything_replaces_nothing():
    history = merge_attempts({1: [metrics(1), metrics(2)], 2: [{"kind": "start"}], 3: []}, [])
    assert steps_of(history) == [1, 2]


def test_attempts_count_by_number_not_by_the_order_in_which_they_are_given():
    rows = {2: [resume(1), metrics(2, loss=2.0)], 1: [metrics(1), metrics(2, loss=1.0)]}
    assert [r["metrics"]["loss"] for r in merge_attempts(rows, []).metrics] == [1.0, 2.0]


def test_two_rows_of_a_step_are_one():
    bad = {"kind": "metrics", "step": 1, "metrics": {"b": None}, "nonfinite": {"b": "nan"}}
    history = merge_attempts({1: [metrics(1, a=1.0), bad, metrics(1, b=2.0)]}, [])
    assert [row["metrics"] for row in history.metrics] == [{"a": 1.0, "b": 2.0}]
    assert "nonfinite" not in history.metrics[0]


def test_a_number_that_is_not_finite_stays_marked_until_it_is_logged_again():
    bad = {"kind": "metrics", "step": 1, "metrics": {"b": None}, "nonfinite": {"b": "nan"}}
    history = merge_attempts({1: [bad, metrics(1, a=1.0)]}, [])
    assert history.metrics[0]["nonfinite"] == {"b": "nan"}


def test_the_order_is_that_of_the_steps_not_that_of_the_clock():
    rows = [{**metrics(step), "time": 1000.0 - step} for step in (3, 1, 2)]
    assert steps_of(merge_attempts({1: rows}, [])) == [1, 2, 3]


STEP = st.integers(0, 12)
LOGGED = st.lists(STEP, max_size=8, unique=True).map(sorted)


@settings(max_examples=200, deadline=None)
@given(attempts=st.lists(st.tuples(st.none() | STEP, LOGGED), max_size=5))
def test_every_step_comes_from_the_last_attempt_that_had_a_say(attempts):
    """Against the definition, spelled out: attempt by attempt, forget what lies behind the checkpoint, then add."""
    rows, expected = {}, {}
    for number, (went_on_from, logged) in enumerate(attempts, 1):
        rows[number] = [{"kind": "start"}]
        if went_on_from is not None:
            rows[number].append(resume(went_on_from))
        rows[number] += [metrics(step) for step in logged]
        if went_on_from is not None or logged:
            expected = {s: n for s, n in expected.items() if s <= (went_on_from or 0)}
        expected.update(dict.fromkeys(logged, number))
    history = merge_attempts(rows, [])
    assert [(row["step"], row["attempt"]) for row in history.metrics] == sorted(expected.items())
    n_logged = sum(len(logged) for _, logged in attempts)
    assert len(history.metrics) + history.n_dropped <= n_logged


ANY = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.just({}) | st.just([])
KINDS = st.sampled_from(["start", "resume", "metrics", "checkpoint", "note", "end", "unheard of"])


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {}, optional={k: ANY for k in ("step", "metrics", "state", "reason")} | {"kind": KINDS | ANY}
        )
    )
)
def test_records_that_are_not_what_their_kind_says_never_raise(rows):
    facts = facts_from_rows(1, rows)
    merge_attempts({1: rows, 2: rows}, [])
    assert type(facts.committed_step) is int
    assert facts.end is None or State(facts.end["state"])


def test_facts_are_the_newest_of_each_kind():
    rows = [
        {"kind": "start", "trial": "t"},
        metrics(1),
        {"kind": "checkpoint", "step": 1},
        metrics(2),
        {"kind": "checkpoint", "step": 2},
        {"kind": "end", "state": "completed", "reason": ""},
    ]
    facts = facts_from_rows(7, rows)
    assert (facts.number, facts.start["trial"], facts.last_metrics["step"], facts.committed_step) == (7, "t", 2, 2)
    assert facts.is_completed
    assert not facts_from_rows(7, rows[:-1]).is_completed


def test_a_step_that_is_true_is_no_step():
    assert not is_sound({"kind": "metrics", "step": True, "metrics": {}})
    assert is_sound({"kind": "metrics", "step": 1, "metrics": {}})
    assert is_sound({"kind": "a kind of a later version"})


def test_a_state_in_words():
    assert str(TrialState(State.FAILED, "killed(9)")) == "failed (killed(9))"
    assert str(TrialState(State.COMPLETED)) == "completed"
