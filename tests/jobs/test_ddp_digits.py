"""The job of several processes: what they learn together is what one would learn, also when it is interrupted."""

import shutil
import signal

import pytest

from tests.support import REPOSITORY, end_of, make_project, run_worker, start_worker, submit, wait_until

FIXED = {"epochs": 40, "batch_size": 32, "lr": 0.1, "save_every": 5}


@pytest.fixture
def digits_project(tmp_path):
    project = make_project(tmp_path / "project")
    (project.root / "jobs").mkdir()
    for name in ("digits.py", "ddp_digits.py"):
        shutil.copy(REPOSITORY / "jobs" / name, project.root / "jobs" / name)
    return project


def submit_ddp(project, n, **fixed):
    project.write_spec(
        job="jobs.ddp_digits",
        objective={"metric": "val_loss", "goal": "minimize"},
        space={"hidden": [16]},
        fixed={**FIXED, **fixed},
        launch={"parallel": 1, "processes_per_node": n},
    )
    return submit(project)


def losses(project):
    (trial,) = project.trials()
    attempts = project.sweep.trial(trial).attempts()
    rows = {row["step"]: row["metrics"] for a in attempts for row in a.read()[0] if row["kind"] == "metrics"}
    return [rows[step]["train_loss"] for step in sorted(rows)], [rows[step]["val_loss"] for step in sorted(rows)]


def trained(project, n):
    shutil.rmtree(project.runs, ignore_errors=True)
    assert run_worker(project, submit_ddp(project, n)).code == 0
    return losses(project)


def test_two_processes_learn_what_one_learns_also_when_they_are_interrupted(digits_project):
    together, alone = trained(digits_project, 2), trained(digits_project, 1)
    assert len(together[0]) == FIXED["epochs"]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert together[1][-1] < together[1][0] / 2

    shutil.rmtree(digits_project.runs)
    submission = submit_ddp(digits_project, 2)
    worker = start_worker(digits_project, submission)
    (trial,) = digits_project.trials()
    folder = digits_project.sweep.trial(trial)
    wait_until(lambda: folder.attempt(1).path.exists() and len(folder.attempt(1).read()[0]) > 4, "some epochs", 60)
    worker.send_signal(signal.SIGTERM)
    assert end_of(worker).code == 75
    assert run_worker(digits_project, submission, 1).code == 0
    assert digits_project.ends(trial) == ["interrupted stop_requested", "completed"]
    assert losses(digits_project) == together  # to the last bit
