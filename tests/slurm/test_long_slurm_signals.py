"""S21, S23, S25: sites without requeue, jobs that are suspended, and who gets which signal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.slurm.cluster import DevCluster
from tests.slurm.faults import (
    check_not_resumed,
    job_of,
    make_command_project,
    make_project,
    n_lost,
    now_and_then,
    preempt,
    scancel,
    states,
    stays_gone,
    wait_for_attempt,
    wait_for_end,
)
from tests.slurm.stories import alone_on, story
from tests.support import pause, wait_until

pytestmark = pytest.mark.long

DEADLINE, COMPLETED, CANCELLED = "interrupted deadline", "completed", "cancelled by_user"
# Not where another story preempts.
ELSEWHERE = {"time": "1m", "margin": "40s", "grace": "10s", "extra_args": ["--exclude=n2"]}
LOGGER = Path(__file__).with_name("signal_logger.py")
CGROUP, LINUXPROC = "n1", "n3"
NAMES = ("supervisor", "child", "grandchild")
CANNOT = "Requested operation is presently disabled"


@pytest.fixture(scope="module")
def no_requeue(make_cluster) -> DevCluster:
    return make_cluster("no-requeue")


@pytest.fixture(scope="module")
def telling(make_cluster) -> DevCluster:
    """The variant with preempt_send_user_signal."""
    return make_cluster("user-signal")


# -- S21: JobRequeue=0


@story
def test_where_the_site_requeues_nothing_our_jobs_are_requeued(no_requeue):
    shown = no_requeue.run_as_root("scontrol", "show", "config")
    assert "JobRequeue              = 0" in shown
    project = make_project(no_requeue, "s21", 60, launch=ELSEWHERE)
    project.run_sweep()
    project.check()
    (trial,) = project.trials()
    assert project.ends(trial) == [DEADLINE, COMPLETED]
    assert project.restarts() == [0, 1]


@story
def test_where_the_site_requeues_nothing_a_preempted_job_is_requeued(no_requeue):
    with alone_on(no_requeue, "n2") as node:
        launch = {"extra_args": [f"--nodelist={node}"], "partition": "low"}
        project = make_project(no_requeue, "s21-preempted", 40, launch=launch)
        project.run_sweep()
        trial = project.wait_for_steps(12)
        wait_for_end(no_requeue, preempt(no_requeue, node))
        wait_for_attempt(project, trial, 2)
        project.check()
        assert project.ends(trial) == ["interrupted preempted", COMPLETED]
        assert n_lost(project, trial) == 0


@story
def test_where_a_requeue_is_denied_the_record_says_so_and_resume_goes_on(no_requeue):
    project = make_project(no_requeue, "s21-denied", 60, launch=ELSEWHERE)
    project.run_sweep()
    trial = project.wait_for_steps(2)
    no_requeue.run_as_root("scontrol", "update", f"jobid={job_of(project, trial)}", "requeue=0")
    project.wait_for_jobs()
    assert project.ends(trial) == [DEADLINE]
    assert states(project) == [DEADLINE]
    assert CANNOT in project.sweep.trial(trial).attempts()[-1].facts().end["message"]
    assert CANNOT in project.run("status", "count").out
    project.run("resume", "count")
    project.check()
    assert project.ends(trial) == [DEADLINE, COMPLETED]
    assert len(project.sweep.submissions()) == 2
    assert n_lost(project, trial) == 0


# -- S23: suspended


@story
def test_a_suspended_trial_goes_on_where_it_was(cluster):
    suspend_for_two_minutes(cluster, CGROUP)


@story
def test_a_suspended_trial_goes_on_where_it_was_without_cgroups(cluster):
    suspend_for_two_minutes(cluster, LINUXPROC)


def suspend_for_two_minutes(cluster: DevCluster, node: str) -> None:
    """Longer than the trial may be silent, and than its job has left: none of it counts."""
    launch = {"time": "2m", "margin": "30s", "hang_timeout": "45s", "partition": "high"}
    project = make_project(cluster, f"s23-{node}", 120, launch={**launch, "extra_args": [f"--nodelist={node}"]})
    project.run_sweep()
    trial = project.wait_for_steps(4)
    job = job_of(project, trial)
    cluster.run_as_root("scontrol", "suspend", job)
    cluster.wait_for_state(job, "SUSPENDED")
    pause(60)
    n_steps = len(
        project.history(trial)
    )  # SIGTSTP does nothing to a session without a terminal; SIGSTOP came 2 s later
    assert states(project)[0].startswith("running")  # on another host it would add that it is suspended
    assert "nothing to do" in project.run_sweep().out
    pause(60)
    assert len(project.history(trial)) == n_steps
    cluster.run_as_root("scontrol", "resume", job)
    project.check()
    assert project.ends(trial) == [COMPLETED]
    assert project.restarts() == [0]


@story
def test_cancelled_while_it_is_suspended(cluster):
    project = make_project(cluster, "s23-cancelled", 400, launch={"extra_args": ["--nodelist=n2"]})
    project.run_sweep()
    trial = project.wait_for_steps(4)
    job = job_of(project, trial)
    cluster.run_as_root("scontrol", "suspend", job)
    cluster.wait_for_state(job, "SUSPENDED")
    pause(15)
    scancel(project, trial)
    stays_gone(project)
    assert states(project) == [CANCELLED]
    check_not_resumed(project)


# -- S25: who gets which signal


class Logged:
    """A job of three processes, and the signals that each of them has got."""

    def __init__(self, cluster: DevCluster, node: str, *options: str) -> None:
        self.cluster, self.node = cluster, node
        program, python = cluster.home / LOGGER.name, cluster.user_python()
        if not program.exists():
            shutil.copy(LOGGER, program)
            program.chmod(0o644)
        self.job = cluster.submit(
            f"trap '' USR1 TERM; exec {python} {program} {cluster.home}/$SLURM_JOB_ID.signals {' '.join(NAMES)}",
            f"--nodelist={node}",
            "--no-requeue",
            *options,
        )
        self.file = cluster.home / f"{self.job}.signals"
        wait_until(lambda: self.lines().count("READY") == 3, "three processes that listen", 60)

    def lines(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []

    def wait_for(self, word: str, timeout: float = 150) -> dict[str, set[str]]:
        """The signals of each process, once the supervisor has got this one and the others had a second for theirs."""
        wait_until(
            now_and_then(lambda: f"supervisor {word}" in self.file.read_text()), f"{word} at {self.node}", timeout
        )
        pause(1)
        rows = [line.split() for line in self.file.read_text().splitlines()]
        assert not [row for row in rows if "from" in row and row[0] == "supervisor"]
        return {name: {row[1] for row in rows if row[0] == name} - {"READY"} for name in NAMES}

    def end(self) -> None:
        self.cluster.run_as_user(["scancel", self.job])
        wait_for_end(self.cluster, self.job)


NOTHING: set[str] = set()
END, WARNING = {"SIGCONT", "SIGTERM"}, {"SIGCONT", "SIGUSR1"}


def reaches(node: str, signals: set[str]) -> dict[str, set[str]]:
    """What slurmstepd sends to the batch step: under cgroup to its own child only, under linuxproc to the whole tree."""
    below = signals if node == LINUXPROC else NOTHING
    return {"supervisor": signals, "child": below, "grandchild": below}


def only_supervisor(signals: set[str]) -> dict[str, set[str]]:
    return {"supervisor": signals, "child": NOTHING, "grandchild": NOTHING}


@story
def test_signals_of_a_warning_and_of_a_time_limit(cluster):
    for_node = {node: Logged(cluster, node, "--time=1", "--signal=B:USR1@30") for node in (CGROUP, LINUXPROC)}
    for logged in for_node.values():
        assert logged.wait_for("SIGUSR1") == only_supervisor(WARNING)
    for node, logged in for_node.items():
        found = logged.wait_for("SIGTERM")
        assert found["child"] == found["grandchild"] == reaches(node, END)["child"]
        wait_for_end(cluster, logged.job)


@story
def test_signals_of_scancel(cluster):
    for node in ("n2", "n4"):
        same = CGROUP if node == "n2" else LINUXPROC
        logged = Logged(cluster, node)
        cluster.run_as_user(["scancel", "-s", "USR2", logged.job])  # to steps only, and there are none
        cluster.run_as_user(["scancel", "-b", "-s", "USR1", logged.job])
        assert logged.wait_for("SIGUSR1")["child"] == NOTHING
        cluster.run_as_user(["scancel", "-f", "-s", "HUP", logged.job])
        found = logged.wait_for("SIGHUP")
        assert found["supervisor"] - {"SIGCONT"} == {"SIGUSR1", "SIGHUP"}
        assert found["child"] == found["grandchild"] == NOTHING
        cluster.run_as_user(["scancel", logged.job])
        found = logged.wait_for("SIGTERM")
        assert found["child"] == found["grandchild"] == reaches(same, END)["child"]
        wait_for_end(cluster, logged.job)


@story
def test_signals_of_a_preemption(telling):
    """In the grace time with a warning, and without grace: there SIGTERM comes with the warning."""
    for node in (CGROUP, LINUXPROC):
        with alone_on(telling, node):
            logged = Logged(telling, node, "--partition=lowg", "--signal=B:USR1@30")
            high = preempt(telling, node)
            assert logged.wait_for("SIGUSR1") == only_supervisor(WARNING)
            logged.end()
            wait_for_end(telling, high)
            logged = Logged(telling, node, "--partition=low", "--signal=B:USR1@30", "--requeue")
            high = preempt(telling, node)
            found = logged.wait_for("SIGTERM")
            assert found["supervisor"] == WARNING | END
            assert found["child"] == found["grandchild"] == reaches(node, END)["child"]
            wait_for_end(telling, high)
            logged.end()


LISTENS = 'signal.signal(signal.SIGUSR1, lambda *_: (run.dir / "usr1.txt").touch())\n    state = run.resume()'


@story
def test_a_trial_gets_no_warning_signal_of_its_job(cluster):
    """It may use USR1 itself. Its supervisor looks when it gets one, finds that there is time, and goes on."""
    for node in (CGROUP, LINUXPROC):
        project = make_project(cluster, f"s25-{node}", 30, launch={"extra_args": [f"--nodelist={node}"]})
        counter = project.root / "counter.py"
        text = counter.read_text()
        counter.write_text(text.replace("state = run.resume()", LISTENS))
        assert counter.read_text() != text
        project.run_sweep()
        trial = project.wait_for_steps(2)
        cluster.run_as_user(["scancel", "-b", "-s", "USR1", job_of(project, trial)])
        project.check()
        assert project.ends(trial) == [COMPLETED]
        assert not (project.sweep.trial(trial).path / "usr1.txt").exists()


@story
def test_a_command_goes_on_after_a_warning(cluster):
    project = make_command_project(cluster, "s25-command", 30, launch={"extra_args": [f"--nodelist={LINUXPROC}"]})
    project.run_sweep()
    trial = project.wait_for_steps(2)
    cluster.run_as_user(["scancel", "-b", "-s", "USR1", job_of(project, trial)])
    project.check()
    assert project.ends(trial) == [COMPLETED]
