"""S11, S13, S16, S20, S26, S27: rows that take minutes. Nodes that die, long outages, accounting that hangs, resources."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import DevCluster
from tests.slurm.outages import Outage
from tests.slurm.projects import SlurmProject, make_shims, make_slurm_project, sweep_all
from tests.support import (
    check_files,
    end_of,
    family,
    is_running,
    pause,
    remove_scratch_files,
    summary,
    undisturbed,
    wait_until,
)

pytestmark = pytest.mark.long

ONE = {"space": {"start": [1.0]}, "fixed": {"steps": 30, "every": 2, "pause": 0.2}}
STOPPED_WITHIN_S = 5.0  # a worker looks every second whether a later attempt has begun
NODE_PATIENCE_S = (
    240.0  # SlurmdTimeout is 10 s; a lost node is noticed after about 30 s, its job starts again after 36 s
)


def make_one(cluster: DevCluster, name: str, steps: int = 30, **launch: object) -> SlurmProject:
    fixed = {**ONE["fixed"], "steps": steps}
    return make_slurm_project(cluster, name, **{**ONE, "fixed": fixed, "launch": {"parallel": 1, **launch}})


def kill_supervisor(project: SlurmProject) -> None:
    (supervisor,) = family(project)["supervisor"]
    project.cluster.run_as_root("kill", "-9", str(supervisor))
    wait_until(lambda: not is_running(supervisor), "the end of the supervisor")


# -- S11: a node is lost


@pytest.fixture
def lost_nodes(cluster) -> Iterator[dict[str, tuple[SlurmProject, str]]]:
    """A power cut on one node; on another slurmd is gone, and its jobs run on. Both come back at the end."""
    made = {
        "cut": make_one(cluster, "cut", 400, partition="lp"),
        "beheaded": make_one(cluster, "headless", 400, partition="cg"),
    }
    sweep_all(made.values())
    for project in made.values():
        project.wait_for_steps(10)
    nodes = {name: project.live_jobs()[0]["node"] for name, project in made.items()}
    cluster.stop("node", nodes["cut"])
    cluster.stop("slurmd", nodes["beheaded"], signal="KILL")
    try:
        yield {name: (project, nodes[name]) for name, project in made.items()}
    finally:
        for node in nodes.values():
            cluster.start("slurmd", node)
        cluster.wait_for_nodes()


def test_a_trial_goes_on_elsewhere_when_its_node_is_lost(lost_nodes):
    for project, _node in lost_nodes.values():
        (trial,) = project.trials()
        wait_until(lambda p=project, t=trial: len(p.ends(t)) == 2 or pause(0.2), "the second life", NODE_PATIENCE_S)
    headless, _node = lost_nodes["beheaded"]
    (trial,) = headless.trials()
    (start,) = [row for row in headless.rows(trial, 1) if row["kind"] == "start"]
    wait_until(lambda: not is_running(start["pid"]), "the first worker to find that it is fenced", STOPPED_WITHIN_S)
    first = headless.sweep.trial(trial).attempt(1).path
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in first.iterdir()}
    for project, node in lost_nodes.values():
        assert [row["node"] for row in project.live_jobs()] != [node]
    for project, _node in lost_nodes.values():
        project.wait_for_jobs(timeout=300)
        assert project.ends(project.trials()[0]) == ["", "completed"]
        assert project.restarts() == [0, 1]
        assert summary(project) == undisturbed(project)
    cut, _node = lost_nodes["cut"]
    remove_scratch_files(cut.runs)
    cut.check()
    check_files(headless.sweep.path)
    begin = headless.rows(trial, 2)[0]["time"]
    assert headless.rows(trial, 1)[-1]["time"] < begin + STOPPED_WITHIN_S
    assert before == {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in first.iterdir()}


# -- S13: as in test_outages, for longer


def test_ninety_seconds_without_slurmctld(cluster):
    Outage(cluster, seconds=90.0).happen().check()


# -- S16: accounting that is late, hangs or talks nonsense


@pytest.fixture(scope="module")
def unexplained(cluster) -> SlurmProject:
    """A trial whose job ended without a word: only accounting could say how."""
    project = make_one(cluster, "unexplained")
    project.run_sweep()
    project.wait_for_steps(2)
    kill_supervisor(project)
    project.wait_for_jobs()
    return project


def state_of(project: SlurmProject) -> tuple[str, str]:
    (shown,) = project.status()["trials"]
    return shown["state"], shown["reason"]


def test_sacct_that_hangs_is_waited_for_once(cluster, unexplained):
    project = unexplained
    project.env = {"XDG_CACHE_HOME": str(project.root / "cache-hang")}
    cluster.stop("slurmdbd", signal="STOP")
    try:
        took = []
        for _ in range(2):
            began = time.monotonic()
            assert state_of(project) == ("interrupted", "vanished")
            took.append(time.monotonic() - began)
    finally:
        cluster.start("slurmdbd")
        project.env = {}
    assert 25 < took[0] < 60
    assert took[1] < 15


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("printf ''", ("interrupted", "vanished")),
        ("echo 'Welcome to the cluster!'; echo '|||'; echo 'a|b'", ("interrupted", "vanished")),
        ("head -c 3000 /dev/urandom", ("interrupted", "vanished")),
        ("echo 'sacct: error: something' >&2; exit 1", ("interrupted", "vanished")),
        ('exec /usr/bin/sacct "$@"', ("interrupted", "killed(9)")),
    ],
    ids=["nothing", "banner", "noise", "error", "itself"],
)
def test_nonsense_from_sacct_changes_no_state(unexplained, request, answer, expected):
    project, folder = unexplained, unexplained.root / request.node.callspec.id
    shims = make_shims(project, folder=folder)
    shims.replace("sacct", answer)
    project.env["XDG_CACHE_HOME"] = str(folder / "cache")
    assert state_of(project) == expected
    assert shims.n_calls("sacct") == 1
    project.env = {}


def test_after_all_that_the_trial_goes_on(unexplained):
    unexplained.run_sweep()
    unexplained.wait_for_jobs()
    remove_scratch_files(unexplained.runs)
    unexplained.check()


# -- S20: Slurm has forgotten the jobs, and nobody has asked in time


def test_what_slurm_has_forgotten_is_known_from_the_files(make_cluster):
    cluster = make_cluster("short-memory")
    done, killed = make_one(cluster, "done", 4), make_one(cluster, "killed")
    sweep_all([done, killed])
    killed.wait_for_steps(4)
    kill_supervisor(killed)
    wait_until(lambda: not cluster.jobs() or pause(1.0), "slurmctld to forget all jobs", 300)
    for elsewhere in (False, True):  # from a login node no process can be seen
        (shown,) = status_from(done, elsewhere)
        assert shown["state"] == "completed"
        (shown,) = status_from(killed, elsewhere)
        assert (shown["state"], shown["reason"]) == ("interrupted", "vanished")
    killed.run_sweep("--wait")
    remove_scratch_files(killed.runs)
    for project in (done, killed):
        project.check()


def status_from(project: SlurmProject, elsewhere: bool) -> list[dict[str, object]]:
    return json.loads(project.run("status", "count", "--json", elsewhere=elsewhere).out)["trials"]


# -- S26: the resources of a job


IN_THE_JOB = """(
    os.environ['CUDA_VISIBLE_DEVICES'] in ('0', '1', '2', '3')
    and len(os.sched_getaffinity(0)) >= 2
    and os.environ['OMP_NUM_THREADS'] == '2'
    and 10 * int(os.environ['SLURMD_NODENAME'][1:]) + int(os.environ['CUDA_VISIBLE_DEVICES'])
) or 1 / 0"""


def test_eight_trials_on_four_gpus_never_share_one(cluster):
    launch = {"partition": "cg", "gpus": 1, "cpus": 2, "trials_per_job": 1, "parallel": None}
    fixed = {"steps": 6, "every": 2, "pause": 0.5, "values": " ".join(IN_THE_JOB.split())}
    project = make_slurm_project(
        cluster, "gpus", space={"start": [float(i) for i in range(1, 9)]}, fixed=fixed, launch=launch
    )
    project.run_sweep()
    project.check()
    used = sorted(seat_of(project, trial) for trial in project.trials())
    assert len({seat for seat, _begin, _end in used}) == 4
    for (seat, _begin, end), (next_seat, begin, _end) in zip(used, used[1:], strict=False):
        assert seat != next_seat or end <= begin


def seat_of(project: SlurmProject, trial) -> tuple[float, float, float]:
    """Node and GPU as one number, and when the trial had them."""
    rows = project.rows(trial, 1)
    seats = {row["metrics"]["extra"] for row in rows if row["kind"] == "metrics"}
    times = {row["kind"]: row["time"] for row in rows if row["kind"] in ("start", "end")}
    assert len(seats) == 1
    return seats.pop(), times["start"], times["end"]


# -- S27: politeness


N_SHELLS, WATCH_S = 3, 65.0
ASKED_EVERY_S = 15.0  # by all commands of a user on a host


def test_however_many_look_slurm_is_asked_once_in_fifteen_seconds(cluster):
    """Five hundred jobs that wait, three shells that ask without a pause, and a command that follows them."""
    starts = [float(i) for i in range(1, 501)]
    launch = {"parallel": None, "trials_per_job": 1, "mem": "100M", "extra_args": ["--begin=now+1hour"]}
    project = make_slurm_project(cluster, "polite", space={"start": starts}, launch=launch)
    project.run_sweep()
    shims = make_shims(project, "squeue", "sacct", "scontrol", "sinfo")
    began = time.monotonic()
    loop = f"while [ ! -e stop ]; do {cluster.user_python()} -m dlcluster status count > said.$1 || exit 1; done"
    shells = [
        cluster.start_as_user(["sh", "-c", loop, "sh", n], env=project.environment(), cwd=project.root)
        for n in range(N_SHELLS)
    ]
    follower = project.start("sweep", "sweep.yaml", "--wait", stdout=subprocess.DEVNULL)
    pause(WATCH_S)
    (project.root / "stop").touch()
    assert [end_of(shell).code for shell in shells] == [0] * N_SHELLS
    follower.send_signal(signal.SIGINT)
    assert end_of(follower).code == 130
    n_rounds = (time.monotonic() - began) / ASKED_EVERY_S
    assert "pending: 500 waits for its time" in (project.root / "said.0").read_text()
    assert 2 < shims.n_calls("squeue") <= n_rounds + 2  # and one by `sweep`, which decides and so asks anew
    assert shims.n_calls("sacct") == 0
    assert shims.n_calls("scontrol") <= 1
    project.run("cancel", "count")
    assert project.live_jobs() == []
