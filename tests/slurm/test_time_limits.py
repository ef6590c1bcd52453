"""S6, S7: jobs that are shorter than their trials. Each is asked in time, saves, and goes on in another life of its job."""

from __future__ import annotations

import pytest

from dlcluster.journal import History
from tests.slurm.faults import (
    hang_once,
    job_of,
    make_command_project,
    make_project,
    n_lost,
    preempt,
    states,
    wait_for_attempt,
    wait_for_end,
)
from tests.slurm.projects import SlurmProject, make_slurm_project
from tests.slurm.stories import alone_on, story
from tests.support import history_of

DEADLINE, PREEMPTED, COMPLETED = "interrupted deadline", "interrupted preempted", "completed"
# A minute is the shortest that Slurm knows. A trial is asked after 20 s of it, and Slurm's own warning comes even
# before that: at the first look of slurmctld, which looks every 30 s.
SHORT = {"time": "1m", "margin": "40s", "grace": "10s", "max_attempts": 1}
ELSEWHERE = SHORT | {"extra_args": ["--exclude=n1"]}  # where another story preempts
STEPS_IN_A_LIFE = 45  # at most: 20 s of half a second, and what it may still do when it is asked


def check_lives(project: SlurmProject, *reasons: str) -> None:
    """One life of the job after the other, none counted as a failure, and no step lost or done twice."""
    project.check()
    (trial,) = project.trials()
    assert project.ends(trial) == list(reasons)
    assert project.restarts() == list(range(len(reasons)))
    assert states(project) == [COMPLETED]


@story
def test_a_trial_of_five_lives(cluster):
    """Four requeues, with a budget of one attempt without progress."""
    project = make_project(cluster, "s6", 4 * STEPS_IN_A_LIFE, launch=ELSEWHERE)
    project.run_sweep()
    project.wait_for_jobs(420)
    n = len(project.restarts())
    assert n >= 5
    check_lives(project, *[DEADLINE] * (n - 1), COMPLETED)
    assert n_lost(project, project.trials()[0]) == 0
    log = project.submission_words()
    assert "DUE TO TIME LIMIT" not in log


@story
def test_a_command_of_three_lives(cluster):
    project = make_command_project(cluster, "s6-command", 2 * STEPS_IN_A_LIFE, launch=ELSEWHERE)
    project.run_sweep()
    project.wait_for_jobs(420)
    n = len(project.restarts())
    assert n >= 3
    check_lives(project, *[DEADLINE] * (n - 1), COMPLETED)
    assert n_lost(project, project.trials()[0]) == 0


@story
def test_preempted_once_and_timed_out_twice_its_history_is_that_of_an_undisturbed_trial(cluster):
    """Row by row, value by value: nobody can tell from the results that anything has happened."""
    changes = {"fixed": {"pause": 0.25}, "launch": SHORT | {"extra_args": ["--nodelist=n1"]}}
    with alone_on(cluster, "n1") as node:
        project = make_project(cluster, "disturbed", 240, **changes)
        project.run_sweep()
        wait_for_attempt(project, project.trials()[0], 2, 8)
        wait_for_end(cluster, preempt(cluster, node))
        project.wait_for_jobs(420)
    (trial,) = project.trials()
    ends = project.ends(trial)
    assert ends[:3] == [DEADLINE, PREEMPTED, DEADLINE]
    check_lives(project, *ends)
    undisturbed = make_project(cluster, "undisturbed", 240, fixed={"pause": 0.0})
    undisturbed.run_sweep()
    undisturbed.check()
    (same,) = undisturbed.trials()
    assert undisturbed.ends(same) == [COMPLETED]
    assert what_counts(history_of(project.sweep.trial(trial))) == what_counts(history_of(undisturbed.sweep.trial(same)))


def what_counts(history: History) -> list[dict]:
    """All of a row but its time, and the number of the attempt that has logged it."""
    return [{k: v for k, v in row.items() if k not in ("time", "attempt")} for row in history.metrics]


@story
def test_several_trials_in_one_job_share_its_lives(cluster):
    """A trial that is asked in the middle goes on in the next life; those that have completed are not begun again."""
    project = make_project(cluster, "s6-several", 24, space={"start": [1.0, 2.0, 3.0]}, launch=ELSEWHERE)
    project.run_sweep()
    project.wait_for_jobs(420)
    project.check()
    assert len(project.sweep.submissions()) == 1
    for trial in project.trials():
        *before, last = project.ends(trial)
        assert last == COMPLETED
        assert set(before) <= {DEADLINE, "interrupted stop_requested"}
        assert n_lost(project, trial) == 0
    assert max(project.restarts()) >= 1


def test_a_time_that_is_no_longer_than_the_margin_is_refused(cluster):
    project = make_slurm_project(cluster, "s7", launch={"time": "1m", "margin": "60s"})
    refused = project.run_sweep(code=2)
    assert "expected a margin shorter than the time" in refused.err
    assert not project.runs.exists()
    assert not project.jobs()


# -- S7: nobody listens


@pytest.mark.long
@story
def test_a_trial_that_does_not_listen_is_ended_in_time_and_loses_one_checkpoint_interval_at_most(cluster):
    """By its supervisor: Slurm's time limit is never reached."""
    project = make_project(cluster, "s7-deaf", 24, fixed={"every": 4}, launch=ELSEWHERE)
    hang_once(project, 19)
    project.run_sweep()
    check_lives(project, DEADLINE, COMPLETED)
    assert n_lost(project, project.trials()[0]) == 2
    assert "DUE TO TIME LIMIT" not in project.submission_words()


@pytest.mark.long
@story
def test_a_trial_that_never_saves_anything_has_used_up_its_budget(cluster):
    """The one case in which a time limit ends a trial: it would never get any further."""
    fixed = {"every": 0, "pause": 1.0, "deaf": True}
    project = make_project(cluster, "s7-hopeless", 200, fixed=fixed, launch={**ELSEWHERE, "max_attempts": 2})
    project.run_sweep()
    project.wait_for_jobs(420)
    (trial,) = project.trials()
    assert project.ends(trial) == [DEADLINE, DEADLINE]
    assert states(project) == ["failed deadline, no progress in 2 attempts"]


@pytest.mark.long
@story
def test_a_limit_that_an_administrator_has_shortened(cluster):
    """Its own clock says that there is time; Slurm's warning makes it ask, and it is told otherwise, in each life."""
    project = make_project(cluster, "shortened", 160, launch={**ELSEWHERE, "time": "10m"})
    assert shorten_its_limit(project) == 0
    *before, last = project.ends(project.trials()[0])
    assert set(before) == {DEADLINE}
    assert last == COMPLETED


@pytest.mark.long
@story
def test_a_limit_that_it_is_told_of_too_late(cluster):
    """With a margin of a second the warning is of no use, and there may be none: then Slurm's SIGTERM is the first."""
    project = make_project(cluster, "untold", 200, launch={**ELSEWHERE, "time": "10m", "margin": "1s"})
    assert shorten_its_limit(project) <= 10 * (len(project.restarts()) - 1)
    *before, last = project.ends(project.trials()[0])
    assert {end.split()[0] for end in before} == {"interrupted"}
    assert last == COMPLETED


def shorten_its_limit(project: SlurmProject) -> int:
    """To a minute, which it keeps when it is requeued. Returns how many steps were lost in all its lives."""
    project.run_sweep()
    trial = project.wait_for_steps(4)
    project.cluster.run_as_root("scontrol", "update", f"jobid={job_of(project, trial)}", "timelimit=1")
    wait_for_attempt(project, trial, 2)
    project.wait_for_jobs(420)
    project.check()
    return n_lost(project, trial)
