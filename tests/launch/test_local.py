"""How many workers there are, and which GPUs each of them sees."""

from __future__ import annotations

import pytest

from dlcluster.errors import PreconditionError
from dlcluster.launch.local import make_slots, visible_gpus

LAUNCH = {"gpus": None, "cpus": 1, "parallel": None, "trials_per_gpu": 1}


@pytest.mark.parametrize(
    ("launch", "gpus", "n_cores", "n_trials", "expected"),
    [
        ({}, [], 4, 100, (None,) * 4),
        ({"cpus": 2}, [], 4, 100, (None,) * 2),
        ({"cpus": 8}, [], 4, 100, (None,)),
        ({"cpus": 2, "processes_per_node": 2}, [], 9, 100, (None,) * 2),
        ({"parallel": 7}, [], 4, 100, (None,) * 7),
        ({}, [], 4, 2, (None,) * 2),
        ({}, ["0", "1"], 16, 100, ("0", "1")),
        ({"trials_per_gpu": 2}, ["0", "1"], 16, 100, ("0", "0", "1", "1")),
        ({"gpus": 2}, ["0", "1", "2", "3", "4"], 16, 100, ("0,1", "2,3")),
        ({"gpus": 0}, ["0", "1"], 3, 100, ("",) * 3),
        ({"parallel": 1}, ["4", "5"], 16, 100, ("4",)),
        ({"parallel": 3}, ["4", "5"], 16, 100, ("4", "5", "4")),
    ],
)
def test_slots(launch, gpus, n_cores, n_trials, expected):
    assert make_slots({**LAUNCH, **launch}, gpus, n_cores, n_trials).gpus_of_worker == expected


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(PreconditionError, match="needs 2 GPU"):
        make_slots({**LAUNCH, "gpus": 2}, ["0"], 4, 10)


def test_gpus_are_those_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_gpus_are_counted_by_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA A100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []


def test_each_trial_sees_the_gpu_of_its_worker(project):
    (project.root / "gpu.py").write_text(
        "import os\n\ndef train(run, *, start):\n"
        "    run.log(loss=start)\n    print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])\n"
    )
    project.env["CUDA_VISIBLE_DEVICES"] = "6,7"
    project.write_spec(job="gpu", space={"start": [1, 2, 3, 4]}, fixed=None, launch={"cpus": 3})
    project.run_sweep()
    seen = {tuple(project.run("logs", "count", trial.id).out.split()) for trial in project.trials()}
    assert seen <= {("6", "3"), ("7", "3")}
    assert seen
