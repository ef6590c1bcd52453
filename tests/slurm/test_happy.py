"""S1: sweeps as jobs, from the command to the table."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.slurm.cluster import DevCluster
from tests.slurm.projects import SlurmProject, make_shims, make_slurm_project
from tests.support import end_of, pause, summary, undisturbed

N_AT_ONCE = 8
N_TRIALS, N_PER_JOB = 200, 4  # 50 jobs, where an array holds 17
WALL_S = 240.0
ASKED_EVERY_S = 15.0  # by all commands of a user on a host
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol")


@pytest.fixture(scope="module")
def small_arrays(make_cluster) -> DevCluster:
    return make_cluster("small-arrays")


def test_a_sweep_runs_as_jobs_and_a_second_call_has_nothing_to_do(small_arrays):
    project = make_slurm_project(small_arrays, "happy")
    first = project.run_sweep("--wait", timeout=180)
    assert "submitted as 2 job(s)" in first.out
    assert "completed" in first.out
    again = project.run_sweep()
    assert "nothing is missing" in again.out
    assert len(project.sweep.submissions()) == 1
    project.check()


def test_two_hundred_trials_in_arrays_that_follow_one_another(small_arrays):
    """Never more than `parallel` at once, which no single array could promise for all of them."""
    project = make_slurm_project(
        small_arrays,
        "many",
        space={"start": [float(i) for i in range(1, N_TRIALS + 1)]},
        launch={"parallel": N_AT_ONCE, "trials_per_job": N_PER_JOB, "mem": "100M"},
    )
    shims = make_shims(project, *PROGRAMS)
    command = project.start("sweep", "sweep.yaml", "--wait", stdout=subprocess.DEVNULL)
    began, seen = time.monotonic(), []
    while command.poll() is None:
        assert time.monotonic() - began < WALL_S, project.submission_words()[-500:]
        seen.append(n_running(small_arrays))
        pause(0.2)
    assert end_of(command, 10).code == 0
    wall_s = time.monotonic() - began
    assert N_AT_ONCE // 2 < max(seen) <= N_AT_ONCE
    project.env = {}
    project.check()
    assert summary(project) == undisturbed(project)
    assert len(project.trials()) == N_TRIALS
    assert all(project.ends(trial) == ["completed"] for trial in project.trials())
    assert sizes_of_arrays(project) == [16, 17, 17]
    assert shims.n_calls("sbatch") == 1 + 3  # would it be accepted? then each array
    assert shims.n_calls("squeue") <= 2 + wall_s / ASKED_EVERY_S
    assert shims.n_calls("sacct") == 0
    assert shims.n_calls("scontrol") <= 3, shims.calls  # configuration, nodes, partitions


def n_running(cluster: DevCluster) -> int:
    return len(cluster.run_as_root("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split())


def sizes_of_arrays(project: SlurmProject) -> list[int]:
    arrays = [row["id"].partition("_")[0] for row in project.jobs()]
    return sorted(arrays.count(array) for array in set(arrays))
