"""F3: no byte is left, before a sweep starts or in the middle of it. Old checkpoints stay, the end is still recorded."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

from dlcluster.errors import WorkerExit
from dlcluster.worker import checkpoints
from tests.faults.disks import fill, needs_root, small_disk
from tests.faults.workers import run_worker, start_worker, submit_only
from tests.support import check_oracle, expected_history, make_project, wait_until

pytestmark = needs_root
BIG_CHECKPOINTS = """
import dlcluster

def train(run, *, start=1.0, steps=6, every=2, pause=0.0, blob=0):
    import time
    state = run.resume()
    step = state["step"] if state else 0
    while step < steps:
        step += 1
        time.sleep(pause)
        run.log(loss=start / step)
        if step % every == 0:
            run.save({"step": step, "blob": "x" * blob}, epoch=step)
"""


@pytest.fixture
def project(tmp_path):
    """Its runs directory is a disk of its own, just large enough to be accepted."""
    made = make_project(tmp_path / "project")
    (made.root / "counter.py").write_text(BIG_CHECKPOINTS)
    with small_disk(made.runs, "72m"):
        yield made


def checkpoint_hashes(project, trial):
    folder = project.sweep.trial(trial).checkpoints
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("step-*")}


def test_a_full_disk_is_refused_with_numbers_and_nothing_is_written(tmp_path):
    project = make_project(tmp_path / "project")
    with small_disk(project.runs, "1m"):
        refused = project.run_sweep(code=3)
        assert list(project.runs.iterdir()) == []
    assert "1 MiB free, at least 64 MiB are needed" in refused.err
    assert str(project.runs) in refused.err


def test_a_disk_without_inodes_is_refused_with_numbers_and_nothing_is_written(tmp_path):
    project = make_project(tmp_path / "project")
    with small_disk(project.runs, "100m", "nr_inodes=100"):
        refused = project.run_sweep(code=3)
        assert list(project.runs.iterdir()) == []
    assert "99 inodes free, at least 1000 are needed" in refused.err


def test_a_disk_that_fills_up_during_the_run_costs_nothing_but_time(project):
    """The checkpoint that does not fit is named, the one before stays; with space again the same command finishes."""
    project.write_spec(
        space={"start": [1.0]}, fixed={"steps": 200, "every": 2, "pause": 0.02, "blob": 60_000}, launch={"parallel": 1}
    )
    command = project.start("sweep", "sweep.yaml")
    (trial,) = wait_until(lambda: project.sweep.plan_file.exists() and project.trials(), "the plan")
    folder = project.sweep.trial(trial)
    wait_until(lambda: len(checkpoints.manifests(folder)) == 2, "two checkpoints")
    ballast = fill(project.runs)
    out, err = command.communicate(timeout=60)
    assert "Traceback" not in err or "print_table" in err, err
    assert str(project.sweep.path) in err, (out, err)
    assert re.search("No space left on device|disk is full", err), (out, err)
    assert project.ends(trial)[-1] == "failed disk", project.ends(trial)
    saved = checkpoint_hashes(project, trial)
    found, _name = checkpoints.load_newest(folder, pytest.fail)
    assert found.step >= 4
    assert project.status()["counts"] == {"interrupted": 1}
    ballast.unlink()
    project.run_sweep()
    rows = project.rows(trial, len(project.ends(trial)))
    assert [row["step"] for row in rows if row["kind"] == "resume"] == [found.step]
    assert saved
    check_oracle(project)


def test_metrics_that_do_not_fit_leave_whole_lines_and_the_end_still_fits(project):
    project.write_spec(
        space={"start": [1.0]}, fixed={"steps": 4000, "every": 100_000, "pause": 0.001}, launch={"parallel": 1}
    )
    command = project.start("sweep", "sweep.yaml")
    (trial,) = wait_until(lambda: project.sweep.plan_file.exists() and project.trials(), "the plan")
    wait_until(lambda: len(project.history(trial)) > 20, "some metrics")
    ballast = fill(project.runs)
    out, err = command.communicate(timeout=60)
    assert project.ends(trial) == ["failed disk"], (out, err)
    rows, damage = project.sweep.trial(trial).attempt(1).read()
    assert damage.n_bad_lines == 0
    assert rows[-1]["kind"] == "end"
    assert "journal.jsonl" in rows[-1]["message"]
    steps = [row["step"] for row in rows if row["kind"] == "metrics"]
    assert project.history(trial) == expected_history(1.0, len(steps))
    ballast.unlink()
    project.write_spec(space={"start": [1.0]}, fixed={"steps": 4000, "every": 100_000, "pause": 0.001})
    project.run_sweep("--set", "launch.parallel=1")
    check_oracle(project)


def test_a_worker_that_cannot_write_a_byte_says_so_and_leaves_with_81(project):
    submission = submit_only(project)
    ballast = fill(project.runs)
    worker = run_worker(project, submission)
    assert worker.code == WorkerExit.DISK, worker.err
    assert "Traceback" not in worker.err
    assert "No space left on device" in worker.err
    assert str(project.sweep.path) in worker.err
    ballast.unlink()
    assert run_worker(project, submission, 2).code == 0
    check_oracle(project)


def test_a_worker_whose_spare_space_is_taken_too_reports_by_its_exit_code(project):
    """Somebody else takes the blocks that are given back: then only the exit code is left, and the files are sound."""
    project.write_spec(
        space={"start": [1.0]}, fixed={"steps": 200, "every": 2, "pause": 0.02, "blob": 60_000}, launch={"parallel": 1}
    )
    submission = submit_only(project)
    worker = start_worker(project, submission)
    (trial,) = project.trials()
    folder = project.sweep.trial(trial)
    wait_until(lambda: len(checkpoints.manifests(folder)) == 2, "two checkpoints")
    for spare in project.sweep.path.glob("workers/*/spare"):
        spare.unlink()
    ballast = fill(project.runs)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == WorkerExit.DISK, err
    assert "Traceback" not in err
    assert project.ends(trial) in ([""], ["failed disk"])  # the last page of the journal may have had room
    ballast.unlink()
    assert run_worker(project, submission, 2).code == 0
    check_oracle(project)


def test_a_worker_that_cannot_even_complain_leaves_with_its_code(project):
    """Its messages go to a file on the same full disk."""
    submission = submit_only(project)
    ballast = fill(project.runs)
    with open("/dev/full", "w") as full:
        worker = start_worker(project, submission, messages=full)
        assert worker.wait(timeout=60) == WorkerExit.DISK
        worker.stdout.close()
    ballast.unlink()


def test_the_spare_blocks_are_real(project):
    """A file of zeros or a hole would take no blocks on a compressing or thin disk, and give none back."""
    from dlcluster.files import reserve_space

    reserve_space(project.runs / "spare", 65_536)
    assert (project.runs / "spare").stat().st_blocks * 512 >= 65_536
    import zlib

    assert len(zlib.compress((project.runs / "spare").read_bytes())) > 65_000
    assert os.listdir(project.runs) == ["spare"]
