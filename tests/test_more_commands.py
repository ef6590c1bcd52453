"""Whole sweeps of other kinds: a stranger's program, TensorBoard, cancelling, a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from tests.support import REPOSITORY, check_oracle, wait_until

SLOW = {"fixed": {"steps": 400, "every": 1, "pause": 0.05}}

STRANGER = """
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--seed", type=int)
args = parser.parse_args()
for epoch in range(1, 4):
    print(f"epoch={epoch} loss={args.lr / epoch:.4f}, note=none")
print("env", os.environ["DLCLUSTER_PARAM_LR"], os.environ["DLCLUSTER_SEED"])
"""


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_a_strangers_program_is_swept_unchanged(project):
    (project.root / "stranger.py").write_text(STRANGER)
    project.write_spec(
        job=None,
        command="python stranger.py --lr {lr} --seed {seed}",
        space={"lr": {"loguniform": [1e-3, 1]}},
        sampler={"kind": "random", "trials": 3},
        seeds=2,
        fixed=None,
    )
    done = project.run_sweep()
    assert "6 trials (6 completed)" in " ".join(done.out.split())
    for trial in project.trials():
        lr = trial.params["lr"]
        assert project.history(trial) == [(step, float(f"{lr / step:.4f}")) for step in (1, 2, 3)]
        assert f"env {lr} {trial.seed}" in project.run("logs", "count", trial.id).out


def test_the_examples_of_the_repository_run(tmp_path):
    for folder in ("jobs", "sweeps"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    (tmp_path / "setup.cfg").write_text("")
    command = [sys.executable, "-m", "dlcluster", "sweep", "sweeps/command.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 configs, 2 seeds, 16 trials (16 completed)" in " ".join(done.stdout.split())
    digits = [*command[:4], "sweeps/lr.yaml", "--set", "sampler.trials=2", "--set", "fixed.epochs=2"]
    done = subprocess.run(digits, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "2 configs, 3 seeds, 6 trials (6 completed)" in text
    assert "crossed seed-by-item interval over 3 seeds and the same 360 validation items" in text


def test_event_files_are_written_while_training_and_afterwards(project):
    project.write_spec(tensorboard=True)
    project.run_sweep()
    trial = project.trials()[0]
    live = events_of(project.sweep.trial(trial).tensorboard / "attempt-0001")
    assert [(e.step, round(e.value, 6)) for e in live.Scalars("loss")] == [
        (step, round(1 / step, 6)) for step in range(1, 7)
    ]
    assert "_hparams_/session_start_info" in live.summary_metadata
    assert "_hparams_/experiment" in live.summary_metadata
    said = project.run("tensorboard", "count", "--out", "events")
    assert "tensorboard --logdir" in said.out
    later = events_of(project.root / "events" / trial.id)
    assert [e.step for e in later.Scalars("loss")] == list(range(1, 7))


def test_cancel_ends_what_runs_and_resume_failed_goes_on(project):
    project.write_spec(**SLOW)
    sweep = project.start("sweep", "sweep.yaml")
    wait_until(lambda: project.sweep.has_plan() and all(project.rows(t, 1)[3:] for t in project.trials()), "rows")
    assert "2 worker(s) told to stop" in project.run("cancel", "count").out
    sweep.communicate(timeout=30)
    assert [project.ends(trial) for trial in project.trials()] == [["cancelled by_user"]] * 2
    assert "nothing is missing (2 cancelled)" in project.run_sweep().out
    project.write_spec(fixed={"steps": 400, "every": 1, "pause": 0.05})
    assert "nothing is running" in project.run("cancel", "count").out


def test_one_trial_can_be_cancelled(project):
    project.write_spec(fixed={"steps": 60, "every": 1, "pause": 0.05})
    sweep = project.start("sweep", "sweep.yaml")
    wait_until(lambda: project.sweep.has_plan() and all(project.rows(t, 1)[3:] for t in project.trials()), "rows")
    first, second = project.trials()
    project.run("cancel", "count", "--trial", first.id)
    sweep.communicate(timeout=60)
    assert project.ends(first) == ["cancelled by_user"]
    assert project.ends(second) == ["completed"]
    project.run("resume", "count", "--failed")
    check_oracle(project)


def test_a_terminal_shows_a_live_picture(project):
    project.write_spec(fixed={"steps": 30, "every": 10, "pause": 0.05})
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "dlcluster", "sweep", "sweep.yaml"],
        cwd=project.root,
        env={**project.environment(), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = read_all(master, timeout=60)
    assert process.wait(10) == 0
    os.close(master)
    text = shown.decode(errors="replace")
    assert "2 running" in text
    assert "loss=" in text
    assert "2/2 done" in text


def test_under_nohup_a_closed_terminal_stops_nothing(project):
    import signal

    project.write_spec(fixed={"steps": 30, "every": 10, "pause": 0.05})
    sweep = project.start("sweep", "sweep.yaml", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: project.sweep.has_plan() and all(project.rows(t, 1)[3:] for t in project.trials()), "rows")
    sweep.send_signal(signal.SIGHUP)
    sweep.communicate(timeout=60)
    assert sweep.returncode == 0
    check_oracle(project)


def read_all(fd, timeout):
    data, end = b"", time.monotonic() + timeout
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.5)[0]:
            try:
                chunk = os.read(fd, 65536)
            except OSError:  # the other side is closed
                return data
            if not chunk:
                return data
            data += chunk
    raise AssertionError(f"the terminal was not closed within {timeout} s; it showed {data[-500:]!r}")


def test_seeds_and_paths_reach_the_program_byte_for_byte(project):
    nasty = ["a b", "$(touch x)", "q'\"`", "line\nbreak", "ünïcode ☃", "{brace}", "--flag"]
    (project.root / "echo.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\nprint('loss=1')\n")
    project.write_spec(
        job=None, command=["python", "echo.py", "{text}"], space={"text": {"choice": nasty}}, fixed=None, seeds=None
    )
    project.run_sweep()
    for trial in project.trials():
        said = project.run("logs", "count", trial.id).out.splitlines()[0]
        assert json.loads(said) == [trial.params["text"]]
    assert not (project.root / "x").exists()


@pytest.mark.parametrize("policy", ["fail", "stop", "record"])
def test_diverged_trials_end_as_the_policy_says(project, policy):
    project.write_spec(job="counter:swallow", on_nonfinite=policy)
    done = project.run_sweep()
    expected = {"fail": "failed diverged", "stop": "stopped diverged", "record": "completed"}[policy]
    assert [project.ends(trial) for trial in project.trials()] == [[expected]] * 2
    assert "nan" not in done.out.lower().replace("finance", "")


def test_a_moved_run_directory_goes_on_where_it_is_now(project):
    project.write_spec(fixed={"steps": 6, "every": 2, "fault": "raise", "at": 5})
    project.run_sweep()
    shutil.move(project.sweep.path, project.runs / "moved")
    project.run("resume", "moved", "--failed")
    status = json.loads(project.run("status", "moved", "--json").out)
    assert [trial["attempts"] for trial in status["trials"]] == [2, 2]
    assert status["counts"] == {"failed": 2}
    assert not project.sweep.path.exists()


def test_every_submission_keeps_its_own_provenance(project):
    project.run_sweep()
    first = project.sweep.provenance_file.read_bytes()
    project.run_sweep("--set", "seeds=2")
    assert project.sweep.provenance_file.read_bytes() == first
    commands = [json.loads(s.provenance_file.read_text())["command"] for s in project.sweep.submissions()]
    assert len(commands) == 2
    assert "seeds=2" in str(commands[1])


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_nothing_is_written_for_a_project_that_cannot_be_copied(project, arguments):
    (project.root / "out").symlink_to("/etc")
    refused = project.run_sweep(*arguments, code=2)
    assert "out" in refused.err
    assert not project.runs.exists()


def test_a_dry_run_says_what_the_constraints_cost(project):
    project.write_spec(
        space={"start": {"uniform": [0, 1]}}, sampler={"kind": "random", "trials": 5}, where=["start < 0.5"]
    )
    assert "where: refused 4 of 9 draws (55.6% accepted)" in project.run_sweep("--dry-run").err


def test_damage_is_said_and_what_is_readable_is_shown(project):
    project.run_sweep()
    journal = project.sweep.trial(project.trials()[0]).attempt(1).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b"{torn\n", *lines[1:]]))
    for arguments in (("table", "count"), ("export", "count", "trials", "--out", "t.csv")):
        assert "1 " in project.run(*arguments, code=6).err
    assert (project.root / "t.csv").read_text().count("\n") == 3


def test_a_runs_directory_where_everybody_may_write_is_refused(project):
    project.runs.mkdir()
    project.runs.chmod(0o777)
    assert "everybody may write" in project.run_sweep(code=3).err
    project.runs.chmod(0o1777)
    project.run_sweep()


def test_live_code_is_named_as_such(project):
    project.write_spec(code="live")
    project.run_sweep()
    assert ",live," in project.run("export", "count", "trials", "--out", "-").out
