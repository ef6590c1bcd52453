"""The worker's clock: its deadline, suspensions, hanging trials, and whether another trial is worth starting."""

from __future__ import annotations

import os
import signal

import pytest

from dlcluster.worker.forecast import Forecast
from dlcluster.worker.hanging import HangClock
from dlcluster.worker.shared_page import SharedPage
from dlcluster.worker.worktime import WorkTime
from tests.support import family, pause, run_worker, start_worker, submit, wait_for_step, wait_until


@pytest.fixture
def now(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("dlcluster.worker.worktime.time.monotonic", lambda: clock[0])
    return clock


def test_what_was_gone_before_the_worker_began_is_gone(now):
    clock = WorkTime(100.0, 20.0, elapsed=30.0)
    assert clock.seconds_to_deadline() == 50
    now[0] += 49.9
    assert not clock.deadline_is_reached()
    now[0] += 0.1
    assert clock.deadline_is_reached()
    assert clock.seconds_to_kill() == 18


def test_the_end_only_comes_nearer(now):
    clock = WorkTime(None, 20.0)
    assert clock.deadline is clock.seconds_to_kill() is None
    clock.end_within(60)
    clock.end_within(90)
    assert clock.seconds_to_deadline() == 40
    clock.end_within(10)
    assert clock.deadline_is_reached()


@pytest.mark.parametrize(("gap", "was_continued", "counts"), [(60, True, False), (60, False, True), (9, True, True)])
def test_a_suspension_stops_the_clock(now, gap, was_continued, counts):
    clock = WorkTime(100.0, 20.0)
    clock.look(False)
    before = clock.now()
    now[0] += gap
    clock.look(was_continued)
    assert clock.now() - before == (gap if counts else 0)
    assert clock.seconds_to_deadline() == (80 - gap if counts else 80)


def test_two_suspensions_add_up(now):
    clock = WorkTime(100.0, 20.0)
    for _ in range(2):
        now[0] += 50
        clock.look(True)
        now[0] += 1
        clock.look(False)
    assert clock.seconds_to_deadline() == 78


def test_a_trial_hangs_from_its_first_step_on_if_nothing_moves():
    now, page = [0.0], SharedPage()
    clock = HangClock(page, lambda: now[0], 60.0)
    page.count()
    now[0] = 1000
    assert not clock.has_hung()  # it is still setting up
    page.count_step()
    assert not clock.has_hung()
    now[0] = 1059
    assert not clock.has_hung()
    page.count()
    assert not clock.has_hung()
    now[0] = 1118
    assert not clock.has_hung()
    now[0] = 1119
    assert clock.has_hung()


def test_without_a_limit_in_the_spec_long_epochs_are_no_sign_of_hanging():
    now, page = [0.0], SharedPage()
    clock = HangClock(page, lambda: now[0], None)
    now[0] = 3600  # the first epoch took an hour
    page.count_step()
    assert not clock.has_hung()
    now[0] += 4 * 3600
    assert not clock.has_hung()
    now[0] += 3600
    assert clock.has_hung()


def test_a_page_is_clean_for_the_next_trial():
    page = SharedPage()
    page.set()
    page.announce_kill()
    page.count_step()
    page.clear()
    assert (page.is_set(), page.is_kill_announced(), page.has_logged, page.progress) == (False, False, False, 0)


def ended(state="completed", seconds=10.0, first_save_s=None):
    return {"state": state, "seconds": seconds, "first_save_s": first_save_s}


def test_what_a_trial_needs_is_the_time_to_what_lasts():
    forecast = Forecast()
    assert forecast.needed_s() == 0
    forecast.note(ended("failed", 1.0))
    forecast.note(ended("interrupted", 50.0))
    assert forecast.needed_s() == 0
    forecast.note(ended(seconds=100.0))
    assert forecast.needed_s() == 100
    forecast.note(ended(first_save_s=10.0))
    forecast.note(ended("interrupted", 50.0, first_save_s=20.0))
    assert forecast.needed_s() == 20
    for _ in range(50):
        forecast.note(ended(first_save_s=1.0))
    assert forecast.needed_s() == 1


# -- of real workers ---------------------------------------------------------------------------------------------------


def test_no_trial_is_started_that_could_save_nothing(project):
    project.write_spec(
        space={"start": [1.0, 2.0, 3.0, 4.0]}, fixed={"steps": 20, "every": 20, "pause": 0.05}, launch={"parallel": 1}
    )
    submission = submit(project, time=4.0, margin=0.5)  # three of them fit, and the fourth would have half a second
    assert run_worker(project, submission).code == 75
    ends = [project.ends(trial) for trial in project.trials()]
    assert ends.count(["completed"]) in (2, 3)
    assert ends.count([]) == 4 - ends.count(["completed"])


HANGING = """
import sys, threading, time

def hold():
    time.sleep(600)

def train(run, **_params):
    {before}
    run.log(loss=1.0)
    threading.Thread(target=hold, daemon=True).start()
    {after}
"""


def hanging(project, after, before="pass", timeout=1.0, **rules):
    (project.root / "counter.py").write_text(HANGING.format(after=after, before=before))
    project.write_spec(space={"start": [1.0]}, launch={"parallel": 1})
    done = run_worker(project, submit(project, hang_timeout=timeout, **rules))
    (trial,) = project.trials()
    return done.code, project.ends(trial)


def test_a_trial_that_hangs_is_ended_with_its_stacks_and_tried_once_more(project):
    assert hanging(project, "hold()") == (0, ["failed hung"] * 2)
    (trial,) = project.trials()
    log = project.sweep.trial(trial).attempt(1).log.read_text()
    assert log.count("in hold\n") == 2  # of both threads
    end = project.rows(trial, 1)[-1]
    assert (end["exit"], end["message"][:27]) == (80, "no sign of progress for 1 s")
    assert project.status()["trials"][0]["reason"] == "hung"


def test_how_often_is_for_the_spec_to_say(project):
    assert hanging(project, "hold()", retry={"hung": 0}) == (0, ["failed hung"])


@pytest.mark.parametrize("sign", ["run.log(loss=0.5)", "run.should_stop()", "run.tick()", "run.save({})"])
def test_every_use_of_the_run_is_a_sign_of_life(project, sign):
    again = f"[(time.sleep(0.3), {sign}) for _ in range(20)]"
    assert hanging(project, again, timeout=1.5) == (0, ["completed"])


def test_setting_up_may_take_as_long_as_it_takes(project):
    assert hanging(project, "pass", before="time.sleep(2)") == (0, ["completed"])


PROGRAM = """
import sys, time, dlcluster
print("loss=1.0")
for _ in range(10):
    time.sleep({pause})
    {sign}
"""


@pytest.mark.parametrize(
    ("sign", "pause_s", "expected"),
    [
        ("print('.')", 0.3, "completed"),
        ("dlcluster.tick()", 0.3, "completed"),
        ("dlcluster.should_stop()", 0.3, "completed"),
        ("sum([])", 6, "failed hung"),
    ],
)
def test_a_program_lives_by_what_it_prints_or_says(project, sign, pause_s, expected):
    (project.root / "program.py").write_text(PROGRAM.format(sign=sign, pause=pause_s))
    project.write_spec(
        job=None, command=["python", "program.py"], space={"start": [1.0]}, fixed={}, launch={"parallel": 1}
    )
    run_worker(project, submit(project, hang_timeout=1.5, retry={"hung": 0}))
    (trial,) = project.trials()
    assert project.ends(trial) == [expected]


@pytest.mark.slow
def test_a_worker_that_was_suspended_has_neither_hung_nor_lost_time(project):
    """As `scontrol suspend` does it: all processes stop, and go on later."""
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 40, "every": 10, "pause": 0.1}, launch={"parallel": 1})
    worker = start_worker(project, submit(project, hang_timeout=5.0, time=14.0, margin=2.0))
    wait_for_step(project, 5)
    members = [pid for pids in family(project).values() for pid in pids]
    for number, seconds in ((signal.SIGSTOP, 12.0), (signal.SIGCONT, 0.0)):
        for pid in members:
            os.kill(pid, number)
        pause(seconds)
    worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert project.ends(project.trials()[0]) == ["completed"]


# -- the canary --------------------------------------------------------------------------------------------------------


def spans(project):
    """When each attempt ran, and whether it completed."""
    rows = [attempt.read()[0] for trial in project.trials() for attempt in project.sweep.trial(trial).attempts()]
    return sorted((r[0]["time"], r[0]["time"] + r[-1]["seconds"], r[-1]["state"]) for r in rows)


@pytest.mark.parametrize("per_job", ["pull", 2])
def test_one_trial_runs_ahead_of_all_others(project, per_job):
    from tests.worker.fake_job import FakeJob, change_intent

    project.write_spec(space={"start": [1.0, 2.0, 3.0, 4.0]}, fixed={"steps": 10, "every": 5, "pause": 0.1})
    submission = submit(project, canary=True)
    change_intent(project, submission, trials_per_job=per_job)
    workers = [FakeJob(project).start(submission, "--first-element", str(n)) for n in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    runs = spans(project)
    assert [state for _begin, _end, state in runs] == ["completed"] * 4
    first_end = runs[0][1]
    assert all(begin >= first_end for begin, _end, _state in runs[1:])


def test_after_a_canary_that_failed_comes_the_next(project):
    project.write_spec(
        space={"start": [1.0, 2.0, 3.0], "fault": ["raise", ""]}, fixed={"steps": 3, "every": 0, "pause": 0.2, "at": 2}
    )
    submission = submit(project, canary=True)
    workers = [start_worker(project, submission, n) for n in range(3)]
    for worker in workers:
        worker.communicate(timeout=60)
    runs = spans(project)
    assert len(runs) == 6
    n_ahead = next(i for i, run in enumerate(runs) if run[2] == "completed") + 1
    for earlier, later in zip(runs[:n_ahead], runs[1 : n_ahead + 1], strict=True):
        assert later[0] >= earlier[1]


def test_who_waits_for_the_canary_can_be_told_to_stop(project):
    project.write_spec(fixed={"steps": 200, "every": 0, "pause": 0.1})
    submission = submit(project, canary=True)
    first, second = (start_worker(project, submission, n) for n in range(2))
    wait_until(lambda: len(project.sweep.workers()) == 2, "both workers")
    wait_for_step(project, 2)
    pause(1.0)
    assert len(family(project)["child"]) == 1
    for worker in (second, first):
        worker.terminate()
        worker.communicate(timeout=10)
        assert worker.returncode == 75


# -- trials of workers on other hosts ----------------------------------------------------------------------------------

WORK = """
import os, sys
from pathlib import Path
from dlcluster.worker.place import Place
from dlcluster.worker.stopping import SignalLog
from dlcluster.worker.supervisor import work
signals = SignalLog()
signals.install()
os._exit(work(Path(sys.argv[1]), sys.argv[2], Place(sys.argv[3]), signals, beat_s=float(sys.argv[4])))
"""


def leave_an_attempt_elsewhere(project):
    """A trial that a worker of another host has begun. Returns its heartbeat's file and content."""
    from dlcluster.files import append_json_line
    from dlcluster.liveness import identity

    trial = project.trials()[0]
    owner = {**identity(os.getpid()), "host": "elsewhere", "boot": "another", "worker": "x"}
    folder = project.sweep.trial(trial)
    folder.attempt(1).path.mkdir(parents=True)
    row = {"kind": "start", "time": 1.0, "trial": trial.id, "attempt": 1, "seed": 0, "params": {}, **owner}
    append_json_line(folder.attempt(1).journal, row)
    project.sweep.worker("x").path.mkdir()
    return project.sweep.worker("x").heartbeat, {**owner, "seq": 1, "current": [trial.id, 1]}


@pytest.mark.parametrize("moves", [True, False])
def test_what_another_host_has_begun_is_taken_over_only_if_its_heartbeat_stands_still(project, moves):
    import subprocess
    import sys
    import time

    from dlcluster.files import write_json

    project.write_spec()
    submission = submit(project)
    file, beat = leave_an_attempt_elsewhere(project)
    write_json(file, beat)
    began = time.monotonic()
    worker = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORK, str(project.sweep.path), submission, f"{submission}-0000", "1.0"],
        env=project.environment(),
    )
    while worker.poll() is None:
        assert time.monotonic() - began < 30
        if moves:
            beat["seq"] += 1
            write_json(file, beat)
        pause(0.2)
    ends = [project.ends(trial) for trial in project.trials()]
    assert ends == [[""] if moves else ["", "completed"], ["completed"]]
    assert moves or time.monotonic() - began > 3
