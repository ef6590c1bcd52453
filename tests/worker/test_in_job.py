"""A worker in a Slurm job: who it is, what it hears, how it leaves (rows S2, S4, S6, S8, S9, S25)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support import (
    check_oracle,
    family,
    is_running,
    pause,
    processes_with,
    start_worker,
    submit,
    wait_for_step,
    wait_until,
)
from tests.worker.fake_job import FakeJob, change_intent, heartbeat, last_ends, wait_for_call
from tests.worker.test_slurm_job import log_line

LONG = {"steps": 60, "every": 1000, "pause": 0.05}
STOPPED, DEADLINE = "interrupted stop_requested", "interrupted deadline"


def one_long_trial(project, fixed=LONG, **rules):
    project.write_spec(space={"start": [1.0]}, fixed=fixed, launch={"parallel": 1})
    return submit(project, **rules)


def journal_ends(project):
    (trial,) = project.trials()
    return [row for row in project.rows(trial, 1) if row["kind"] == "end"]


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_a_worker_takes_its_name_and_its_share_from_its_job(project):
    project.write_spec(space={"start": [1.0, 2.0, 3.0, 4.0, 5.0]})
    submission = submit(project)
    change_intent(project, submission, trials_per_job=2)
    job = FakeJob(project, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1", SLURM_RESTART_COUNT="3")
    assert job.run(submission).code == 0
    done = [trial.params["start"] for trial in project.trials() if project.ends(trial)]
    assert done == [3.0, 4.0]
    name = f"{submission}-0001r3"
    told = {"id": 12, "array": 7, "index": 1, "restarts": 3, "cluster": "dlcluster"}
    assert heartbeat(project, name)["job"] == told
    (start,) = [row for row in project.rows(project.trials()[2], 1) if row["kind"] == "start"]
    assert (start["worker"], start["job"]) == (name, told)
    assert job.run(submission, "--first-element", "3").code == 0  # its element would be 4, whose share is empty
    assert not job.calls()


def test_shares_of_all_elements_are_all_trials_once(project):
    project.write_spec(space={"start": [1.0, 2.0, 3.0, 4.0, 5.0]})
    submission = submit(project)
    change_intent(project, submission, trials_per_job=2)
    for element in range(3):
        assert FakeJob(project).run(submission, "--first-element", str(element)).code == 0
    check_oracle(project)
    assert {worker.path.name[-4:] for worker in project.sweep.workers()} == {"0000", "0001", "0002"}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--submission", "x"],
        ["--submission", "x", "--worker", "w", "--first-element", "0"],
        ["--submission", "x", "--first-element", "-1"],
        ["--submission", "x", "--first-element", "0", "--elapsed", "nan"],
        ["--submission", "x", "--first-element", "0", "--elapsed", "soon"],
        ["--submission", "x", "--worker", "w", "--wrong"],
    ],
)
def test_wrong_arguments_are_one_line_and_a_bad_environment(project, arguments):
    project.write_spec()
    done = subprocess.run(
        [sys.executable, "-m", "dlcluster.worker", str(project.root), *arguments],
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


# -- SIGTERM -----------------------------------------------------------------------------------------------------------


def term(project, job, **rules):
    submission = one_long_trial(project, **rules)
    worker = job.start(submission)
    wait_for_step(project, 3)
    worker.send_signal(signal.SIGTERM)
    return job.end_of(worker, 20)


def test_asked_to_stop_it_saves_records_and_is_requeued_in_this_order(project):
    job = FakeJob(project)
    assert term(project, job).code == 0
    assert job.kinds_of_calls() == ["show", "requeue"]
    assert [row["kind"] for row in job.journals_at_requeue()][-2:] == ["checkpoint", "end"]
    assert last_ends(project) == [[STOPPED]]
    again = FakeJob(project, SLURM_RESTART_COUNT="1")
    assert again.run(project.sweep.submissions()[0].path.name).code == 0
    check_oracle(project)
    assert job.kinds_of_calls() == ["show", "requeue"]


def test_cancelled_by_its_user_it_is_never_requeued(project):
    job = FakeJob(project)
    job.answers(JobState="COMPLETING")
    assert term(project, job).code == 75
    assert job.kinds_of_calls() == ["show"]
    assert last_ends(project) == [["cancelled by_user"]]
    assert [row["state"] for row in journal_ends(project)] == ["interrupted", "cancelled"]


def test_preempted_without_grace_it_says_so_and_asks_for_another_life(project):
    job = FakeJob(project)
    job.answers(JobState="COMPLETING", PreemptTime="2024-05-01T12:00:00")
    submission = one_long_trial(project)
    worker = job.start(submission)
    wait_for_step(project, 3)
    with open(job.log, "a") as log:
        log.write(log_line(12, "PREEMPTION"))
    worker.send_signal(signal.SIGTERM)
    assert job.end_of(worker, 20).code == 0
    assert job.kinds_of_calls() == ["show", "requeue"]
    assert last_ends(project) == [["interrupted preempted"]]
    assert len(journal_ends(project)) == 1  # at once: there may be no time for a second record before the SIGKILL


def test_already_requeued_by_slurm_it_only_leaves(project):
    job = FakeJob(project)
    job.answers(JobState="COMPLETING", Restarts="1")
    assert term(project, job).code == 75
    assert job.kinds_of_calls() == ["show"]
    assert last_ends(project) == [[STOPPED]]


def test_a_requeue_that_is_refused_is_in_the_record(project):
    job = FakeJob(project)
    (job.folder / "refusal").write_text("Requested operation is presently disabled for job 12\n")
    assert term(project, job).code == 75
    assert last_ends(project) == [[STOPPED]]
    assert "presently disabled" in journal_ends(project)[-1]["message"]


@pytest.mark.parametrize("text", ["", "{trial}\n"])
def test_what_was_called_off_is_not_requeued(project, text):
    job = FakeJob(project)
    submission = one_long_trial(project)
    worker = job.start(submission)
    wait_for_step(project, 3)
    called_off = project.sweep.submission(submission).path / "cancelled"
    called_off.write_text(text.format(trial=project.trials()[0].id))
    worker.send_signal(signal.SIGTERM)
    assert job.end_of(worker, 20).code == 0
    assert not job.calls()


@pytest.mark.parametrize("marker", ["cancel", "stop", "hold"])
def test_markers_close_the_way_to_a_requeue(project, marker):
    job = FakeJob(project)
    submission = one_long_trial(project)
    worker = job.start(submission)
    wait_for_step(project, 3)
    (folder,) = project.sweep.workers()
    folder.marker(marker).write_text("")
    if marker == "hold":
        pause(1.5)
        worker.send_signal(signal.SIGTERM)
    assert job.end_of(worker, 20).code == (0 if marker == "cancel" else 75)
    assert not job.calls()


@pytest.mark.parametrize(("ignores_sigterm", "expected", "code"), [(False, 2.5, -15), (True, 4.0, -9)])
def test_a_deaf_trial_is_ended_in_time_for_its_record(project, ignores_sigterm, expected, code):
    """KillWait is 5 s here: SIGTERM after 2.5 s, SIGKILL after 4 s."""
    job = FakeJob(project)
    deaf = {"steps": 3, "every": 1, "pause": 60.0, "deaf": True, "ignores_sigterm": ignores_sigterm}
    submission = one_long_trial(project, deaf, kill_wait=1.0)
    worker = job.start(submission)
    (trial,) = wait_until(project.trials, "the plan")
    log = project.sweep.trial(trial).attempt(1).log
    wait_until(lambda: log.exists() and "starting" in log.read_text(), "the first line of the trial")
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    pause(0.3)
    worker.send_signal(signal.SIGTERM)  # a task of srun gets two: no hurry
    wait_for_call(job, "show")
    assert expected - 0.2 < time.monotonic() - began < expected + 0.9
    assert job.end_of(worker, 10).code == 0
    assert last_ends(project) == [[STOPPED]]
    assert journal_ends(project)[0]["exit"] == code


def test_sent_to_all_processes_it_is_a_request_to_the_trial_too(project):
    """As proctrack/linuxproc does it; what the trial has forked dies of it."""
    job = FakeJob(project)
    submission = one_long_trial(project, {**LONG, "children": 2})
    worker = job.start(submission)
    wait_for_step(project, 3)
    (trial,) = project.trials()
    loaders = [int(pid) for pid in (project.sweep.trial(trial).path / "children.txt").read_text().split()]
    assert "terminated: -15" in project.sweep.trial(trial).attempt(1).log.read_text()
    members = family(project)
    for pid in [*members["child"], *members["zygote"], *members["supervisor"], *loaders[:2]]:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(map(is_running, loaders[:2])), "the end of the loaders", 5)
    assert job.end_of(worker, 20).code == 0
    assert [row["kind"] for row in project.rows(trial, 1)][-2:] == ["checkpoint", "end"]
    assert last_ends(project) == [[STOPPED]]


def test_a_zygote_that_hears_slurm_s_sigterm_goes_on_importing(project):
    (project.root / "counter.py").write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(project.root / 'importing')!r}).touch()\ntime.sleep(1)\n"
        "def train(run, **_params):\n    run.log(loss=1.0)\n"
    )
    job = FakeJob(project)
    worker = job.start(submit(project))
    wait_until((project.root / "importing").exists, "the import")
    for pid in family(project)["zygote"]:
        os.kill(pid, signal.SIGTERM)
    assert job.end_of(worker, 20).code == 0
    assert last_ends(project) == [["completed"], ["completed"]]


# -- the warning -------------------------------------------------------------------------------------------------------


def warn(project, job, number=signal.SIGUSR1, fixed=LONG, **rules):
    submission = one_long_trial(project, fixed, **rules)
    worker = job.start(submission)
    wait_for_step(project, 3)
    began = time.monotonic()
    worker.send_signal(number)
    done = job.end_of(worker, 30)
    return done.code, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_with_time_left_changes_nothing(project, number):
    job = FakeJob(project)
    assert warn(project, job, number, time=3600.0, margin=60.0)[0] == 0
    assert last_ends(project) == [["completed"]]
    assert job.kinds_of_calls() == ["show"]


def test_a_warning_at_the_start_of_a_grace_time_is_the_end(project):
    job = FakeJob(project)
    job.answers(PreemptTime=job.ends_in(20), EndTime=job.ends_in(20))
    code, _seconds = warn(project, job, time=3600.0, margin=60.0)
    assert code == 0
    assert last_ends(project) == [["interrupted preempted"]]
    assert job.kinds_of_calls() == ["show", "show", "requeue"]


def test_a_preempted_trial_has_all_of_the_grace_time(project):
    """The spec's grace of 1 s is for a trial that is stopped by somebody who may wait as long as he likes."""
    job = FakeJob(project)
    job.answers(PreemptTime=job.ends_in(6), EndTime=job.ends_in(6))
    deaf = {"steps": 3, "every": 1, "pause": 60.0, "deaf": True, "ignores_sigterm": True}
    submission = one_long_trial(project, deaf, grace=1.0)
    worker = job.start(submission)
    (trial,) = project.trials()
    log = project.sweep.trial(trial).attempt(1).log
    wait_until(lambda: log.exists() and "starting" in log.read_text(), "the first line of the trial")
    job.answers(PreemptTime=job.ends_in(6), EndTime=job.ends_in(6))
    worker.send_signal(signal.SIGUSR1)
    assert job.end_of(worker, 20).code == 0
    assert last_ends(project) == [["interrupted preempted"]]
    assert job.kinds_of_calls() == ["show", "show", "requeue"]
    (end,) = journal_ends(project)
    assert end["seconds"] > 4


def test_a_warning_of_an_end_that_was_moved_nearer_is_a_deadline(project):
    job = FakeJob(project)
    job.answers(EndTime=job.ends_in(40))
    code, seconds = warn(project, job, time=3600.0, margin=60.0)
    assert (code, last_ends(project)) == (0, [[STOPPED]])  # no fault of a trial that had so little time
    assert seconds < 2
    assert job.kinds_of_calls() == ["show", "show", "requeue"]


def test_a_warning_that_nobody_explains_is_the_end_after_five_seconds(project):
    job = FakeJob(project)
    (job.folder / "slow").touch()
    submission = one_long_trial(project, {**LONG, "steps": 10_000})
    worker = job.start(submission)
    wait_for_step(project, 3)
    began = time.monotonic()
    worker.send_signal(signal.SIGUSR1)
    wait_until(lambda: last_ends(project) == [[STOPPED]], "the end of the trial", 15)
    assert 4.5 < time.monotonic() - began < 9
    wait_until(lambda: job.kinds_of_calls() == ["show", "show"], "the look before a requeue")
    worker.kill()  # it would wait for an answer for a minute
    worker.wait()
    wait_until(lambda: not family(project)["supervisor"], "its end")
    for pid in processes_with(str(project.root)):
        os.kill(pid, signal.SIGKILL)


def test_trials_that_end_meanwhile_do_not_take_the_question_with_them(project):
    """What a trial leaves behind is ended with it; a scontrol that has not answered yet is none of it."""
    job = FakeJob(project)
    (job.folder / "delayed").touch()
    project.write_spec(space={"start": [float(n) for n in range(1, 21)]}, fixed={"steps": 2, "pause": 0.05})
    worker = job.start(submit(project, time=3600.0, margin=60.0))
    wait_for_step(project, 1)
    worker.send_signal(signal.SIGUSR1)
    assert job.end_of(worker, 30).code == 0
    assert last_ends(project) == [["completed"]] * 20
    assert job.kinds_of_calls() == ["show"]


def test_outside_of_a_job_a_warning_is_a_request(project):
    submission = one_long_trial(project)
    job = FakeJob(project)
    worker = start_worker(project, submission, env={**project.environment(), **job.environ})
    wait_for_step(project, 3)
    worker.send_signal(signal.SIGUSR1)
    worker.communicate(timeout=20)
    assert worker.returncode == 75
    assert not job.calls()


# -- the deadline ------------------------------------------------------------------------------------------------------


def test_the_time_before_the_worker_counts(project):
    job = FakeJob(project)
    submission = one_long_trial(project, time=60.0, margin=20.0)
    assert job.run(submission, "--elapsed", "39").code == 0
    assert last_ends(project) == [[STOPPED]]  # not "deadline": it had only the last second of the worker's time
    assert journal_ends(project)[0]["seconds"] < 2
    assert job.kinds_of_calls() == ["show", "requeue"]


def test_an_end_that_slurm_names_counts_if_it_is_earlier(project):
    job = FakeJob(project, SLURM_JOB_END_TIME=str(int(time.time()) + 22))
    submission = one_long_trial(project, time=3600.0, margin=20.0)
    assert job.run(submission).code == 0
    assert last_ends(project) == [[DEADLINE]]


def test_a_clock_that_is_ahead_of_slurm_s_is_not_believed(project):
    job = FakeJob(project, SLURM_JOB_END_TIME=str(int(time.time()) - 86400))
    assert job.run(one_long_trial(project, time=3600.0, margin=20.0)).code == 0
    assert last_ends(project) == [["completed"]]


def test_a_life_too_short_for_any_trial_is_the_last(project):
    job = FakeJob(project)
    assert job.run(one_long_trial(project, time=60.0, margin=20.0), "--elapsed", "50").code == 75
    assert not job.calls()
    assert last_ends(project) == [[]]


def test_a_share_that_is_finished_costs_less_than_a_second_and_no_import(project):
    submission = submit(project)
    assert FakeJob(project).run(submission).code == 0
    (project.root / "counter.py").write_text("raise SystemExit(3)")
    code = next((project.sweep.path / "code").iterdir())
    os.chmod(code / "counter.py", 0o600)
    (code / "counter.py").write_text("raise SystemExit(3)")  # whoever looked at it now would complain
    job = FakeJob(project, SLURM_RESTART_COUNT="1")
    began = time.monotonic()
    assert job.run(submission).code == 0
    assert time.monotonic() - began < 1.5
    assert not job.calls()


# -- slurmstepd is gone ------------------------------------------------------------------------------------------------

STEPD = """
import subprocess, sys, time
process = subprocess.Popen(sys.argv[1:], start_new_session=True)
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("polls", [True, False])
def test_a_supervisor_whose_stepd_is_gone_ends_its_trial_at_once(project, polls):
    job = FakeJob(project)
    fixed = LONG if polls else {"steps": 3, "every": 1, "pause": 60.0, "deaf": True, "ignores_sigterm": True}
    submission = one_long_trial(project, fixed)
    with open(job.log, "a") as log:
        stepd = subprocess.Popen(
            [sys.executable, "-c", STEPD, *job.command(submission)],
            env={**project.environment(), **job.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    pid = int(stepd.stdout.readline())
    wait_until(lambda: family(project)["child"], "the trial")
    pause(0.5)
    began = time.monotonic()
    stepd.kill()
    stepd.communicate()
    wait_until(lambda: not is_running(pid), "the end of the supervisor", 5)
    assert time.monotonic() - began < 3
    assert last_ends(project) == [["interrupted stepd_lost"]]
    assert not job.calls()
    wait_until(lambda: not processes_with(str(project.root)), "the end of all", 2)


# -- an earlier life ---------------------------------------------------------------------------------------------------


def test_an_old_life_of_the_same_job_is_fenced_at_once_even_if_it_still_runs(project):
    submission = one_long_trial(project)
    old = FakeJob(project).start(submission)
    wait_for_step(project, 3)
    stopped = [pid for pids in family(project).values() for pid in pids]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    new = FakeJob(project, SLURM_RESTART_COUNT="1")
    assert new.run(submission).code == 0
    assert last_ends(project) == [["", "completed"]]
    size = (project.sweep.trial(project.trials()[0]).attempt(1).journal).stat().st_size
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert new.end_of(old, 20).code == 0
    assert not new.calls()
    grown = (project.sweep.trial(project.trials()[0]).attempt(1).journal).stat().st_size - size
    assert grown < 4 * 200  # a few rows until it looked, all in its own attempt; never an end
    assert last_ends(project) == [["", "completed"]]


def test_a_worker_of_another_job_does_not_take_over_what_runs(project):
    submission = one_long_trial(project)
    first = FakeJob(project).start(submission)
    wait_for_step(project, 3)
    other = FakeJob(project, SLURM_JOB_ID="13", SLURM_RESTART_COUNT="1")
    assert other.run(submission).code == 0
    assert last_ends(project) == [[""]]
    assert other.end_of(first).code == 0
    check_oracle(project)


def test_the_record_of_an_attempt_is_strict_json_with_two_ends(project):
    job = FakeJob(project)
    job.answers(JobState="COMPLETING")
    term(project, job)
    (trial,) = project.trials()
    text = project.sweep.trial(trial).attempt(1).journal.read_text()
    assert [json.loads(line)["kind"] for line in text.splitlines()][-2:] == ["end", "end"]
