"""Several trials at once in one job: the workers beside the first, and what the first does for them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from dlcluster.worker.place import parse_arguments, place_of
from tests.support import (
    check_oracle,
    is_running,
    processes_with,
    run_worker,
    submit,
    summary,
    undisturbed,
    wait_for_step,
    wait_until,
)
from tests.worker.fake_job import FakeJob, change_intent, heartbeat, last_ends, wait_for_call
from tests.worker.test_slurm_job import log_line

LONG = {"steps": 60, "every": 1000, "pause": 0.05}
STOPPED, DEADLINE = "interrupted stop_requested", "interrupted deadline"


def submit_packed(project, n=2, starts=(1.0, 2.0), fixed=LONG, **rules):
    project.write_spec(space={"start": list(starts)}, fixed=fixed)
    return submit(project, **{"trials_at_once": n, **rules})


def workers_of(project):
    return sorted(worker.path.name.split("-")[-1] for worker in project.sweep.workers())


def pid_of(project, worker):
    return heartbeat(project, worker)["pid"]


def wait_for_all(project, step):
    wait_for_step(project, step, n_trials=len(project.trials()))


def test_as_many_trials_run_at_once_as_share_the_job(project):
    job = FakeJob(project, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="4", SLURM_RESTART_COUNT="2")
    submission = submit_packed(project, 3, (1.0, 2.0, 3.0, 4.0, 5.0), {"steps": 20, "pause": 0.05})
    assert job.run(submission).code == 0
    assert workers_of(project) == ["0004r2", "0004r2p1", "0004r2p2"]
    starts = [project.rows(trial, 1)[0] for trial in project.trials()]
    assert {row["worker"].split("-")[-1] for row in starts} == set(workers_of(project))
    assert {row["job"]["id"] for row in starts} == {12}
    spans = [(rows[0]["time"], rows[-2]["time"]) for rows in (project.rows(t, 1) for t in project.trials())]
    assert max(sum(a <= moment < b for a, b in spans) for moment, _ in spans) == 3
    assert not job.calls()
    assert last_ends(project) == [["completed"]] * 5
    check_oracle(project)


def test_they_share_what_their_job_may_take(project):
    submission = submit_packed(project, 2, (1.0, 2.0, 3.0, 4.0), {"steps": 3})
    change_intent(project, submission, trials_per_job=2)
    assert FakeJob(project, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1").run(submission).code == 0
    assert [bool(project.ends(trial)) for trial in project.trials()] == [False, False, True, True]


def test_a_job_of_the_local_executor_has_none_beside_it(project):
    """There `trials_per_gpu` means workers that share a GPU, and the command starts them."""
    assert run_worker(project, submit_packed(project, 2, fixed={"steps": 3})).code == 0
    assert workers_of(project) == ["0000"]


def test_all_of_them_save_before_the_job_is_requeued_once(project):
    job = FakeJob(project)
    submission = submit_packed(project)
    worker = job.start(submission)
    wait_for_all(project, 5)
    worker.send_signal(signal.SIGTERM)  # to the batch script's process only
    assert job.end_of(worker, 30).code == 0
    assert last_ends(project) == [[STOPPED]] * 2
    for trial in project.trials():
        assert [row["kind"] for row in project.rows(trial, 1)][-2:] == ["checkpoint", "end"]
    assert sum(row["kind"] == "end" for row in job.journals_at_requeue()) == 2
    assert job.kinds_of_calls().count("requeue") == 1
    assert not processes_with(str(project.root))
    job.environ["SLURM_RESTART_COUNT"] = "1"
    job.answers()
    assert job.run(submission).code == 0
    assert summary(project) == undisturbed(project)


def test_a_signal_to_all_processes_is_one_request(project):
    """As proctrack/linuxproc does it: the fellows have it twice, and still have the time to save."""
    job = FakeJob(project)
    worker = job.start(submit_packed(project, fixed={**LONG, "pause": 0.3}))
    wait_for_all(project, 2)
    for pid in processes_with(str(project.root)):
        os.kill(pid, signal.SIGTERM)
    assert job.end_of(worker, 30).code == 0
    assert last_ends(project) == [[STOPPED]] * 2
    assert all(project.rows(trial, 1)[-2]["kind"] == "checkpoint" for trial in project.trials())


def idle_first(project, job, **rules):
    """A worker that has nothing to do any more, while its fellow has; the trial of that, and the fellow's pid.

    It takes the first trial, since it starts its fellow before it imports the job. (Else the tests show less.)
    """
    project.write_spec(space={"start": [1.0], "steps": [30, 100]}, fixed={"every": 5, "pause": 0.05})
    submission = submit(project, trials_at_once=2, **rules)
    short, long = sorted(project.trials(), key=lambda trial: trial.params["steps"])
    change_intent(project, submission, trials=[[short.id, 1], [long.id, 1]])
    worker = job.start(submission)
    wait_until(lambda: len(project.history(long)) > 10, "the long trial")
    wait_until(lambda: project.ends(short) == ["completed"], "the end of the short trial")
    return worker, long, pid_of(project, f"{submission}-0000p1")


def test_one_trial_left_is_waited_for_and_requeued(project):
    job = FakeJob(project)
    worker, long, _fellow = idle_first(project, job)
    worker.send_signal(signal.SIGTERM)
    assert job.end_of(worker, 30).code == 0
    assert project.ends(long) == [STOPPED]
    assert job.kinds_of_calls().count("requeue") == 1


def test_the_first_takes_over_what_a_killed_fellow_leaves(project):
    job = FakeJob(project)
    worker, long, fellow = idle_first(project, job)
    os.kill(fellow, signal.SIGKILL)
    assert job.end_of(worker, 30).code == 0
    assert project.ends(long) == ["", "completed"]
    assert project.history(long)[-1][0] == 100


def test_a_fellow_that_does_not_even_run_is_killed_before_slurm_does_it(project):
    """KillWait is 8 s here."""
    job = FakeJob(project)
    worker, long, fellow = idle_first(project, job, kill_wait=8.0)
    os.kill(fellow, signal.SIGSTOP)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    wait_for_call(job, "requeue")
    assert 6 < time.monotonic() - began < 8
    assert job.end_of(worker, 10).code == 0
    assert project.ends(long) == [""]


def test_a_deadline_is_everybody_s_own(project):
    job = FakeJob(project)
    assert job.run(submit_packed(project, fixed={**LONG, "steps": 10_000}, time=6.0, margin=3.0)).code == 0
    assert last_ends(project) == [[DEADLINE]] * 2
    assert job.kinds_of_calls().count("requeue") == 1


def test_the_grace_time_of_a_preemption_is_everybody_s_too(project):
    job = FakeJob(project)
    job.answers(PreemptTime=job.ends_in(20), EndTime=job.ends_in(20))
    worker = job.start(submit_packed(project, time=3600.0, margin=60.0))
    wait_for_all(project, 3)
    worker.send_signal(signal.SIGUSR1)
    assert job.end_of(worker, 30).code == 0
    assert last_ends(project) == [["interrupted preempted"]] * 2
    assert job.kinds_of_calls().count("requeue") == 1


def test_a_cancelled_job_cancels_all_its_trials_and_comes_back_never(project):
    job = FakeJob(project)
    worker = job.start(submit_packed(project))
    wait_for_all(project, 3)
    job.answers(JobState="COMPLETING")
    with job.log.open("a") as log:
        log.write(log_line(12) + "\n")
    worker.send_signal(signal.SIGTERM)
    assert job.end_of(worker, 30).code == 75
    assert last_ends(project) == [["cancelled by_user"]] * 2
    assert "requeue" not in job.kinds_of_calls()


def test_none_outlives_the_first(project):
    job = FakeJob(project)
    worker = job.start(submit_packed(project))
    wait_for_all(project, 3)
    fellow = pid_of(project, f"{project.sweep.submissions()[-1].path.name}-0000p1")
    worker.kill()
    worker.wait()
    wait_until(lambda: not is_running(fellow), "the end of its fellow", 20)
    wait_until(lambda: not processes_with(str(project.root)), "the end of all", 10)
    assert "requeue" not in job.kinds_of_calls()


def test_one_that_was_killed_leaves_its_trial_to_the_first(project):
    job = FakeJob(project)
    worker = job.start(submit_packed(project, fixed={"steps": 40, "every": 2, "pause": 0.05}))
    wait_for_all(project, 5)
    fellow = pid_of(project, f"{project.sweep.submissions()[-1].path.name}-0000p1")
    os.kill(fellow, signal.SIGKILL)
    assert job.end_of(worker, 60).code == 0
    assert summary(project) == undisturbed(project)
    assert sorted(len(ends) for ends in last_ends(project)) == [1, 2]


@pytest.mark.parametrize("deaf", [0, 1])
def test_a_deaf_trial_in_any_of_them_is_killed_before_slurm_does_it(project, deaf):
    """KillWait is 8 s here: SIGKILL after 6.4 s, and the last word at 7.2 s."""
    job = FakeJob(project)
    fixed = {"steps": 3, "every": 1, "pause": 60.0, "deaf": True, "ignores_sigterm": True}
    worker = job.start(submit_packed(project, 1 + deaf, (1.0, 2.0)[: 1 + deaf], fixed, kill_wait=8.0))
    logs = [project.sweep.trial(trial).attempt(1).log for trial in project.trials()]
    wait_until(lambda: all(log.exists() and "starting" in log.read_text() for log in logs), "their first lines")
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    wait_for_call(job, "requeue")
    assert time.monotonic() - began < 8
    assert job.end_of(worker, 10).code == 0
    assert last_ends(project) == [[STOPPED]] * (1 + deaf)


def test_a_fellow_knows_whose_it_is():
    words = ["run", "--submission", "S", "--first-element", "20", "--fellow", "2", "--parent", "1"]
    environ = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}
    place = place_of(parse_arguments(words), environ)
    assert (place.worker_id, place.element, place.fellow) == ("S-0023r1p2", 23, 2)
    first = place_of(parse_arguments(words[:5]), environ)
    assert first.name_of_fellow(2) == place.worker_id
