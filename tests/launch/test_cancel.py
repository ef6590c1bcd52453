"""Ending what runs and calling off what waits, and never a job that is not ours."""

from __future__ import annotations

import json

import pytest

from dlcluster.launch import cancel as room
from dlcluster.launch.cancel import cancel, end_by_force, wait_until_ended
from dlcluster.run_dir import SweepDir
from tests.launch.pretend_slurm import PretendedSlurm
from tests.launch.sweeps import ELSEWHERE, end_row, make_sweep


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)


@pytest.fixture
def made(slurm, tmp_path):
    return make_sweep(tmp_path / "runs")


def cancelled_ids(slurm):
    return [job for call in slurm.calls("scancel") for job in call["argv"]]


def beat(made, number=0, **changes):
    """The heartbeat of a worker on another host."""
    submission = made.sweep.submissions()[-1].path.name
    worker = made.sweep.worker(f"{submission}-{number:04d}")
    worker.path.mkdir(parents=True, exist_ok=True)
    value = {**ELSEWHERE, "worker": worker.path.name, "submission": submission, "current": [made.ids[number], 1]}
    worker.heartbeat.write_text(json.dumps({**value, "ended": "", "finished": {}, "seq": 1, **changes}))
    return worker


def test_what_waits_is_called_off_and_taken_out_of_the_queue(slurm, made):
    made.submit()
    told = cancel(made.sweep, None)
    assert (told.n_jobs, told.problem, told.workers) == (3, "", ())
    assert cancelled_ids(slurm) == ["101_0", "101_1", "101_2"]
    assert made.texts() == ["cancelled (by_user)"] * 3
    assert made.sweep.submissions()[-1].read_called_off() is None


def test_cancelling_twice_is_harmless(slurm, made):
    made.submit()
    cancel(made.sweep, None)
    again = cancel(made.sweep, None)
    assert (again.n_jobs, again.problem) == (0, "")
    assert slurm.n_calls("scancel") == 1


def test_an_id_that_now_belongs_to_another_job_is_left_alone(slurm, made):
    """Security row 21: ids are used again, and what has our id may be somebody's interactive session."""
    made.submit()
    jobs = slurm.jobs
    jobs[0]["name"] = "interactive"
    slurm.change(jobs=jobs)
    assert cancel(made.sweep, None).n_jobs == 0
    assert end_by_force(made.sweep) == ""
    assert slurm.n_calls("scancel") == 0


def test_jobs_of_another_sweep_are_left_alone(slurm, made, tmp_path):
    made.submit()
    other = make_sweep(tmp_path / "runs", name="other")
    other.submit()
    cancel(made.sweep, None)
    assert set(cancelled_ids(slurm)) == {"101_0", "101_1", "101_2"}
    assert other.texts() == ["pending (waiting in the queue (Priority))"] * 3


def test_five_hundred_ids_a_call_and_never_a_signal(slurm, tmp_path):
    made = make_sweep(tmp_path / "runs", 1203)
    made.submit()
    assert cancel(made.sweep, None).n_jobs == 1203
    calls = slurm.calls("scancel")
    assert [len(call["argv"]) for call in calls] == [500, 500, 203]
    assert len(set(cancelled_ids(slurm))) == 1203
    assert not [word for call in calls for word in call["argv"] if word.startswith("-")]


def test_a_job_without_an_array_is_cancelled_by_its_id(slurm, tmp_path):
    made = make_sweep(tmp_path / "runs", 1)
    made.submit()
    cancel(made.sweep, None)
    assert cancelled_ids(slurm) == ["101"]


def test_what_runs_is_left_to_its_worker_which_has_been_told(slurm, made):
    made.submit()
    slurm.put("RUNNING", index="0")
    made.begin(0)
    worker = beat(made)
    told = cancel(made.sweep, None)
    assert told.workers == (worker.path.name,)
    assert worker.marker("cancel").read_text() == ""
    assert cancelled_ids(slurm) == ["101_1", "101_2"]


def test_the_markers_are_there_before_the_scheduler_is_told(slurm, made, monkeypatch):
    """So that a worker which is being cancelled never requeues itself."""
    made.submit()
    slurm.put("RUNNING", index="0")
    made.begin(0)
    worker = beat(made)
    seen = []
    real = room._scancel
    monkeypatch.setattr(room, "_scancel", lambda ids: seen.append(worker.marker("cancel").exists()) or real(ids))
    cancel(made.sweep, None)
    assert seen == [True]
    assert made.sweep.submissions()[-1].cancelled.exists()


def test_what_does_not_end_is_ended_by_the_scheduler(slurm, made):
    made.submit()
    slurm.put("RUNNING", index="0")
    made.begin(0)
    told = cancel(made.sweep, None) if beat(made) else None
    assert not wait_until_ended(made.sweep, told.workers, None, 0.05)
    assert end_by_force(made.sweep) == ""
    assert cancelled_ids(slurm)[-1] == "101_0"
    beat(made, ended="done")
    assert wait_until_ended(made.sweep, told.workers, None, 5.0)


def test_one_trial_with_a_job_of_its_own(slurm, made):
    made.submit()
    assert cancel(made.sweep, made.ids[1]).n_jobs == 1
    assert cancelled_ids(slurm) == ["101_1"]
    assert [state.state.value for state in made.states()] == ["pending", "cancelled", "pending"]


@pytest.mark.parametrize("per_job", ["pull", 2])
def test_a_job_that_other_trials_need_is_left_alone(slurm, made, per_job):
    made.submit(trials_per_job=per_job)
    told = cancel(made.sweep, made.ids[1])
    assert (told.n_jobs, slurm.n_calls("scancel")) == (0, 0)
    assert [state.state.value for state in made.states()] == ["pending", "cancelled", "pending"]
    cancel(made.sweep, made.ids[0])
    assert made.sweep.submissions()[-1].read_called_off() == {made.ids[0], made.ids[1]}


def test_after_all_was_called_off_one_trial_changes_nothing(slurm, made):
    made.submit()
    cancel(made.sweep, None)
    cancel(made.sweep, made.ids[1])
    assert made.sweep.submissions()[-1].read_called_off() is None


def test_a_later_submission_is_not_called_off(slurm, made):
    made.submit()
    cancel(made.sweep, None)
    made.submit()
    assert [state.state.value for state in made.states()] == ["pending"] * 3


def test_completed_trials_stay_completed(slurm, made):
    made.submit()
    made.begin(0, end_row())
    cancel(made.sweep, None)
    assert made.texts() == ["completed", "cancelled (by_user)", "cancelled (by_user)"]


def test_without_the_scheduler_the_markers_are_left_and_it_is_said(slurm, made):
    made.submit()
    slurm.go_down()
    told = cancel(made.sweep, None)
    assert "scheduler unreachable since" in told.problem
    assert made.sweep.submissions()[-1].cancelled.exists()
    slurm.come_back()
    assert made.texts() == ["cancelled (by_user)"] * 3
    assert cancel(made.sweep, None).n_jobs == 3


@pytest.mark.parametrize(
    ("answer", "is_said"),
    [
        ({"rc": 1, "err": "scancel: error: Kill job error on job id 101_0: Job/step already completing\n"}, False),
        ({"rc": 1, "err": "scancel: error: Kill job error on job id 101_0: Invalid job id specified\n"}, False),
        ({"rc": 210, "err": "scancel: error: Kill job error: Access/permission denied\n"}, True),
        ({"rc": 8, "err": "scancel: error: Unable to contact slurm controller\n"}, True),
        ({"rc": 1, "err": ""}, True),
    ],
)
def test_what_scancel_complains_about(slurm, made, answer, is_said):
    made.submit()
    slurm.answer("scancel", {"out": "", **answer})
    told = cancel(made.sweep, None)
    assert bool(told.problem) == is_said
    assert told.n_jobs == (0 if is_said else 3)


def test_one_refusal_does_not_keep_the_others_in_the_queue(slurm, tmp_path):
    made = make_sweep(tmp_path / "runs", 1203)
    made.submit()
    slurm.answer("scancel", {"rc": 210, "out": "", "err": "scancel: error: Access/permission denied\n"})
    told = cancel(made.sweep, None)
    assert "denied" in told.problem
    assert (told.n_jobs, slurm.n_calls("scancel")) == (703, 3)


def test_a_sweep_that_ran_here_asks_no_scheduler(slurm, made):
    assert cancel(made.sweep, None).n_jobs == 0
    assert end_by_force(SweepDir(made.sweep.path)) == ""
    assert slurm.n_calls() == 0
