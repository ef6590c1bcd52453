"""Trials on two nodes, and several trials in one job, on a real Slurm."""

from __future__ import annotations

import re
import shutil

from tests.slurm.projects import LAUNCH, SlurmProject, give_to_user, make_slurm_project
from tests.support import (
    HERE,
    check_attempts_do_not_overlap,
    check_files,
    expected_history,
    processes_with,
    wait_until,
)

TWO_BY_TWO = {"parallel": 1, "nodes": 2, "processes_per_node": 2, "cpus": 2}
BEGINNING = re.compile(r"rank (\d) of 4 on (n\d) starting at (\d+)")
FIXED = {"steps": 30, "every": 10, "pause": 0.2}


def make(cluster, name, job="ranked", fixed=FIXED, starts=(1.0,), **launch) -> SlurmProject:
    project = make_slurm_project(
        cluster,
        name,
        job=job,
        space={"start": list(starts)},
        fixed=fixed,
        launch={**LAUNCH, **TWO_BY_TWO, **launch},
    )
    for file in (HERE / "ranked.py", HERE / "slurm" / "gloo_job.py"):
        shutil.copy(file, project.root / file.name)
    give_to_user(cluster, project.root)
    project.run_sweep()
    return project


def is_close(history, start, steps):
    expected = expected_history(start, steps)
    return [s for s, _ in history] == [s for s, _ in expected] and all(
        abs(loss - wanted) < 1e-6 for (_, loss), (_, wanted) in zip(history, expected, strict=True)
    )


def check(project: SlurmProject) -> None:
    project.wait_for_jobs()
    for trial in project.trials():
        check_attempts_do_not_overlap(project, trial)
    check_files(project.sweep.path)
    assert not processes_with(str(project.root))


def logs(project, number) -> str:
    (trial,) = project.trials()
    files = sorted(project.sweep.trial(trial).attempt(number).path.glob("log*.txt"))
    return "".join(file.read_text() for file in files)


def last_step(project: SlurmProject, trial, kind) -> int:
    """Of the first attempt. Where the last row was also saved, nothing of what had been done was lost."""
    return [row["step"] for row in project.rows(trial, 1) if row["kind"] == kind][-1]


def test_gloo_over_two_nodes_goes_on_after_a_preemption(cluster):
    project = make(cluster, "gloo", "gloo_job", partition="low", mem="2G")  # torch is imported on each node
    trial = project.wait_for_steps(12, timeout=90)
    cluster.submit("sleep 1", "--partition=high", "--nodes=4", "--exclusive")
    project.wait_for_jobs()
    ends = project.ends(trial)
    assert (ends[0], ends[-1]) == ("interrupted preempted", "completed")
    (job,) = project.jobs()
    assert is_close(project.history(trial), 1.0, FIXED["steps"])
    for number in (1, 2):
        found = BEGINNING.findall(logs(project, number))
        assert sorted(rank for rank, _node, _step in found) == ["0", "1", "2", "3"]
        assert len({node for _rank, node, _step in found}) == 2
        (step,) = {int(step) for _rank, _node, step in found}
    assert step == last_step(project, trial, "checkpoint") == last_step(project, trial, "metrics")
    check(project)
    assert job["state"] == "COMPLETED"


def test_a_rank_on_the_second_node_that_raises_ends_the_trial_with_its_reason(cluster):
    project = make(cluster, "raise", fixed={**FIXED, "fault": "raise", "who": 3, "at": 3})
    project.wait_for_jobs(60)
    (trial,) = project.trials()
    (end,) = [row for row in project.rows(trial, 1) if row["kind"] == "end"]
    assert (end["reason"], end["message"]) == ("exception", "rank 3 on node 1: ValueError: went wrong")
    assert end["seconds"] < 10
    assert "[rank 3] ValueError: went wrong" in logs(project, 1)
    check(project)


def test_two_nodes_save_when_the_job_is_requeued(cluster):
    """By somebody else; on lp every process of the job hears Slurm's SIGTERM, and srun would end the step."""
    projects = [make(cluster, partition, partition=partition) for partition in ("cg", "lp")]
    for project in projects:
        project.wait_for_steps(12)
        requeue(project)
    for project in projects:
        project.wait_for_jobs()
        (trial,) = project.trials()
        assert project.ends(trial)[0].startswith("interrupted")
        assert project.ends(trial)[1:] == ["completed"]
        (resumed,) = [row["step"] for row in project.rows(trial, 2) if row["kind"] == "resume"]
        assert resumed == last_step(project, trial, "checkpoint") == last_step(project, trial, "metrics") >= 12
        assert is_close(project.history(trial), 1.0, FIXED["steps"])
        check(project)


def requeue(project: SlurmProject) -> None:
    (job,) = project.live_jobs()
    project.cluster.run_as_root("scontrol", "requeue", job["id"])


def test_two_nodes_that_are_cancelled_do_not_come_back(cluster):
    project = make(cluster, "cancel")
    trial = project.wait_for_steps(3)
    (job,) = project.live_jobs()
    cluster.run_as_user(["scancel", job["id"]])
    project.wait_for_jobs()
    assert project.ends(trial) == ["cancelled by_user"]
    check(project)


def test_trials_that_share_a_job_stop_together_and_are_requeued_once(cluster):
    one = {"nodes": 1, "processes_per_node": 1, "cpus": 1, "parallel": 2, "trials_per_gpu": 2}
    projects = [
        make(cluster, f"pack-{partition}", "counter", starts=(1.0, 2.0), **one, partition=partition)
        for partition in ("cg", "lp")
    ]
    for project in projects:
        wait_until(lambda p=project: all(len(p.history(trial)) > 4 for trial in p.trials()), "both trials", 60)
        requeue(project)
    for project in projects:
        project.wait_for_jobs()
        workers = {project.rows(t, n)[0]["worker"].split("-")[-1] for t in project.trials() for n in (1, 2)}
        assert workers == {"0000", "0000p1", "0000r1", "0000r1p1"}
        for trial in project.trials():
            assert project.ends(trial) == ["interrupted requeued", "completed"]
        project.check()


def test_a_cancelled_job_cancels_all_the_trials_that_share_it(cluster):
    one = {"nodes": 1, "processes_per_node": 1, "cpus": 1, "parallel": 2, "trials_per_gpu": 2}
    project = make(cluster, "pack-cancel", "counter", starts=(1.0, 2.0), **one)
    wait_until(lambda: all(len(project.history(trial)) > 1 for trial in project.trials()), "both trials", 60)
    (job,) = project.live_jobs()
    cluster.run_as_user(["scancel", job["id"]])
    project.wait_for_jobs()
    assert [project.ends(trial) for trial in project.trials()] == [["cancelled by_user"]] * 2
    check(project)
