"""F16, F17 and P10: folders that vanish, code that changes, commands that are given twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from dlcluster.errors import WorkerExit
from dlcluster.files import tree_sha256
from tests.faults.disks import needs_root, small_disk
from tests.faults.workers import finish, run_worker, start_worker, submit_only
from tests.support import check_oracle, expected_history, make_project, processes_with, wait_until

LONG = {"space": {"start": [1.0]}, "fixed": {"steps": 2000, "every": 3, "pause": 0.02}, "launch": {"parallel": 1}}


def running_worker(project, **spec):
    """A worker in the middle of its only trial, started by hand. Returns it and the trial."""
    project.write_spec(**{**LONG, **spec})
    worker = start_worker(project, submit_only(project))
    (trial,) = project.trials()
    wait_until(lambda: len(project.history(trial)) > 5, "some metrics")
    return worker, trial


# -- F16: gone ------------------------------------------------------------------------------------------------------


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)  # what was written between the listing and the end


def move(path):
    path.rename(path.with_name(path.name + ".moved"))


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("trial", move),
        pytest.param("trial", remove, marks=pytest.mark.long),
        ("run", move),
        pytest.param("run", remove, marks=pytest.mark.long),
        pytest.param("attempt", remove, marks=pytest.mark.long),
        pytest.param("shard", move, marks=pytest.mark.long),
    ],
)
def test_a_worker_whose_folder_is_gone_stops_and_makes_no_new_one(project, what, how):
    worker, trial = running_worker(project)
    folder = project.sweep.trial(trial)
    target = {
        "trial": folder.path,
        "run": project.sweep.path,
        "attempt": folder.attempt(1).path,
        "shard": folder.path.parent,
    }[what]
    how(target)
    done = finish(worker, timeout=30)
    assert done.code == WorkerExit.IO_LOST, done.err
    assert re.search("is gone|No such file or directory", done.err)
    assert str(project.sweep.path) in done.err
    assert "Traceback" not in done.err
    assert not target.exists()
    wait_until(lambda: not processes_with(str(project.root)), "the end of all its processes", 10)


def test_a_sweep_whose_run_directory_is_moved_says_so_and_goes_on_when_it_is_back(project):
    project.write_spec(**{**LONG, "fixed": {"steps": 100, "every": 3, "pause": 0.02}})
    command = project.start("sweep", "sweep.yaml")
    (trial,) = wait_until(lambda: project.sweep.plan_file.exists() and project.trials(), "the plan")
    wait_until(lambda: len(project.history(trial)) > 5, "some metrics")
    elsewhere = project.root / "elsewhere"
    project.sweep.path.rename(elsewhere)
    out, err = command.communicate(timeout=60)
    assert "Traceback" not in err, err
    assert command.returncode not in (0, 70), (out, err)
    assert str(project.sweep.path) in err
    assert not project.sweep.path.exists()
    wait_until(lambda: not processes_with(str(project.root)), "the end of all its processes", 10)
    elsewhere.rename(project.sweep.path)
    for scratch in project.sweep.path.rglob("*.tmp"):
        scratch.unlink()  # its writer was killed in the middle, and could not find it any more
    project.run_sweep()
    check_oracle(project)


@needs_root
@pytest.mark.long
def test_a_worker_whose_disk_is_unmounted_stops(tmp_path):
    project = make_project(tmp_path / "project")
    with small_disk(project.runs, "100m"):
        worker, _trial = running_worker(project)
        subprocess.run(["umount", "-l", project.runs], check=True)
        done = finish(worker, timeout=30)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", project.runs], check=True)  # for the teardown
    assert done.code == WorkerExit.IO_LOST, done.err
    assert re.search("is gone|No such file or directory", done.err)
    assert not any(project.runs.iterdir())


def test_a_worker_that_starts_after_its_run_directory_has_gone_makes_nothing(project):
    submission = submit_only(project)
    remove(project.sweep.path)
    done = run_worker(project, submission)
    assert done.code in (WorkerExit.IO_LOST, WorkerExit.BAD_ENVIRONMENT)
    assert str(project.sweep.path) in done.err
    assert "Traceback" not in done.err
    assert not project.sweep.path.exists()


# -- F17: the code changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_edits_deletion_and_other_branches_do_not_reach_what_was_submitted(project, when):
    """The second trial starts after the edit: it runs the code of the submission all the same."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(project.root)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["switch", "-qc", "other"]):
        subprocess.run([*git, *command], check=True)
    text = (project.root / "counter.py").read_text()
    (project.root / "counter.py").write_text(text.replace("loss=start / step", "loss=0.0 * start"))
    subprocess.run([*git, "commit", "-qam", "two"], check=True)
    subprocess.run([*git, "switch", "-q", "-"], check=True)
    project.write_spec(fixed={"steps": 6, "every": 2, "pause": 0.05}, launch={"parallel": 1})
    submission = submit_only(project)
    worker = start_worker(project, submission) if when == "running" else None
    if worker:
        wait_until(lambda: project.history(project.trials()[0]), "the first metrics")
    subprocess.run([*git, "switch", "-q", "other"], check=True)
    (project.root / "counter.py").unlink()
    shutil.rmtree(project.root / ".git")
    done = finish(worker or start_worker(project, submission))
    assert done.code == 0, done.err
    check_oracle(project)
    for trial in project.trials():
        start = project.rows(trial, 1)[0]
        assert re.fullmatch("[0-9a-f]{16}", start["snapshot"])
        assert (project.sweep.code_dir / start["snapshot"] / "counter.py").is_file()


def tampered(code, how):
    file = code / "counter.py"
    for path in (code, file):
        path.chmod(0o700)
    if how == "changed":
        file.write_text(file.read_text() + "\n")
    elif how == "added":
        (code / "sitecustomize.py").write_text("")
    elif how == "pyc":
        import py_compile

        py_compile.compile(str(file), cfile=str(code / "__pycache__" / "counter.cpython-311.pyc"))
    elif how == "removed":
        (code / "setup.cfg").unlink()
    elif how == "executable":
        file.chmod(0o700)
    elif how == "linked":
        file.rename(code.parent / "evil.py")
        file.symlink_to(code.parent / "evil.py")
    elif how == "deleted":
        shutil.rmtree(code)


@pytest.mark.parametrize("how", ["changed", "added", "pyc", "removed", "executable", "linked", "deleted"])
def test_a_snapshot_that_was_tampered_with_is_refused_and_the_sweep_held(project, how):
    submission = submit_only(project)
    (code,) = project.sweep.code_dir.iterdir()
    tampered(code, how)
    done = run_worker(project, submission)
    assert done.code == WorkerExit.BAD_ENVIRONMENT, done.err
    assert "snapshot of the code" in done.err
    assert str(code) in done.err
    counts = project.status()["counts"]
    assert counts == {"held": 2}
    assert "snapshot" in project.run("status", "count").out
    project.run_sweep()
    check_oracle(project)


def test_a_run_leaves_its_snapshot_as_it_was(project):
    """Not even bytecode is written into it, also where we could: what is checked by its hash must stay the same."""
    submit_only(project)
    (code,) = project.sweep.code_dir.iterdir()
    for path in (code, *code.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    before = tree_sha256(code)
    (code / "package").exists()
    project.run_sweep()
    assert tree_sha256(code) == before
    check_oracle(project)


def test_live_code_is_asked_for_and_recorded(project):
    said = project.run_sweep("--set", "code=live")
    assert "code: live" in said.err
    for trial in project.trials():
        assert project.rows(trial, 1)[0]["snapshot"] is None
    assert not project.sweep.code_dir.exists()
    check_oracle(project)


# -- P10: twice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rounds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_the_same_command_twice_at_the_same_time_runs_every_trial_once(project, n_rounds):
    for n in range(n_rounds):
        project.write_spec(name="count", space={"start": [n + 1 + i / 8 for i in range(4)]})
        shutil.rmtree(project.sweep.path, ignore_errors=True)
        commands = [project.start("sweep", "sweep.yaml") for _ in range(2)]
        done = [(*command.communicate(timeout=90), command.returncode) for command in commands]
        assert [code for _, _, code in done] == [0, 0], done
        assert all("Traceback" not in err for _, err, _ in done), done
        for trial in project.trials():
            assert project.ends(trial) == ["completed"]
        check_oracle(project)


@pytest.mark.parametrize("n_rounds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_two_different_top_ups_at_once_lose_nothing_after_a_repeat(project, n_rounds):
    project.write_spec(space={"start": {"uniform": [1, 2]}}, sampler={"kind": "random", "trials": 2}, seeds=1)
    project.run_sweep()
    for n in range(1, n_rounds + 1):
        more_trials = ("--set", f"sampler.trials={2 + n}", "--set", f"seeds={n}")
        more_seeds = ("--set", f"sampler.trials={1 + n}", "--set", f"seeds={n + 1}")
        commands = [project.start("sweep", "sweep.yaml", *more) for more in (more_trials, more_seeds)]
        done = [(*command.communicate(timeout=90), command.returncode) for command in commands]
        for _out, err, code in done:
            assert code in (0, 4), done
            assert "Traceback" not in err, done
        for more in (more_trials, more_seeds):
            project.run_sweep(*more)
        by_config = {}
        for trial in project.trials():
            assert project.ends(trial) == ["completed"], trial
            by_config.setdefault(trial.index, set()).add(trial.seed)
        assert by_config[1 + n] >= set(range(n))
        assert all(by_config[k] >= set(range(n + 1)) for k in range(n + 1))
        check_oracle(project)


def test_a_command_that_is_killed_and_repeated_leaves_every_trial_done_once(project):
    project.write_spec(space={"start": [1.0, 2.0, 3.0, 4.0]}, fixed={"steps": 30, "every": 5, "pause": 0.01})
    for _ in range(2):
        command = project.start("sweep", "sweep.yaml")
        wait_until(lambda: project.sweep.plan_file.exists() and any(map(project.history, project.trials())), "metrics")
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
        wait_until(lambda: not processes_with(str(project.root)), "the end of its workers", 20)
    project.run_sweep()
    check_oracle(project)
    for trial in project.trials():
        assert project.ends(trial).count("completed") == 1
        assert project.history(trial) == expected_history(trial.params["start"], 30)
    assert json.loads(project.run("status", "count", "--json").out)["counts"] == {"completed": 4}
    assert Path(project.sweep.path).is_dir()
