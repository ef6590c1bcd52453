"""S29: submitit as the launcher. The same workers, run directories and states as with our own scripts and on this host."""

from __future__ import annotations

import csv
import io
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from dlcluster.launch.submitit_launcher import pickles_dir
from tests.slurm.projects import SlurmProject, give_to_user, make_slurm_project
from tests.support import is_running, pause, wait_until

EXECUTORS = ("local", "slurm", "submitit")
SWEEP = {"space": {"start": [1.0, 2.0], "fault": ["", "raise"]}, "seeds": 2, "fixed": {"steps": 6, "at": 4, "every": 2}}
# Of a journal's row: when, where and by whom. Everything else is the same.
CIRCUMSTANCES = {
    *("time", "seconds", "peak_rss_mb", "first_save_s", "submission", "worker", "job"),
    *("host", "boot", "pid_namespace", "pid", "pid_start"),
}
COLUMNS_OF_TIME = re.compile(r".*(seconds|_s|time|started|ended).*")
SLOW = {"fixed": {"steps": 40, "every": 2, "pause": 0.2}, "space": {"start": [1.0]}}


def make_submitit_project(cluster, name: str, **changes: Any) -> SlurmProject:
    launch = {"executor": "submitit", "parallel": 1, **changes.pop("launch", {})}
    return make_slurm_project(cluster, name, launch=launch, **{**SLOW, **changes})


# -- the same under all executors


@pytest.fixture(scope="module")
def projects(cluster) -> dict[str, SlurmProject]:
    made = {name: make_slurm_project(cluster, f"par-{name}", **SWEEP) for name in EXECUTORS}
    for project in made.values():
        (project.root / ".dlclusterignore").write_text("/cache\n")  # so that the snapshots are the same
    for name in ("slurm", "submitit", "local"):
        made[name].run_sweep("--executor", name)
    for project in made.values():
        project.wait_for_jobs()
    return made


def test_the_same_files_lie_in_the_run_directory(projects):
    trees = {name: normalised_tree(project) for name, project in projects.items()}
    assert trees["submitit"] == trees["slurm"] == trees["local"]
    assert len(trees["local"]) > 8 * 5


def normalised_tree(project: SlurmProject) -> set[str]:
    """All files and folders with their modes; all workers are one. Not those of submissions, and no caches of readers."""
    found = set()
    for path in project.sweep.path.rglob("*"):
        name = path.relative_to(project.sweep.path).as_posix()
        if not name.startswith(("submissions/", "results")):
            found.add(f"{without_chance(name)} {path.stat().st_mode:o}")
    return found


def without_chance(text: str) -> str:
    """Ids of workers, and what makes the names of checkpoints unique."""
    return re.sub(r"(step-\d+\.\d+)-[0-9a-f]{8}", r"\1", re.sub(r"workers/[^/]*", "workers/W", text))


def test_the_same_rows_lie_in_the_journals(projects):
    rows = {name: [journals(project, trial) for trial in project.trials()] for name, project in projects.items()}
    assert rows["submitit"] == rows["slurm"] == rows["local"]


def journals(project: SlurmProject, trial) -> list[Any]:
    return [
        {name: value for name, value in row.items() if name not in CIRCUMSTANCES}
        for attempt in project.sweep.trial(trial).attempts()
        for row in without_place(attempt.read()[0], project.root)
    ]


def without_place(rows: list[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """The message of a trial that failed names a file of the snapshot."""
    return [
        {k: without_chance(v.replace(str(root), "")) if isinstance(v, str) else v for k, v in row.items()}
        for row in rows
    ]


def test_the_same_table_comes_out(projects):
    tables = {name: table(project) for name, project in projects.items()}
    assert tables["submitit"] == tables["slurm"] == tables["local"]
    assert len(tables["local"]) == 4


def table(project: SlurmProject) -> list[dict[str, str]]:
    text = project.run("table", "count", "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(text)))
    return [{k: v for k, v in row.items() if not COLUMNS_OF_TIME.fullmatch(k)} for row in rows]


def test_nothing_of_submitit_is_left_but_its_requests(projects):
    """No result pickle: the worker never comes back to it. And the scripts were accepted as they were meant."""
    (submission,) = projects["submitit"].sweep.submissions()
    names = {re.sub(r"\d+", "N", file.name) for file in pickles_dir(submission, 0).iterdir() if file.name[0] != "."}
    assert names == {"N_N_submitted.pkl", "N_submission.sh"}


# -- the end of its time, preemption, a lost slurmstepd


def test_at_its_deadline_a_job_requeues_itself_and_goes_on(cluster):
    project = make_submitit_project(cluster, "dead", launch={"time": "60s", "margin": "55s"})
    project.run_sweep()
    project.check()
    (trial,) = project.trials()
    ends = project.ends(trial)
    assert ends[0] == "interrupted deadline"
    assert ends[-1] == "completed"


def test_a_preempted_job_saves_and_goes_on(cluster):
    where = {"extra_args": ["--nodelist=n3", "--exclusive"]}
    project = make_submitit_project(cluster, "pre", launch={"partition": "low", **where})
    project.run_sweep()
    project.wait_for_steps(4)
    cluster.submit("true", "-p", "high", "-t", "1", *where["extra_args"])
    project.check()
    (trial,) = project.trials()
    assert project.ends(trial) == ["interrupted preempted", "completed"]


def test_a_warning_signal_reaches_the_supervisor(cluster):
    """`scancel -b` takes the way of --signal=B:: to the batch process, which here is no shell and no submitit."""
    project = make_submitit_project(cluster, "usr1", launch={"partition": "low"})
    project.run_sweep()
    trial = project.wait_for_steps(2)
    (job,) = project.live_jobs()
    cluster.run_as_user(["scancel", "-b", "-s", "USR1", job["id"]])
    pause(1.0)
    cluster.run_as_user(["scancel", "-b", "-s", "USR2", job["id"]])  # at which submitit would checkpoint and requeue
    project.check()
    assert project.ends(trial) == ["completed"]


def test_a_cancelled_job_does_not_come_back(cluster):
    project = make_submitit_project(cluster, "cancel", launch={"partition": "low"})
    project.run_sweep()
    trial = project.wait_for_steps(2)
    project.run("cancel", "count")
    project.check("cancelled by_user")
    assert project.ends(trial) == ["cancelled by_user"]


def test_without_its_slurmstepd_a_worker_ends_at_once(cluster):
    project = make_submitit_project(cluster, "stepd", launch={"partition": "low"})
    project.run_sweep()
    trial = project.wait_for_steps(2)
    start = project.sweep.trial(trial).attempts()[-1].read()[0][0]
    parent = int(Path(f"/proc/{start['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes()
    cluster.run_as_root("kill", "-9", str(parent))
    wait_until(lambda: not is_running(start["pid"]), "the end of the supervisor", 5)
    assert project.ends(trial) == ["interrupted stepd_lost"]
    (job,) = project.live_jobs()
    cluster.run_as_user(["scancel", job["id"]])
    project.wait_for_jobs()


# -- commands that die


# A program at the head of PATH: it does what it was called for, or not even that, and kills those who called it.
KILLER = """\
#!/bin/sh
case "$*" in --test-only*|show*|"-o show"*) exec /usr/bin/{program} "$@" ;; esac
{call}
kill -9 {callers}
"""
MOMENTS = {  # sbatch is called by our process with submitit in it, which is called by the command; scontrol by the command
    "before sbatch has answered": ("sbatch", '/usr/bin/sbatch "$@"', "$(cut -d ' ' -f 4 /proc/$PPID/stat) $PPID"),
    "before the release": ("scontrol", ":", "$PPID"),
    "after the release": ("scontrol", '/usr/bin/scontrol "$@"', "$PPID"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_command_that_was_killed_leaves_jobs_that_the_next_one_releases(cluster, moment):
    """S17: the job is there, named and held; whatever is missing is done by the next command, and nothing twice."""
    project = make_submitit_project(cluster, "killed", **{**SWEEP, "fixed": {"steps": 6, "every": 2}, "seeds": 1})
    program, call, callers = MOMENTS[moment]
    folder = project.root / "bin"
    folder.mkdir()
    (folder / program).write_text(KILLER.format(program=program, call=call, callers=callers))
    (folder / program).chmod(0o755)
    give_to_user(cluster, folder)
    project.env = {"PATH": f"{folder}:{cluster.env['PATH']}"}
    project.run_sweep(code=-signal.SIGKILL)
    project.env = {}
    (submission,) = project.sweep.submissions()
    assert submission.read_job(0) is None
    again = project.run_sweep("--wait")
    assert re.search(r"job \d+ of an interrupted command was found again", again.err + again.out)
    assert len(project.sweep.submissions()) == 1
    project.check()
