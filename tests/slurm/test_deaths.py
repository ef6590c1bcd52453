"""S9, S10: processes of a job that die, one at a time, and a job that needs more memory than it has."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.projects import SlurmProject, make_slurm_project, sweep_all
from tests.support import family, is_running, parent_of, remove_scratch_files, wait_until

SLOW = {"space": {"start": [1.0]}, "fixed": {"steps": 60, "every": 2, "pause": 0.2}}
HOG = {"space": {"start": [1.0]}, "fixed": {"steps": 6, "every": 2, "fault": "hog", "at": 3}}
HEAVY_IMPORT = """
import os
if "SLURM_JOB_ID" in os.environ:  # on a login node there is enough of it
    HOG = [bytearray(os.urandom(1) * (8 << 20)) for _ in range(100)]
"""
STEPD_PATIENCE_S = 240.0  # slurmctld misses a slurmstepd after 52 s, and starts its job again some seconds later


# -- S9: one process of each job is killed


def supervisor_of(project: SlurmProject) -> int:
    (pid,) = family(project)["supervisor"]
    return pid


def zygote_of(project: SlurmProject) -> int:
    (pid,) = family(project)["zygote"]
    return pid


def trial_of(project: SlurmProject) -> int:
    (pid,) = family(project)["child"]
    return pid


def slurmstepd_of(project: SlurmProject) -> int:
    pid = parent_of(supervisor_of(project))
    assert b"slurmstepd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


VICTIMS: dict[str, tuple[Callable[[SlurmProject], int], str]] = {
    "trial": (trial_of, "cg"),
    "zygote": (zygote_of, "lp"),
    "supervisor-cg": (supervisor_of, "cg"),
    "supervisor-lp": (supervisor_of, "lp"),
    "slurmstepd-cg": (slurmstepd_of, "cg"),
    "slurmstepd-lp": (slurmstepd_of, "lp"),
}


@pytest.fixture(scope="module")
def struck(cluster) -> dict[str, SlurmProject]:
    """One job for each victim; all at work at the same time, and all struck at their fourth step or later."""
    made = {
        name: make_slurm_project(cluster, name, launch={"parallel": 1, "partition": partition}, **SLOW)
        for name, (_victim, partition) in VICTIMS.items()
    }
    sweep_all(made.values())
    for name, project in made.items():
        project.wait_for_steps(4)
        victim = VICTIMS[name][0](project)
        others = [pid for kind in ("zygote", "child") for pid in family(project)[kind]]
        cluster.run_as_root("kill", "-9", str(victim))
        if not name.startswith(("trial", "zygote")):
            wait_until(lambda pids=others: not any(map(is_running, pids)), f"the end of {name} and all below", 10)
        wait_until(lambda pid=victim: not is_running(pid), f"the end of {name}", 10)
    return made


def check_after_kill(project: SlurmProject) -> None:
    project.wait_for_jobs()
    remove_scratch_files(project.runs)
    project.check()


@pytest.mark.parametrize("name", ["trial", "zygote"])
def test_a_killed_trial_goes_on_in_the_same_job(struck, name):
    project = struck[name]
    check_after_kill(project)
    (trial,) = project.trials()
    assert project.ends(trial) == ["failed killed(9)", "completed"]
    assert len(project.jobs()) == 1
    assert project.restarts() == [0, 0]


@pytest.mark.parametrize("name", ["supervisor-cg", "supervisor-lp"])
def test_a_job_whose_supervisor_was_killed_is_seen_and_asked_for_again(struck, name):
    """Slurm says FAILED, `0:9`, and does not start it again; nobody has written an end."""
    project = struck[name]
    project.wait_for_jobs()
    (trial,) = project.trials()
    assert project.ends(trial) == [""]
    (shown,) = project.status()["trials"]
    assert (shown["state"], shown["reason"]) == ("interrupted", "killed(9)")
    project.run_sweep()
    check_after_kill(project)
    assert project.ends(trial) == ["", "completed"]


@pytest.mark.parametrize("name", ["slurmstepd-cg", "slurmstepd-lp"])
def test_without_its_slurmstepd_a_supervisor_stops_and_slurm_starts_the_job_again(struck, name):
    project = struck[name]
    (trial,) = project.trials()
    wait_until(lambda: len(project.ends(trial)) == 2, "the second life of the job", STEPD_PATIENCE_S)
    check_after_kill(project)
    assert project.ends(trial) == ["interrupted stepd_lost", "completed"]
    assert project.restarts() == [0, 1]
    assert len(project.jobs()) == 1


# -- S10: more memory than there is


def make_hungry(cluster: Any, name: str, **changes: Any) -> SlurmProject:
    launch = {"parallel": 1, "partition": "cg", "mem": "300M", "max_attempts": 3}
    return make_slurm_project(cluster, name, **{**HOG, "launch": launch, **changes})


@pytest.fixture(scope="module")
def hungry(cluster, make_cluster) -> dict[str, SlurmProject]:
    made = {
        "with slurmdbd": make_hungry(cluster, "oom"),
        "without": make_hungry(make_cluster("no-accounting"), "oom"),
        "import": make_hungry(cluster, "import", fixed={"steps": 6, "every": 2}),
    }
    with (made["import"].root / "counter.py").open("a") as file:
        file.write(HEAVY_IMPORT)
    sweep_all(made.values())
    return made


@pytest.mark.parametrize("name", ["with slurmdbd", "without"])
def test_a_trial_that_needs_too_much_memory_fails_once(hungry, name):
    project = hungry[name]
    project.check("failed oom")
    (trial,) = project.trials()
    assert project.ends(trial) == ["failed oom"]
    (end,) = [row for row in project.rows(trial, 1) if row["kind"] == "end"]
    assert 150 < end["peak_rss_mb"] <= 300
    assert end["exit"] == -signal.SIGKILL
    (shown,) = project.status()["trials"]
    assert (shown["state"], shown["reason"]) == ("failed", "oom")
    assert [row["state"] for row in project.jobs()] == ["OUT_OF_MEMORY"]
    again = project.run_sweep()
    assert "nothing is missing" in again.out
    assert project.ends(trial) == ["failed oom"]


def test_a_job_that_needs_too_much_memory_to_be_imported_says_so(hungry):
    project = hungry["import"]
    project.wait_for_jobs()
    said = project.run("status", "count")
    assert "out of memory" in said.out + said.err
    assert "launch.mem" in said.out + said.err
    assert not family(project)["supervisor"]
    assert all(project.ends(trial) == [] for trial in project.trials())
    project.run_sweep("--set", "launch.mem=2G")
    project.check()
    assert [project.ends(trial) for trial in project.trials()] == [["completed"]]
