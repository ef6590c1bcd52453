"""Processes of a local sweep die: the trial, its zygote, its supervisor, the command, or all at once (L1, L2, L4)."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.support import (
    check_oracle,
    end_of,
    family,
    is_running,
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


def kill_all(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_row(project, trial, attempt=1):
    return next(row for row in project.rows(trial, attempt) if row["kind"] == "end")


# -- L1: the trial itself -----------------------------------------------------------------------------------------

ENDS = {
    "": ["completed"],
    "sigkill": ["failed killed(9)"] * 4,  # it had saved something, once; then three times nothing new
    "segfault": ["failed crashed(11)"],
    "os_exit0": ["failed no_result"],
    "exit3": ["failed exit(3)"],
    "raise": ["failed exception"],
    "unprintable": ["failed exception"],
}


def test_every_death_of_a_trial_has_its_name_and_hurts_no_other(project):
    project.write_spec(space={"start": [1.0], "fault": list(ENDS)}, fixed={"steps": 6, "every": 2, "at": 3})
    project.run_sweep()
    failures = [end for ends in ENDS.values() for end in ends if end != "completed"]
    check_oracle(project, failures)
    for trial in project.trials():
        assert project.ends(trial) == ENDS[trial.params["fault"]], trial.params
        rows = project.rows(trial, 1)
        assert rows[-1]["time"] - rows[-2]["time"] < 2, "the end was recorded late"
    by_fault = {trial.params["fault"]: trial for trial in project.trials()}
    assert end_row(project, by_fault["raise"])["message"] == "ValueError: went wrong"
    assert "Unprintable: <its text cannot be had" in end_row(project, by_fault["unprintable"])["message"]
    log = {fault: project.run("logs", "count", trial.id).out for fault, trial in by_fault.items()}
    assert 'raise ValueError("went wrong")' in log["raise"]
    assert "Segmentation fault" in log["segfault"]
    states = {row["params"]["fault"]: (row["state"], row["reason"]) for row in project.status()["trials"]}
    assert states["os_exit0"] == ("failed", "no_result")
    assert states["sigkill"] == ("failed", "killed(9), no progress in 3 attempts")


# -- P19: killed again and again ----------------------------------------------------------------------------------


def test_a_trial_that_is_killed_each_time_is_given_up_after_three_attempts(project):
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 6, "every": 0, "fault": "sigkill", "at": 3})
    run_worker(project, submit(project))
    (trial,) = project.trials()
    assert project.ends(trial) == ["failed killed(9)"] * 3
    assert project.status()["trials"][0]["reason"] == "killed(9), no progress in 3 attempts"
    assert "nothing is missing" in project.run_sweep().out


def test_a_trial_that_gets_further_each_time_goes_on(project):
    fixed = {"steps": 12, "every": 1, "fault": "sigkill", "at": 3, "relative": True}
    project.write_spec(space={"start": [1.0]}, fixed=fixed)
    run_worker(project, submit(project))
    (trial,) = project.trials()
    assert project.ends(trial) == [*["failed killed(9)"] * 5, "completed"]
    check_oracle(project)


# -- one of the processes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["child", "zygote"])
def test_a_worker_repairs_the_death_of_its_zygote_or_child(project, kind):
    project.write_spec(fixed=LONG)
    submission = submit(project)
    workers = [start_worker(project, submission, n) for n in range(2)]
    wait_for_step(project, 5, n_trials=2)
    kill_all(family(project)[kind])
    assert [end_of(worker).code for worker in workers] == [0, 0]
    check_oracle(project)
    assert summary(project) == undisturbed(project)
    assert [project.ends(trial) for trial in project.trials()] == [["failed killed(9)", "completed"]] * 2


def test_the_command_replaces_supervisors_that_die(project):
    project.write_spec(fixed=LONG)
    command = project.start("sweep", "sweep.yaml")
    wait_for_step(project, 5, n_trials=2)
    kill_all(family(project)["supervisor"])
    done = end_of(command)
    assert done.code == 0, done
    remove_scratch_files(project.sweep.path)
    check_oracle(project)
    assert summary(project) == undisturbed(project)
    assert [project.ends(trial) for trial in project.trials()] == [["", "completed"]] * 2


def test_a_zygote_that_dies_between_two_trials_is_replaced(project):
    """The supervisor looks away while the first trial ends and the zygote dies: its next request meets a dead socket."""
    project.write_spec(space={"start": [1.0, 2.0]}, fixed={"steps": 5, "every": 0, "pause": 0.05})
    worker = start_worker(project, submit(project))
    wait_for_step(project, 2)
    worker.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not family(project)["child"], "the end of the trial")
        kill_all(family(project)["zygote"])
    finally:
        worker.send_signal(signal.SIGCONT)
    done = end_of(worker)
    assert done.code == 0, done
    check_oracle(project)
    assert [project.ends(trial) for trial in project.trials()] == [["completed"], ["failed killed(9)", "completed"]]


def test_a_supervisor_s_death_takes_the_trial_with_it_and_is_known_at_once(project):
    project.write_spec(space={"start": [1.0]}, fixed=LONG)
    worker = start_worker(project, submit(project))
    wait_for_step(project, 5)
    worker.kill()
    worker.communicate()
    wait_until(lambda: not processes_with(str(project.root)), "the end of zygote and child", 2)
    (row,) = project.status()["trials"]
    assert (row["state"], row["reason"]) == ("interrupted", "vanished")
    assert run_worker(project, submit(project)).code == 0
    remove_scratch_files(project.sweep.path)
    check_oracle(project)
    assert project.ends(project.trials()[0]) == ["", "completed"]


def test_the_death_of_the_command_stops_the_trials_which_save(project):
    project.write_spec(fixed=LONG)
    command = project.start("sweep", "sweep.yaml")
    wait_for_step(project, 5, n_trials=2)
    command.kill()
    command.communicate()
    wait_until(lambda: not processes_with(str(project.root)), "the end of the workers", 10)
    for trial in project.trials():
        assert project.ends(trial) == ["interrupted stop_requested"]
    run_worker(project, submit(project))
    remove_scratch_files(project.sweep.path)
    check_oracle(project)
    assert_no_step_was_lost(project)


def assert_no_step_was_lost(project):
    for trial in project.trials():
        logged = [row["step"] for row in project.rows(trial, 1) if row["kind"] == "metrics"]
        resumed = [row["step"] for row in project.rows(trial, 2) if row["kind"] == "resume"]
        assert resumed == logged[-1:]


def test_everything_is_killed_at_once_and_the_same_command_goes_on(project):
    project.write_spec(fixed=LONG)
    command = project.start("sweep", "sweep.yaml")
    wait_for_step(project, 5, n_trials=2)
    kill_all([pid for kind in ("command", "supervisor", "zygote", "child", "other") for pid in family(project)[kind]])
    command.communicate()
    wait_until(lambda: not processes_with(str(project.root)), "the end of all", 5)
    assert {row["state"] for row in project.status()["trials"]} == {"interrupted"}
    project.run_sweep()
    remove_scratch_files(project.sweep.path)
    check_oracle(project)
    assert summary(project) == undisturbed(project)
    for trial in project.trials():
        (resumed,) = [row["step"] for row in project.rows(trial, 2) if row["kind"] == "resume"]
        last = project.rows(trial, 1)[-1]["step"]
        assert last - 2 <= resumed <= last  # at most one checkpoint interval


# -- L4: processes that a trial has started -----------------------------------------------------------------------


def helpers_of(project):
    (trial,) = project.trials()
    file = project.sweep.trial(trial).path / "children.txt"
    wait_until(lambda: file.exists() and file.read_text().count(" ") == 4, "the children of the trial")
    return [int(text) for text in file.read_text().split()]


@pytest.mark.parametrize("how", ["end", "stop", "deaf", "sigkill", "segfault"])
def test_nothing_that_a_trial_has_started_outlives_it(project, how):
    """Four forked children, one that has left the process group, and a child of that one."""
    fixed = {"steps": 6, "every": 2, "children": 4, "pause": 0.1, "at": 3}
    if how == "deaf":
        fixed.update(pause=60.0, deaf=True)
    if how in ("sigkill", "segfault"):
        fixed.update(fault=how)
    project.write_spec(space={"start": [1.0]}, fixed=fixed, launch={"parallel": 1, "grace": "1s", "max_attempts": 1})
    worker = start_worker(project, submit(project))
    pids = helpers_of(project)
    if how in ("stop", "deaf"):
        worker.terminate()
    end_of(worker)
    assert not [pid for pid in pids if is_running(pid)]
    assert not processes_with(str(project.root))
    log = project.sweep.trial(project.trials()[0]).attempt(1).log.read_text()
    assert "terminated: -15" in log  # Process.terminate() works: no handler of ours is in the way
    expected = {"stop": "interrupted stop_requested", "deaf": "interrupted stop_requested"}
    assert project.ends(project.trials()[0])[0].startswith(expected.get(how, ""))


def test_what_is_in_the_trial_s_group_dies_with_the_supervisor_too(project):
    project.write_spec(space={"start": [1.0]}, fixed={**LONG, "children": 4})
    worker = start_worker(project, submit(project))
    *loaders, stray = helpers_of(project)
    wait_for_step(project, 1)
    worker.kill()
    worker.communicate()
    try:
        wait_until(lambda: not any(map(is_running, loaders)), "the end of the forked children", 5)
    finally:
        kill_all(
            [stray, *processes_with(str(project.root))]
        )  # whoever leaves the group can only be found while we live


def test_loaders_killed_by_the_stop_do_not_make_the_trial_a_failure(project):
    """A trial that is deaf to the request sees its helpers die of the SIGTERM, and raises."""
    (project.root / "counter.py").write_text(
        "import os, signal, time\n"
        "def train(run, *, start, steps, every, pause):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "        run = None\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    run.log(loss=1.0)\n"
        "    code = os.waitpid(pid, 0)[1]\n"
        "    raise RuntimeError(f'DataLoader worker died: {code}')\n"
    )
    project.write_spec(space={"start": [1.0]}, launch={"parallel": 1, "grace": "1s"})
    worker = start_worker(project, submit(project))
    wait_for_step(project, 1)
    worker.terminate()
    end_of(worker)
    (trial,) = project.trials()
    assert project.ends(trial) == ["interrupted stop_requested"]
    assert "DataLoader worker died: 15" in project.sweep.trial(trial).attempt(1).log.read_text()
