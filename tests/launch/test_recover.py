"""Submissions whose command has died: found again by name, or known never to have been made."""

from __future__ import annotations

import subprocess
import time

import pytest

from dlcluster.errors import PreconditionError
from dlcluster.launch import recover as room
from dlcluster.launch.recover import LOST_AFTER_S, NEVER_SUBMITTED, SECOND_LOOK_S
from tests.launch.pretend_slurm import PretendedSlurm
from tests.launch.sweeps import ELSEWHERE, make_sweep
from tests.support import wait_until


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return PretendedSlurm(tmp_path / "slurm").install().use(monkeypatch)


@pytest.fixture
def made(slurm, tmp_path):
    slurm.configure(MaxArraySize="2")  # three trials: an array of two and a job
    return make_sweep(tmp_path / "runs")


def recover(made, **options):
    """What it says, and how long it has waited."""
    waits = []
    return room.recover(made.sweep, wait=waits.append, **options), waits


def test_nothing_open_asks_nobody(slurm, made):
    made.submit()
    n_calls = slurm.n_calls()
    assert recover(made) == ([], [])
    assert slurm.n_calls() == n_calls


def test_jobs_that_were_not_noted_are_found(slurm, made):
    made.submit()
    made.forget_submitter()
    made.lose_job(0)
    made.lose_job(1)
    said, waits = recover(made)
    assert said == [f"job {k} of an interrupted command was found again" for k in (101, 103)]
    assert made.jobs_on_record() == [101, 103]
    assert waits == []
    assert recover(made) == ([], [])


def test_jobs_that_were_never_made_are_known_after_one_wait(slurm, made):
    made.executor()
    made.forget_submitter()
    said, waits = recover(made)
    assert (said, waits) == ([], [SECOND_LOOK_S])
    assert made.jobs_on_record() == [None, None]
    assert made.sweep.submissions()[-1].read_job(0)["problem"] == NEVER_SUBMITTED
    assert slurm.n_calls("squeue") == 2


def test_however_many_arrays_are_open_there_is_one_wait_and_two_looks(slurm, tmp_path):
    made = make_sweep(tmp_path / "many", 30)
    made.executor()
    made.forget_submitter()
    assert recover(made)[1] == [SECOND_LOOK_S]
    assert slurm.n_calls("squeue") == 2


def test_a_job_that_appears_a_moment_later_is_found(slurm, made):
    made.submit()
    made.forget_submitter()
    made.lose_job(1)
    slurm.answer("squeue", {"rc": 0, "out": ""})
    said, waits = recover(made)
    assert said == ["job 103 of an interrupted command was found again"]
    assert waits == [SECOND_LOOK_S]


def test_before_the_scripts_were_there_nothing_can_have_been_submitted(slurm, made):
    made.executor()
    made.forget_submitter()
    folder = made.sweep.submissions()[-1]
    folder.script(0).unlink()
    folder.script(1).unlink()
    assert recover(made) == ([], [])
    assert made.jobs_on_record() == [None, None]


def test_a_job_that_the_queue_has_forgotten_is_found_in_accounting(slurm, made):
    made.submit()
    made.forget_submitter()
    made.lose_job(0)
    slurm.forget_all()
    slurm.change(accounts=[f"101_0|COMPLETED|0:0|0:0|s|b|e|n1|{made.name()}|None"])
    slurm.configure(AccountingStorageType="accounting_storage/slurmdbd")
    assert recover(made)[0] == ["job 101 of an interrupted command was found again"]
    assert slurm.n_calls("sacct") == 1


def test_without_an_answer_nothing_is_decided(slurm, made):
    made.executor()
    made.forget_submitter()
    slurm.go_down()
    with pytest.raises(PreconditionError, match="cannot be told"):
        recover(made)
    assert made.jobs_on_record() == ["open", "open"]
    slurm.come_back()
    slurm.answer("squeue", {"rc": 0, "out": ""}, {"rc": 1, "out": "", "err": "squeue: error: gone again\n"})
    with pytest.raises(PreconditionError):
        recover(made)
    assert made.jobs_on_record() == ["open", "open"]


def test_a_command_that_is_still_at_it_is_left_alone(slurm, made):
    made.executor()
    said, waits = recover(made)
    assert "is being submitted right now by process" in said[0]
    assert (waits, slurm.n_calls("squeue")) == ([], 0)
    assert made.jobs_on_record() == ["open", "open"]


def test_a_command_on_another_host_is_given_ten_minutes(slurm, made):
    made.executor()
    made.forget_submitter(ELSEWHERE)
    said, _waits = recover(made)
    assert "may still be being submitted on elsewhere" in said[0]
    assert made.jobs_on_record() == ["open", "open"]
    made.change_intent(time=time.time() - LOST_AFTER_S - 1)
    assert recover(made)[0] == []
    assert made.jobs_on_record() == [None, None]


def test_assume_lost_does_not_wait_for_another_host(slurm, made):
    made.executor()
    made.forget_submitter(ELSEWHERE)
    assert recover(made, assume_lost=True)[0] == []
    assert made.jobs_on_record() == [None, None]


def test_assume_lost_still_finds_what_is_there(slurm, made):
    made.submit()
    made.forget_submitter(ELSEWHERE)
    made.lose_job(1)
    assert recover(made, assume_lost=True)[0] == ["job 103 of an interrupted command was found again"]


def test_scripts_for_submitting_by_hand_are_no_lost_jobs(slurm, made):
    made.executor()
    made.change_intent(by_hand=True)
    made.forget_submitter()
    assert recover(made) == ([], [])
    assert slurm.n_calls("squeue") == 0


def test_an_sbatch_that_has_outlived_its_command_is_waited_for(slurm, made):
    """Ended too early, it would be looked for in vain, and submitted twice."""
    executor = made.executor()
    made.forget_submitter()
    script = made.sweep.submissions()[-1].script(0)
    slurm.answer("sbatch", {"rc": 0, "does_it": True, "delay": 60})
    orphan = subprocess.Popen(
        ["sbatch", "--parsable", str(script)], env=executor.environment, stdin=subprocess.DEVNULL, stdout=-3
    )
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            wait_until(lambda: slurm.jobs, "the job")
            orphan.kill()
            orphan.wait()

    wait_until(lambda: slurm.n_calls("sbatch"), "sbatch")
    room.recover(made.sweep, wait=wait)
    assert waits[:3] == [0.2] * 3
    assert made.jobs_on_record() == [101, None]


def test_processes_that_only_look_like_sbatch_are_not_waited_for(slurm, made):
    made.executor()
    made.forget_submitter()
    script = made.sweep.submissions()[-1].script(0)
    editor = subprocess.Popen(["/bin/sh", "-c", "read line; exit 0", "vim", str(script)], stdin=subprocess.PIPE)
    try:
        assert recover(made)[1] == [SECOND_LOOK_S]
    finally:
        editor.communicate(b"\n")
