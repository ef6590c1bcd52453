"""A power cut in the middle of a trial: what a durable checkpoint stands for is durable too."""

from __future__ import annotations

import json

import pytest

from dlcluster.results.predictions import read_predictions
from dlcluster.run_dir import SweepDir
from dlcluster.worker import checkpoints
from tests.faults.test_files_injected import INJECT, Disk
from tests.support import expected_history, history_of

JOB = """
def train(run, *, start):
    for step in range(1, 5):
        run.log(loss=start / step)
        run.predictions("validation", [1, 2], correct=[0, 1])
        run.predictions("train", [1, 2, 3], correct=[1, 0, 1])
        if step % 2 == 0:
            run.save({"step": step}, epoch=step)
"""


@pytest.fixture
def operations(project):
    """All that a sweep of one trial does to the disk."""
    log = project.root / "operations"
    (project.root / "counter.py").write_text(JOB)
    project.write_spec(space={"start": [1.0]}, fixed={}, launch={"parallel": 1})
    project.runs.mkdir()
    project.env.update(PYTHONPATH=str(INJECT), DLCLUSTER_RECORD=str(log), DLCLUSTER_RECORD_UNDER=str(project.runs))
    project.run_sweep()
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_after_a_power_cut_a_checkpoint_has_all_that_came_before_it(project, operations, tmp_path):
    (trial,) = project.trials()
    disk, found = Disk(project.runs), []
    for i, operation in enumerate(operations):
        disk.apply(operation)
        if operation["op"] != "fsync" or not operation["path"].endswith("/checkpoints"):
            continue
        disk.write_image(tmp_path / str(i), keep_names=False)
        folder = SweepDir(tmp_path / str(i) / "count").trial(trial)
        manifests = checkpoints.manifests(folder)
        if not manifests:
            continue
        state, _name = checkpoints._load(manifests[0])
        found.append(state.step)
        rows = [(row["step"], row["metrics"]["loss"]) for row in history_of(folder).metrics]
        assert rows[: state.step] == expected_history(1.0, state.step)
        for step in range(1, state.step + 1):
            for split in ("train", "validation"):
                assert read_predictions(folder.predictions_file(split, step)) is not None, (state.step, split, step)
    assert sorted(set(found)) == [2, 4], "a checkpoint is there as soon as `run.save` has returned"
