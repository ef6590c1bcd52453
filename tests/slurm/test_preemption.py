"""S2, S3, S4: a more important job takes the node. With and without grace, told by a signal or not, requeued or not."""

from __future__ import annotations

from collections.abc import Iterator

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
from tests.support import pause

PREEMPTED, COMPLETED, CANCELLED = "interrupted preempted", "completed", "cancelled by_user"
STEPS = 60  # of half a second


@pytest.fixture(scope="module")
def telling(make_cluster) -> DevCluster:
    """The variant with preempt_send_user_signal."""
    return make_cluster("user-signal")


@pytest.fixture(scope="module")
def patient(slurm_programs) -> Iterator[DevCluster]:
    """With the KillWait that Slurm has where nobody has set it."""
    with DevCluster("no-accounting", settings=["KillWait=30"]) as cluster:
        yield cluster


def on(node: str, partition: str, **launch) -> dict:
    return {"extra_args": [f"--nodelist={node}"], "partition": partition, "max_attempts": 1, **launch}


def go_through_preemption(project: SlurmProject, node: str, times: int = 1, n_steps: int = 12) -> None:
    """`max_attempts: 1`: if a preemption used up the budget of attempts, the first would be the end."""
    project.run_sweep()
    for number in range(1, times + 1):
        trial = project.wait_for_steps(1)
        wait_for_attempt(project, trial, number, n_steps)
        wait_for_end(project.cluster, preempt(project.cluster, node))
        wait_for_attempt(project, trial, number + 1)
    project.check()
    assert project.ends(trial) == [PREEMPTED] * times + [COMPLETED]
    assert project.restarts() == list(range(times + 1))
    assert states(project) == [COMPLETED]


# -- at once: KillWait is all the time there is


@story
def test_requeued_without_grace_no_step_is_lost(cluster):
    with alone_on(cluster, "n1") as node:
        project = make_project(cluster, "s2", STEPS, launch=on(node, "low"))
        go_through_preemption(project, node, times=2)
        assert n_lost(project, project.trials()[0]) == 0


@story
def test_a_trial_that_does_not_listen_loses_one_checkpoint_interval_at_most(cluster):
    """It is killed before Slurm would do it, so that there is time for its record."""
    with alone_on(cluster, "n2") as node:
        project = make_project(cluster, "s2-deaf", 16, fixed={"every": 4}, launch=on(node, "low"))
        hang_once(project, 11)
        go_through_preemption(project, node, n_steps=10)
        assert n_lost(project, project.trials()[0]) == 2


@story
def test_a_preemption_that_has_cost_everything_uses_up_no_budget(cluster):
    """No checkpoint in its first life, and one attempt without progress is all that it has."""
    with alone_on(cluster, "n2") as node:
        project = make_project(cluster, "s2-budget", 16, fixed={"every": 0}, launch=on(node, "low"))
        hang_once(project, 6)
        go_through_preemption(project, node, n_steps=5)
        assert n_lost(project, project.trials()[0]) == 5


@story
def test_a_command_goes_on_from_its_own_checkpoint(cluster):
    """On a node with linuxproc, where slurmstepd signals the program as well."""
    with alone_on(cluster, "n3") as node:
        project = make_command_project(cluster, "s2-command", STEPS, launch=on(node, "low"))
        go_through_preemption(project, node)
        assert n_lost(project, project.trials()[0]) == 0


@story
def test_not_requeued_by_slurm_and_not_warned_it_requeues_itself_at_the_end_of_the_grace_time(cluster):
    with alone_on(cluster, "n4") as node:
        project = make_project(cluster, "cancel", 120, launch=on(node, "lowc"))
        go_through_preemption(project, node)
        assert n_lost(project, project.trials()[0]) == 0


@pytest.mark.long
@story
def test_with_grace_but_without_a_warning_it_trains_on_until_the_sigterm(cluster):
    with alone_on(cluster, "n1") as node:
        project = make_project(cluster, "s3", 160, launch=on(node, "lowg"))
        go_through_preemption(project, node)
        (trial,) = project.trials()
        assert n_lost(project, trial) == 0
        first = [row for row in project.rows(trial, 1) if row["kind"] == "metrics"]
        assert first[-1]["time"] - first[11]["time"] > 18  # of the grace time: 20 s and up to 30 s more


@pytest.mark.long
@story
def test_a_trial_that_does_not_listen_with_grace_and_no_warning(cluster):
    with alone_on(cluster, "n2") as node:
        project = make_project(cluster, "s3-deaf", 24, fixed={"every": 4}, launch=on(node, "lowg"))
        hang_once(project, 19)
        go_through_preemption(project, node)
        assert n_lost(project, project.trials()[0]) == 2


@pytest.mark.long
@story
def test_a_command_without_a_requeue_by_slurm(cluster):
    with alone_on(cluster, "n3") as node:
        project = make_command_project(cluster, "cancel-command", 160, launch=on(node, "lowc"))
        go_through_preemption(project, node)
        assert n_lost(project, project.trials()[0]) == 0


@pytest.mark.long
@story
def test_it_has_half_of_a_long_kill_wait_to_save(patient):
    """12 s of 30: with the 8 s of the other clusters it would have been killed."""
    with alone_on(patient, "n1") as node:
        launch = on(node, "low", grace="60s")
        project = make_project(patient, "kill-wait", 40, fixed={"every": 0}, launch=launch)
        save_slowly(project, 12)
        go_through_preemption(project, node)
        assert n_lost(project, project.trials()[0]) == 0


@pytest.mark.long
@story
def test_a_trial_that_does_not_listen_is_ended_before_the_end_of_a_long_kill_wait(patient):
    with alone_on(patient, "n2") as node:
        launch = on(node, "low", grace="60s")
        project = make_project(patient, "kill-wait-deaf", 16, fixed={"every": 4}, launch=launch)
        hang_once(project, 11)
        go_through_preemption(project, node, n_steps=10)
        assert n_lost(project, project.trials()[0]) == 2


# -- told by USR1 at the start of the grace time


def leaves_early(project: SlurmProject) -> None:
    """It saves and requeues itself long before the grace time is over."""
    (trial,) = project.trials()
    assert n_lost(project, trial) == 0
    log = project.submission_words()
    assert "DUE TO PREEMPTION" not in log


@story
def test_told_in_time_it_saves_and_requeues_itself(telling):
    with alone_on(telling, "n1") as node:
        project = make_project(telling, "s4", STEPS, launch=on(node, "lowg"))
        go_through_preemption(project, node, times=2)
        leaves_early(project)


@story
def test_told_in_time_and_not_requeued_by_slurm(telling):
    with alone_on(telling, "n2") as node:
        project = make_project(telling, "s4-cancel", STEPS, launch=on(node, "lowc"))
        go_through_preemption(project, node, times=2)
        leaves_early(project)


@story
def test_a_command_that_is_told_in_time(telling):
    with alone_on(telling, "n3") as node:
        project = make_command_project(telling, "s4-command", STEPS, launch=on(node, "lowg"))
        go_through_preemption(project, node)
        leaves_early(project)


@pytest.mark.long
@story
def test_a_signal_without_grace_is_followed_by_sigterm_at_once(telling):
    with alone_on(telling, "n2") as node:
        project = make_project(telling, "s4-no-grace", STEPS, launch=on(node, "low"))
        go_through_preemption(project, node)
        assert n_lost(project, project.trials()[0]) == 0


@story
def test_cancelled_while_it_saves_in_the_grace_time_it_is_not_resurrected(telling):
    """S8: a requeue without a look would start again what its user has just ended."""
    with alone_on(telling, "n4") as node:
        project = make_project(telling, "s4-scancel", STEPS, fixed={"every": 0}, launch=on(node, "lowg"))
        save_slowly(project, 3)
        project.run_sweep()
        trial = project.wait_for_steps(4)
        high = preempt(telling, node)
        wait_for_saving(project, trial)
        scancel(project, trial)
        stays_gone(project)
        project.check(CANCELLED)
        assert project.ends(trial) == [CANCELLED]
        assert states(project) == [CANCELLED]
        check_not_resumed(project)
        wait_for_end(telling, high)


# -- a preemption and a scancel at the same time


@pytest.mark.long
@story
def test_cancelled_in_the_same_second_as_preempted(cluster):
    """Before the preemption, beside it, after it: whatever its worker has seen of the two, it does not run on."""
    with alone_on(cluster, "n4") as node:
        for moment, (before, after) in enumerate([(0.0, 0.0), (0.0, 0.3), (0.0, 1.5), (0.3, 0.0)]):
            project = make_project(cluster, f"both-{moment}", STEPS, fixed={"every": 0}, launch=on(node, "low"))
            save_slowly(project, 1)
            project.run_sweep()
            trial = project.wait_for_steps(4)
            job = job_of(project, trial)
            if before:
                cluster.run_as_user(["scancel", job])
                pause(before)
            high = preempt(cluster, node)
            pause(after)
            cluster.run_as_user(["scancel", job])
            stays_gone(project)
            assert project.ends(trial)[-1] in (CANCELLED, PREEMPTED)
            assert states(project) == [CANCELLED]
            check_not_resumed(project)
            wait_for_end(cluster, high)
