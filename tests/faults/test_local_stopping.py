"""A local sweep is told to stop: signals at any time, a deadline, trials that do not listen (L3, L5, L7, L8)."""

from __future__ import annotations

import os
import pty
import random
import signal
import time
import tty

import pytest

from dlcluster.launch.local import LocalExecutor, Slots
from tests.support import (
    check_oracle,
    end_of,
    family,
    is_running,
    pause,
    processes_with,
    remove_scratch_files,
    run_worker,
    start_worker,
    submit,
    summary,
    undisturbed,
    wait_for_step,
    wait_until,
)

LONG = {"steps": 30, "every": 2, "pause": 0.05}
DEAF = {"steps": 3, "every": 1, "pause": 60.0, "deaf": True}


def nothing_runs(project, timeout=10):
    wait_until(lambda: not processes_with(str(project.root)), "the end of all processes", timeout)


def assert_no_step_was_lost(project):
    """Each attempt went on from the very step that the one before it had logged last."""
    for trial in project.trials():
        attempts = project.sweep.trial(trial).attempts()
        for earlier, later in zip(attempts, attempts[1:], strict=False):
            logged = [row["step"] for row in earlier.read()[0] if row["kind"] == "metrics"]
            resumed = [row["step"] for row in later.read()[0] if row["kind"] == "resume"]
            assert resumed == (logged[-1:] or [0]), trial.id


# -- the command is asked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_asked_once_trials_save_and_end_and_the_same_command_goes_on(project, number):
    project.write_spec(fixed=LONG)
    command = project.start("sweep", "sweep.yaml")
    wait_for_step(project, 5, n_trials=2)
    command.send_signal(number)
    done = end_of(command)
    assert done.code == 130, done
    assert "2 trial(s) left" in done.err
    nothing_runs(project, 1)
    for trial in project.trials():
        assert project.ends(trial) == ["interrupted stop_requested"]
    if number == signal.SIGINT:
        project.run_sweep()
    else:
        run_worker(project, submit(project))
    check_oracle(project)
    assert_no_step_was_lost(project)
    assert summary(project) == undisturbed(project)


def test_asked_twice_trials_are_killed_at_once(project):
    project.write_spec(fixed={**DEAF, "ignores_sigterm": True, "pause": 0.0, "steps": 10**6, "every": 0})
    (project.root / "counter.py").write_text(
        "def train(run, **_params):\n    run.log(loss=1.0)\n    while True:\n        pass\n"
    )
    command = project.start("sweep", "sweep.yaml")
    wait_for_step(project, 1, n_trials=2)
    command.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in command.stderr.readline(), "the command to say that it stops")
    command.send_signal(signal.SIGINT)
    wait_until(lambda: not family(project)["child"], "the end of the trials, long before their grace of 30 s", 10)
    assert end_of(command).code == 130
    nothing_runs(project, 1)
    assert {row["state"] for row in project.status()["trials"]} == {"interrupted"}


def test_a_terminal_that_goes_away_is_one_request(project):
    """SIGHUP, and nobody is left to read what the command prints."""
    project.write_spec(fixed=LONG)
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    command = project.start("sweep", "sweep.yaml", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    wait_for_step(project, 5, n_trials=2)
    command.send_signal(signal.SIGHUP)
    os.close(ours)
    command.wait(timeout=60)
    nothing_runs(project, 1)
    for trial in project.trials():
        assert project.ends(trial) == ["interrupted stop_requested"]
    run_worker(project, submit(project))
    check_oracle(project)
    assert_no_step_was_lost(project)


@pytest.mark.long
def test_a_terminal_that_goes_away_leaves_the_grace_to_save(project):
    """The same for a trial that needs longer to save than the command waits for workers that only have to leave."""
    worker = slow_trial(project, grace="30s", seconds=8)
    worker.kill()
    worker.communicate()
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    command = project.start("sweep", "sweep.yaml", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    (trial,) = project.trials()
    wait_until(lambda: [row["kind"] for row in project.rows(trial, 2)][-1:] == ["metrics"], "the second attempt")
    command.send_signal(signal.SIGHUP)
    os.close(ours)
    command.wait(timeout=60)
    assert [row["kind"] for row in project.rows(trial, 2)] == ["start", "resume", "metrics", "checkpoint", "end"]


# -- L3: at any time ----------------------------------------------------------------------------------------------


def strike_at_random(project, seed):
    """A signal at a random moment of the command's life, then the same command to the end."""
    rng = random.Random(seed)
    how = rng.choice(["kill", "hangup", "once", "twice"])
    moment = rng.uniform(0, 2.5)
    print(f"seed {seed}: {how} after {moment:.3f} s")
    project.write_spec(
        space={"start": [1.0, 2.0, 3.0]}, fixed={"steps": 8, "every": 2, "pause": 0.05}, launch={"parallel": 2}
    )
    command = project.start("sweep", "sweep.yaml")
    pause(moment)
    number = {"kill": signal.SIGKILL, "hangup": signal.SIGHUP}.get(how, signal.SIGINT)
    command.send_signal(number)
    if how == "twice":
        pause(rng.uniform(0, 0.2))
        command.send_signal(number)
    done = end_of(command)
    print(done)
    assert done.code in (0, 130, -number), done
    nothing_runs(project)
    project.run_sweep()
    remove_scratch_files(project.runs)
    check_oracle(project)
    assert summary(project) == undisturbed(project)


@pytest.mark.parametrize("seed", range(3))
def test_a_signal_at_a_random_time_loses_and_doubles_nothing(project, seed):
    strike_at_random(project, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 150))
def test_a_signal_at_any_of_fifty_random_times_loses_and_doubles_nothing(project, seed):
    strike_at_random(project, seed)


# -- the worker is asked ------------------------------------------------------------------------------------------


def stop_worker(project, fixed, grace, number=signal.SIGTERM):
    """Returns after how many seconds a trial ended that a worker was told to stop, and the worker's code."""
    project.write_spec(space={"start": [1.0]}, fixed=fixed, launch={"parallel": 1, "grace": grace})
    worker = start_worker(project, submit(project))
    wait_until(lambda: family(project)["child"], "the trial")
    (trial,) = project.trials()
    log = project.sweep.trial(trial).attempt(1).log
    wait_until(lambda: log.exists() and "starting" in log.read_text(), "the first line of the trial")
    began = time.monotonic()
    worker.send_signal(number)
    code = end_of(worker).code
    return time.monotonic() - began, code


@pytest.mark.parametrize(("ignores_sigterm", "expected"), [(False, 1.0), (True, 2.0)])
def test_a_deaf_trial_gets_sigterm_at_half_of_its_grace_and_sigkill_at_the_end(project, ignores_sigterm, expected):
    took, code = stop_worker(project, {**DEAF, "ignores_sigterm": ignores_sigterm}, "2s")
    assert code == 75
    assert expected - 0.1 < took < expected + 1.5
    (trial,) = project.trials()
    assert project.ends(trial) == ["interrupted stop_requested"]
    row = project.rows(trial, 1)[-1]
    assert (row["message"], row["exit"]) == ("did not stop in time", -9 if ignores_sigterm else -15)
    assert not processes_with(str(project.root))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_every_stop_signal_is_a_request(project, number):
    took, code = stop_worker(project, LONG, "20s", number)
    assert code == 75
    assert took < 5
    (trial,) = project.trials()
    assert project.ends(trial) == ["interrupted stop_requested"]
    run_worker(project, submit(project))
    check_oracle(project)
    assert_no_step_was_lost(project)


def slow_trial(project, grace="20s", seconds=1):
    """A trial that takes a while to save, and a worker at it."""
    (project.root / "counter.py").write_text(
        "import time\n"
        "def train(run, *, start, steps, every, pause):\n"
        "    state = run.resume()\n"
        "    if state:\n"
        "        return\n"
        "    run.log(loss=start)\n"
        "    while not run.should_stop():\n"
        "        time.sleep(0.01)\n"
        f"    time.sleep({seconds})\n"
        "    run.save({'step': 1})\n"
    )
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 1, "every": 1, "pause": 0.0}, launch={"grace": grace})
    worker = start_worker(project, submit(project))
    wait_for_step(project, 1)
    return worker


@pytest.mark.parametrize("first", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_and_then_a_request_leave_the_time_to_save(project, first):
    """Slurm sends SIGUSR1, and SIGTERM 10 to 20 ms later, if a preemption has no grace time."""
    worker = slow_trial(project)
    worker.send_signal(first)
    pause(0.1)
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert [row["kind"] for row in project.rows(project.trials()[0], 1)] == ["start", "metrics", "checkpoint", "end"]


def test_two_requests_do_not(project):
    worker = slow_trial(project)
    worker.send_signal(signal.SIGTERM)
    pause(0.1)
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert [row["kind"] for row in project.rows(project.trials()[0], 1)] == ["start", "metrics", "end"]


def test_a_request_reaches_a_trial_that_a_held_sweep_lets_go_on(project):
    worker = slow_trial(project)
    (beat,) = project.sweep.workers()
    beat.marker("hold").write_text("because")
    pause(1.2)
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert [row["kind"] for row in project.rows(project.trials()[0], 1)] == ["start", "metrics", "checkpoint", "end"]


# -- L5: before anybody can hear it -------------------------------------------------------------------------------


def strike_a_starting_worker(project, number, seconds):
    project.write_spec(fixed=LONG)
    submission = submit(project)
    project.sweep.path.joinpath("env").write_text("")
    executor = LocalExecutor(project.sweep, submission, Slots((None,)))
    os.environ.update(project.token())
    try:
        executor.start()
        (process,) = executor._running.values()
        pause(seconds)
        process.send_signal(number)
        wait_until(lambda: not executor.poll(), "the end of the worker", 10)
    finally:
        executor.close(0)
        for name in project.token():
            del os.environ[name]
    project.sweep.path.joinpath("env").unlink()
    assert executor.exit_codes == [75]  # it was neither killed nor has it worked on
    nothing_runs(project, 2)
    assert all(set(project.ends(trial)) <= {"interrupted stop_requested"} for trial in project.trials())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_the_very_start_is_remembered(project, number):
    strike_a_starting_worker(project, number, 0.0)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("milliseconds", [0, 1, 2, 5, 10, 20, 50, 100, 200, 500])
def test_a_signal_before_the_worker_is_ready_is_remembered(project, number, milliseconds):
    strike_a_starting_worker(project, number, milliseconds / 1000)


@pytest.mark.parametrize("how", ["sleep", "busy", "swallow"])
def test_a_worker_can_be_stopped_while_its_job_is_being_imported(project, how):
    (project.root / "counter.py").write_text(
        {
            "sleep": "import time\ntime.sleep(600)\n",
            "busy": "import math\nmath.factorial(10**8)\n",
            "swallow": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n",
        }[how]
    )
    worker = start_worker(project, submit(project))
    wait_until(lambda: family(project)["zygote"], "the import")
    worker.terminate()
    done = end_of(worker, 10)
    assert done.code == 75, done
    assert not processes_with(str(project.root))


def test_an_import_dies_with_its_supervisor_even_if_it_is_deaf(project):
    (project.root / "counter.py").write_text("import math\nmath.factorial(10**8)\n")
    worker = start_worker(project, submit(project))
    wait_until(lambda: family(project)["zygote"], "the import")
    pause(0.2)
    worker.kill()
    worker.communicate()
    nothing_runs(project, 3)


# -- L7 and L8: the deadline --------------------------------------------------------------------------------------


def work_in_rounds(project, submission, max_rounds=12):
    """As the command does it: a new worker, with the same time, for as long as one leaves something undone."""
    codes = []
    while 75 in codes[-1:] or not codes:
        assert len(codes) < max_rounds, codes
        codes.append(run_worker(project, submission, len(codes)).code)
    return codes


def test_a_trial_that_listens_loses_no_step_at_the_deadline(project):
    project.write_spec(
        space={"start": [1.0]}, fixed={"steps": 60, "every": 1000, "pause": 0.05}, launch={"parallel": 1}
    )
    codes = work_in_rounds(project, submit(project, time=2.0, margin=0.7))
    assert len(codes) >= 3
    assert codes == [75] * (len(codes) - 1) + [0]
    check_oracle(project)
    assert_no_step_was_lost(project)
    (trial,) = project.trials()
    assert project.ends(trial) == ["interrupted deadline"] * (len(codes) - 1) + ["completed"]
    for attempt in project.sweep.trial(trial).attempts()[:-1]:
        assert attempt.read()[0][-1]["seconds"] < 2.0


@pytest.mark.slow
def test_the_command_starts_new_rounds_until_all_is_done(project):
    project.write_spec(
        fixed={"steps": 50, "every": 1000, "pause": 0.05}, launch={"parallel": 2, "time": "2s", "margin": "0.7s"}
    )
    project.run_sweep()
    check_oracle(project)
    assert_no_step_was_lost(project)
    assert all(len(project.ends(trial)) >= 2 for trial in project.trials())


def test_a_trial_that_makes_no_progress_in_all_of_a_worker_s_time_is_given_up(project):
    project.write_spec(space={"start": [1.0]}, fixed={**DEAF}, launch={"parallel": 1})
    work_in_rounds(project, submit(project, time=1.0, margin=0.5))
    (trial,) = project.trials()
    assert project.ends(trial) == ["interrupted deadline"] * 3
    assert project.status()["trials"][0]["reason"] == "deadline, no progress in 3 attempts"


def test_a_time_too_short_for_anything_is_no_endless_loop(project):
    (project.root / "counter.py").write_text("import time\ntime.sleep(1)\ndef train(run, **_params): ...\n")
    project.write_spec(launch={"parallel": 2, "time": "0.4s"})
    done = project.run_sweep("--no-import-check", timeout=60)
    assert [project.ends(trial) for trial in project.trials()] == [[], []]
    assert done.code == 0


@pytest.mark.long
def test_l7_in_full_size(project):
    project.write_spec(
        space={"start": [1.0]}, fixed={"steps": 200, "every": 10**6, "pause": 0.5}, launch={"parallel": 1}
    )
    codes = work_in_rounds(project, submit(project, time=60.0, margin=20.0))
    assert codes == [75, 75, 0]
    check_oracle(project)
    assert_no_step_was_lost(project)


@pytest.mark.long
@pytest.mark.parametrize("ignores_sigterm", [False, True])
def test_a_deaf_trial_loses_at_most_one_checkpoint_interval_at_the_deadline(project, ignores_sigterm):
    """Two steps are busy for a minute: SIGTERM in the middle of the margin of 2 s, SIGKILL towards its end."""
    (project.root / "counter.py").write_text(
        "import math, signal, time\n"
        "def train(run, *, start, steps, every, pause, deaf):\n"
        "    if deaf:\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    state = run.resume()\n"
        "    for step in range(state['step'] + 1 if state else 1, steps + 1):\n"
        "        is_busy = step in (5, 9) and not (state and state['step'] == step - 1)\n"
        "        end = time.monotonic() + (60 if is_busy else pause)\n"
        "        while time.monotonic() < end:\n"
        "            math.factorial(2000)\n"
        "        run.log(loss=start / step)\n"
        "        run.save({'step': step})\n"
    )
    fixed = {"steps": 12, "every": 1, "pause": 0.2, "deaf": ignores_sigterm}
    project.write_spec(space={"start": [1.0]}, fixed=fixed, launch={"parallel": 1})
    work_in_rounds(project, submit(project, time=6.0, margin=2.0))
    check_oracle(project)
    (trial,) = project.trials()
    for attempt in project.sweep.trial(trial).attempts()[:-1]:
        end = attempt.read()[0][-1]
        assert end["message"] == "did not stop in time"
        expected = 5.8 if ignores_sigterm else 5.0
        assert expected - 1.0 < end["seconds"] < expected + 0.5
        assert end["exit"] == (-9 if ignores_sigterm else -15)
    resumed = [
        next(r["step"] for r in a.read()[0] if r["kind"] == "resume") for a in project.sweep.trial(trial).attempts()[1:]
    ]
    assert resumed == [4, 8]


def test_processes_of_another_project_are_left_alone(project, tmp_path):
    from tests.support import make_project

    other = make_project(tmp_path / "other")
    other.write_spec(space={"start": [1.0]}, fixed=LONG)
    project.write_spec(space={"start": [1.0]}, fixed=LONG)
    workers = [start_worker(p, submit(p)) for p in (project, other)]
    for p in (project, other):
        wait_for_step(p, 2)
    workers[0].terminate()
    end_of(workers[0])
    assert is_running(workers[1].pid)
    end_of(workers[1])
    check_oracle(other)
