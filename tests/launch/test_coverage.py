"""Which jobs would run which trials: rows of squeue and sacct beside the submissions on disk, and what that costs."""

from __future__ import annotations

import pytest

from dlcluster.journal import State
from dlcluster.launch.coverage import Coverage, element_of_worker, read_submissions
from tests.launch.children import in_children
from tests.launch.pretend_slurm import PretendedSlurm
from tests.launch.sweeps import ELSEWHERE, end_row, make_sweep

WAITS = "pending (waiting in the queue (Priority))"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)


@pytest.fixture
def made(slurm, tmp_path):
    return make_sweep(tmp_path / "runs")


def keep_accounts(slurm, *rows):
    """Accounting is on, and has these: (id, state, exit code, name)."""
    lines = [f"{job}|{state}|{code}|{code}|s|b|e|n1|{name}|None" for job, state, code, name in rows]
    slurm.change(accounts=lines)
    slurm.configure(AccountingStorageType="accounting_storage/slurmdbd")


# -- whose jobs


def test_each_trial_has_its_own_job(slurm, made):
    made.submit()
    assert made.texts() == [WAITS] * 3
    slurm.put("RUNNING", index="0")
    slurm.put("PENDING", "JobHeldUser", index="1")
    texts = made.texts()
    assert texts[0] == "pending"
    assert texts[1].startswith("held (held by you")
    assert texts[2] == WAITS


def test_with_pull_any_job_may_take_any_trial(slurm, made):
    made.submit(trials_per_job="pull", parallel=2)
    slurm.put("COMPLETED", index="0")
    assert made.texts() == [WAITS] * 3
    slurm.put("RUNNING", index="1")
    assert made.texts() == ["pending"] * 3
    slurm.put("COMPLETED")
    assert [state.state for state in made.states()] == [State.WAITING] * 3


def test_several_trials_a_job(slurm, tmp_path):
    made = make_sweep(tmp_path / "runs", 5)
    made.submit(trials_per_job=2)
    slurm.put("NODE_FAIL", index="1")
    assert [state.state.value for state in made.states()] == ["pending", "pending", "waiting", "waiting", "pending"]


def test_elements_of_several_arrays(slurm, tmp_path):
    slurm.configure(MaxArraySize="17")
    made = make_sweep(tmp_path / "runs", 40)
    made.submit()
    slurm.put("CANCELLED", job=118, index="5")
    assert [k for k, state in enumerate(made.states()) if state.state is State.CANCELLED] == [17 + 5]


def test_the_newest_submission_counts(slurm, made):
    made.submit()
    slurm.put("CANCELLED")
    made.submit(n_trials=1)
    assert made.texts() == [WAITS, "cancelled (by_user)", "cancelled (by_user)"]


def test_jobs_of_others_and_of_other_sweeps_do_not_count(slurm, made, tmp_path):
    made.submit()
    other = make_sweep(tmp_path / "runs", name="other")
    other.submit()
    jobs = slurm.jobs
    jobs[0]["name"] = "interactive"
    jobs[1]["states"] = {index: ["RUNNING", "None"] for index in "012"}
    slurm.change(jobs=jobs)
    assert made.texts() == ["waiting"] * 3
    assert other.texts() == ["pending"] * 3


def test_a_job_that_nobody_has_noted_counts_by_its_name(slurm, made):
    made.submit()
    made.forget_submitter()
    made.lose_job()
    assert made.texts() == [WAITS] * 3


def test_while_a_command_submits_its_trials_are_pending(slurm, made):
    made.executor()
    assert made.texts() == ["pending (being submitted)"] * 3
    made.forget_submitter(ELSEWHERE)
    assert made.texts() == ["pending (being submitted)"] * 3  # only that host could tell
    made.forget_submitter()
    assert made.texts() == ["waiting"] * 3


def test_scripts_for_submitting_by_hand_promise_nothing_until_they_are_submitted(slurm, made):
    made.executor()
    made.change_intent(by_hand=True)
    assert made.texts() == ["waiting"] * 3
    made.submit()
    assert made.texts() == [WAITS] * 3


@pytest.mark.parametrize(
    ("worker", "element"),
    [("s-0012", 12), ("s-0012r1", 12), ("s-0003p2", 3), ("s-0003r4p2", 3), ("s-12345", 12345), ("s-12", None)]
    + [("t-0012", None), ("s-0012x", None), ("", None), ("s.0012", None)],
)
def test_the_element_of_a_worker(worker, element):
    assert element_of_worker(worker, "s") == element


def test_rows_that_make_no_sense_are_left_out(slurm, made):
    made.submit()
    name = made.name()
    rows = [f"101|0|RUNNING|{name}|c|None", f"101|N/A|FAILED|{name[:-3]}999|c|None", f"x|y|{name}", "", "Welcome!"]
    slurm.answer("squeue", {"rc": 0, "out": "\n".join(rows), "always": True})
    assert made.texts() == ["pending", "waiting", "waiting"]


# -- what has ended


def test_a_trial_whose_job_runs_and_one_whose_job_has_ended(slurm, made):
    made.submit()
    for k in range(3):
        made.begin(k)
    slurm.put("RUNNING", index="0")
    slurm.put("TIMEOUT", index="1")
    slurm.put("CANCELLED", index="2")
    assert made.texts() == ["running", "interrupted (timeout)", "cancelled (by_user)"]


def test_what_is_in_the_files_beats_the_queue(slurm, made):
    made.submit()
    made.begin(0, end_row())
    made.begin(1, end_row(State.FAILED, "exception"))
    made.begin(2, end_row(State.INTERRUPTED, "preempted"))
    for word in ("RUNNING", "FAILED", "CANCELLED", "PENDING", "A_NEW_WORD"):
        slurm.put(word)
        assert made.texts()[:2] == ["completed", "failed (exception)"]
    slurm.forget_all()
    assert made.texts() == ["completed", "failed (exception)", "interrupted (preempted)"]


def test_a_requeued_job_that_is_held_does_not_run_for_ever(slurm, made):
    made.submit()
    made.begin(0)
    slurm.put("PENDING", "launch failed requeued held")
    assert made.texts()[0].startswith("held (its launch failed; requeued and held")


def test_an_attempt_whose_job_is_not_known_any_more_has_vanished(slurm, made):
    """MinJobAge has passed, there is no accounting, and nobody has looked for a while."""
    made.submit()
    made.begin(0)
    slurm.forget_all()
    assert made.texts() == ["interrupted (vanished)", "waiting", "waiting"]


def test_an_attempt_that_our_own_host_sees_needs_nobody_else(slurm, made, monkeypatch):
    made.submit()
    made.begin(0)
    slurm.forget_all()
    monkeypatch.setattr("dlcluster.owners.is_alive", lambda _owner: True)
    assert made.texts()[0] == "running"


def test_accounting_says_why(slurm, made):
    made.submit()
    for k in range(3):
        made.begin(k)
    name = made.name()
    slurm.put("FAILED", index="0")
    keep_accounts(
        slurm,
        ("101_0", "FAILED", "0:9", name),
        ("101_1", "RUNNING", "0:0", name),
        ("101_2", "PENDING", "0:0", "another-name"),
    )
    assert made.texts()[0] == "interrupted (killed(9))"
    slurm.forget_all()
    assert made.texts()[0] == "interrupted (killed(9))"


@pytest.mark.parametrize("stale", ["RUNNING", "PENDING", "REQUEUED", "SUSPENDED", "COMPLETING", "RESIZING"])
def test_rows_that_accounting_never_closed_mean_nothing(slurm, made, stale):
    """Accounting was off when the job ended; squeue does not know it any more: not pending, not running for ever."""
    made.submit()
    made.begin(0)
    keep_accounts(slurm, *((f"101_{k}", stale, "0:0", made.name()) for k in range(3)))
    slurm.forget_all()
    assert made.texts() == ["interrupted (vanished)", "waiting", "waiting"]


@pytest.mark.parametrize("broken", ["sacct", "scontrol"])
def test_accounting_that_does_not_answer_changes_no_state(slurm, made, broken):
    made.submit()
    made.begin(0)
    keep_accounts(slurm)
    slurm.put("FAILED")
    slurm.answer(broken, {"rc": 1, "out": "", "err": "Connection refused\n", "always": True})
    assert made.texts() == ["interrupted (vanished)", "held (failed; only accounting could say how)"] + [
        "held (failed; only accounting could say how)"
    ]


# -- no answer


def test_no_answer_changes_no_state(slurm, made):
    made.submit()
    made.begin(0)
    made.begin(1, end_row())
    slurm.go_down()
    texts = made.texts()
    assert texts[0].startswith("running (scheduler unreachable since ")
    assert texts[1] == "completed"
    assert texts[2].startswith("pending (scheduler unreachable since ")


# -- politeness


def test_a_finished_sweep_asks_nobody(slurm, made):
    made.submit()
    for k in range(3):
        made.begin(k, end_row(State.FAILED, "exception") if k else end_row())
    n_calls = slurm.n_calls()
    assert made.texts(15.0) == ["completed", "failed (exception)", "failed (exception)"]
    assert slurm.n_calls() == n_calls


def test_an_unfinished_one_asks_once_for_three_processes(slurm, made):
    made.submit()
    made.begin(0)
    assert in_children([lambda: made.texts(15.0)] * 3) == [[WAITS] * 3] * 3
    assert made.texts(15.0) == [WAITS] * 3
    assert slurm.n_calls("squeue") == 1


def test_many_trials_without_a_job_ask_accounting_once(slurm, tmp_path):
    made = make_sweep(tmp_path / "runs", 20)
    made.submit()
    keep_accounts(slurm)
    slurm.forget_all()
    made.texts(15.0)
    assert (slurm.n_calls("squeue"), slurm.n_calls("sacct")) == (1, 1)


def test_where_accounting_is_off_it_is_never_asked(slurm, made):
    made.submit()
    slurm.forget_all()
    made.texts()
    assert slurm.n_calls("sacct") == 0


def test_a_sweep_that_ran_here_asks_nobody(slurm, made):
    assert made.texts() == ["waiting"] * 3
    assert slurm.n_calls() == 0


def test_submissions_without_jobs_or_with_a_torn_intent_are_no_obstacle(slurm, made):
    made.submit()
    torn = made.sweep.submission("20990101T000000-abcdef")
    torn.path.mkdir()
    torn.intent.write_text("{")
    assert len(read_submissions(made.sweep)) == 1
    assert made.texts() == [WAITS] * 3
    assert Coverage(made.sweep).covering("0" * 16) is None
