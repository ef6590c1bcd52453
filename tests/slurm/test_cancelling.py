"""S8: what its user has cancelled ends as `cancelled by_user`, however and whenever, and nothing brings it back."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import DevCluster
from tests.slurm.faults import (
    check_not_resumed,
    hang_once,
    job_of,
    make_command_project,
    make_project,
    n_lost,
    preempt,
    save_slowly,
    scancel,
    states,
    stays_gone,
    wait_for_attempt,
    wait_for_end,
    wait_for_saving,
)
from tests.slurm.projects import SlurmProject
from tests.slurm.stories import alone_on, story
from tests.support import FINAL, pause, wait_until

CANCELLED, COMPLETED = "cancelled by_user", "completed"
TWO = {"space": {"start": [1.0, 2.0]}}
ELSEWHERE = {"extra_args": ["--exclude=n1"]}  # where another story preempts


def begin(cluster: DevCluster, name: str, steps: int = 400, slowly: float = 0, **changes):
    """A project with a trial that runs, and that trial."""
    if slowly:
        changes["fixed"] = {"every": 0}
    project = make_project(cluster, name, steps, **{"launch": ELSEWHERE, **changes})
    if slowly:
        save_slowly(project, slowly)
    project.run_sweep()
    return project, project.wait_for_steps(4)


def check_cancelled(project: SlurmProject) -> None:
    """All of it, for ever; and one attempt a trial at most."""
    stays_gone(project)
    project.check(CANCELLED)
    assert set(states(project)) == {CANCELLED}
    assert all(project.ends(trial) == [CANCELLED] for trial in project.trials())
    check_not_resumed(project)


# -- with scancel, past dlcluster


@story
def test_a_running_trial_and_then_resumed(cluster):
    """It has saved before it went, so that `resume --failed` goes on at the very step."""
    project, trial = begin(cluster, "running", steps=40)
    scancel(project, trial)
    check_cancelled(project)
    project.run("resume", "count", "--failed")
    project.check()
    assert project.ends(trial) == [CANCELLED, COMPLETED]
    assert n_lost(project, trial) == 0
    assert states(project) == [COMPLETED]


@story
def test_a_running_command(cluster):
    project = make_command_project(cluster, "running-command", 400, launch=ELSEWHERE)
    project.run_sweep()
    scancel(project, project.wait_for_steps(4))
    check_cancelled(project)


@story
def test_twice(cluster):
    """The second comes while the first is being obeyed: the job is COMPLETING."""
    project, trial = begin(cluster, "twice", slowly=2)
    scancel(project, trial)
    wait_for_saving(project, trial)
    assert project.jobs("COMPLETING")
    scancel(project, trial)
    check_cancelled(project)


@story
def test_a_trial_that_does_not_listen(cluster):
    project = make_project(cluster, "deaf", 400, launch=ELSEWHERE)
    hang_once(project, 6)
    project.run_sweep()
    scancel(project, project.wait_for_steps(5))
    check_cancelled(project)


@story
def test_one_that_waits_beside_one_that_runs(cluster):
    """`trials_per_job: 1`: nobody else takes the trial of a job that was taken out of the queue."""
    project, first = begin(cluster, "waiting", steps=40, launch={**ELSEWHERE, "trials_per_job": 1}, **TWO)
    (waiting,) = project.jobs("PENDING")
    cluster.run_as_user(["scancel", waiting["id"]])
    project.wait_for_jobs()
    stays_gone(project, 1)
    assert project.ends(first) == [COMPLETED]
    assert sorted(states(project)) == [CANCELLED, COMPLETED]
    check_not_resumed(project)
    project.run("resume", "count", "--failed")
    project.check()
    assert states(project) == [COMPLETED, COMPLETED]


@story
def test_one_element_beside_one_that_goes_on(cluster):
    launch = {**ELSEWHERE, "trials_per_job": 1, "parallel": 2}
    project, _first = begin(cluster, "element", steps=40, launch=launch, **TWO)
    one, other = wait_until(lambda: len(running(project)) == 2 and running(project), "both trials")
    scancel(project, one)
    stays_gone(project)
    project.check(CANCELLED)
    assert (project.ends(one), project.ends(other)) == ([CANCELLED], [COMPLETED])
    check_not_resumed(project)


def running(project: SlurmProject):
    trials = [trial for trial in project.trials() if project.sweep.trial(trial).attempts()]
    return [trial for trial in trials if project.history(trial) and project.ends(trial) == [""]]


@story
def test_a_job_of_several_trials_with_all_of_them(cluster):
    """The one that runs and those that have not begun; the one that has completed stays."""
    project, _first = begin(cluster, "several", steps=10, space={"start": [1.0, 2.0, 3.0]})
    second = project.trials()[1]
    wait_until(lambda: second in running(project), "the second trial")
    scancel(project, second)
    stays_gone(project)
    assert states(project) == [COMPLETED, CANCELLED, CANCELLED]
    check_not_resumed(project)
    project.run("resume", "count", "--failed")
    project.check()
    assert states(project) == [COMPLETED] * 3


# -- at moments when it would requeue itself


@story
def test_while_it_saves_at_its_deadline(cluster):
    """Without a look right before the requeue the job would come back: nothing but a scancel says that it must not."""
    launch = {**ELSEWHERE, "time": "1m", "margin": "50s", "grace": "20s"}
    project, trial = begin(cluster, "deadline", slowly=4, launch=launch)
    wait_for_saving(project, trial)
    assert project.jobs("RUNNING")
    scancel(project, trial)
    check_cancelled(project)


@story
def test_while_it_waits_to_be_started_again(cluster):
    launch = {**ELSEWHERE, "time": "1m", "margin": "50s"}
    project, trial = begin(cluster, "requeued", launch=launch)
    wait_until(lambda: project.jobs("PENDING"), "a requeued job", 60)
    scancel(project, trial)
    stays_gone(project)
    assert project.ends(trial) == ["interrupted deadline"]
    assert states(project) == [CANCELLED]
    check_not_resumed(project)


@story
def test_while_it_is_being_preempted(cluster):
    """Slurm has requeued the job already, and its worker has time to save: a scancel now takes it out of the queue."""
    with alone_on(cluster, "n1") as node:
        launch = {"extra_args": [f"--nodelist={node}"], "partition": "low"}
        project, trial = begin(cluster, "preempted", slowly=2, launch=launch)
        high = preempt(cluster, node)
        wait_for_saving(project, trial)
        scancel(project, trial)
        stays_gone(project)
        assert len(project.ends(trial)) == 1
        assert states(project) == [CANCELLED]
        check_not_resumed(project)
        wait_for_end(cluster, high)


# -- with dlcluster


@story
def test_by_dlcluster_all_of_it(cluster):
    """What runs is told by a marker, what waits is taken out of the queue."""
    project, first = begin(cluster, "cancel", launch={**ELSEWHERE, "trials_per_job": 1}, **TWO)
    said = project.run("cancel", "count").out
    assert "1 worker(s) told to stop" in said
    assert "1 job(s) taken out of the queue" in said
    stays_gone(project)
    assert project.ends(first) == [CANCELLED]
    assert states(project) == [CANCELLED, CANCELLED]
    check_not_resumed(project)


@story
def test_by_dlcluster_twice_and_while_it_saves_at_its_deadline(cluster):
    launch = {**ELSEWHERE, "time": "1m", "margin": "50s", "grace": "20s"}
    project, trial = begin(cluster, "cancel-late", slowly=4, launch=launch)
    wait_for_saving(project, trial)
    project.run("cancel", "count")
    project.run("cancel", "count")
    check_cancelled(project)


@story
def test_by_dlcluster_one_trial_of_several(cluster):
    """Its job goes on with the others."""
    project, first = begin(cluster, "cancel-one", steps=30, space={"start": [1.0, 2.0, 3.0]})
    third = project.trials()[2]
    project.run("cancel", "count", "--trial", third.id)
    project.run("cancel", "count", "--trial", first.id)
    stays_gone(project)
    assert project.ends(first) == [CANCELLED]
    assert states(project) == [CANCELLED, COMPLETED, CANCELLED]
    assert not project.sweep.trial(third).attempts()
    check_not_resumed(project)


@story
def test_after_one_trial_was_cancelled_its_job_still_goes_on_after_its_deadline(cluster):
    """The marker that ended the one is still there when the job asks for another life, for the other."""
    launch = {**ELSEWHERE, "time": "1m", "margin": "35s"}
    project, first = begin(cluster, "cancel-one-late", steps=60, launch=launch, **TWO)
    second = project.trials()[1]
    project.run("cancel", "count", "--trial", first.id)
    project.wait_for_jobs()
    stays_gone(project, 1)
    project.check(CANCELLED)
    assert project.ends(first) == [CANCELLED]
    assert project.ends(second)[-1] == COMPLETED
    assert set(project.ends(second)[:-1]) == {"interrupted deadline"}


@story
def test_by_dlcluster_a_trial_that_waits_to_be_started_again(cluster):
    launch = {**ELSEWHERE, "time": "1m", "margin": "50s"}
    project, trial = begin(cluster, "cancel-requeued", launch=launch)
    wait_until(lambda: project.jobs("PENDING"), "a requeued job", 60)
    assert "1 job(s) taken out of the queue" in project.run("cancel", "count").out
    stays_gone(project)
    assert project.ends(trial) == ["interrupted deadline"]
    assert states(project) == [CANCELLED]
    check_not_resumed(project)


# -- the same with an administrator's requeue


@pytest.mark.long
@story
def test_requeued_by_an_administrator_while_it_saves(cluster):
    """No cancellation: Slurm starts the job again, and its worker, which is saving, must not do so as well."""
    launch = {**ELSEWHERE, "time": "1m", "margin": "50s", "grace": "20s"}
    project, trial = begin(cluster, "admin", steps=40, slowly=4, launch=launch)
    wait_for_saving(project, trial)
    cluster.run_as_root("scontrol", "requeue", job_of(project, trial))
    wait_for_attempt(project, trial, 2)
    pause(1)
    project.wait_for_jobs(300)
    project.check()
    assert project.ends(trial)[-1].split()[0] in FINAL
    assert project.ends(trial)[0] in ("interrupted requeued", "interrupted deadline")
    assert n_lost(project, trial) == 0
