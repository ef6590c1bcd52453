"""S17, S19: commands that die while they submit, and a site that lets in fewer jobs than there are to be."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import DevCluster
from tests.slurm.projects import SlurmProject, make_shims, make_slurm_project, sweep_all
from tests.support import end_of, remove_scratch_files, summary, undisturbed

# Runs `dlcluster` until it is about to do a certain thing for the n-th time, and kills it there.
DIE = """\
import os, sys
wanted, text, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
def see(event, arguments):
    global n
    if event == wanted and text in " ".join(map(str, arguments)):
        n -= 1
        if n == 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(see)
from dlcluster.__main__ import main
sys.argv = ["dlcluster", *sys.argv[4:]]
main()
"""
# Slurm has the job, and the command that asked for it is gone before it has heard that.
ACCEPTED = 'case "$*" in --test-only*) exec /usr/bin/sbatch "$@" ;; esac\n/usr/bin/sbatch "$@"\nkill -9 $PPID'
# The command is killed, and its sbatch goes on.
ORPHANED = (
    'case "$*" in --test-only*) exec /usr/bin/sbatch "$@" ;; esac\nkill -9 $PPID\nsleep 6\nexec /usr/bin/sbatch "$@"'
)
# Three trials in an array of two and a job: each moment with the number of jobs that Slurm has then.
MOMENTS = {
    "before the plan": (("os.rename", "plan.jsonl", 1), 0),
    "before the intent": (("os.rename", "intent.json", 1), 0),
    "before the first sbatch": (("subprocess.Popen", "--parsable", 1), 0),
    "before the first is noted": (("os.rename", "job-000.json", 1), 2),
    "before the second sbatch": (("subprocess.Popen", "--parsable", 2), 2),
    "when sbatch has not answered": (ACCEPTED, 2),
    "while sbatch is at it": (ORPHANED, None),
}


FOUND = (
    "before the first is noted",
    "before the second is noted",
    "when sbatch has not answered",
    "while sbatch is at it",
)
N_LET_IN, N_TRIALS = 20, 24


# -- S17


@pytest.fixture(scope="module")
def arrays_of_two(slurm_programs) -> Iterator[DevCluster]:
    with DevCluster("no-accounting", settings=["MaxArraySize=2"]) as cluster:
        yield cluster


def make_dying(cluster: DevCluster, name: str) -> SlurmProject:
    launch = {"parallel": None, "trials_per_job": 1, "mem": "100M"}
    project = make_slurm_project(cluster, name.replace(" ", "-"), space={"start": [1.0, 2.0, 3.0]}, launch=launch)
    (project.root / "die.py").write_text(DIE)
    return project


def start_dying(project: SlurmProject, how: str | tuple[str, str, int]) -> subprocess.Popen[str]:
    if isinstance(how, str):
        make_shims(project).replace("sbatch", how)
        return project.start("sweep", "sweep.yaml")
    python, words = project.cluster.user_python(), (*how, "sweep", "sweep.yaml")
    return project.cluster.start_as_user([python, "die.py", *words], env=project.environment(), cwd=project.root)


def test_a_killed_submission_leaves_exactly_one_job_a_trial(arrays_of_two):
    """All moments at once. What each command was about to do is done by the next, and nothing is done twice."""
    made = {name: make_dying(arrays_of_two, name) for name in MOMENTS}
    processes = {name: start_dying(project, MOMENTS[name][0]) for name, project in made.items()}
    for name, process in processes.items():
        assert end_of(process).code == -signal.SIGKILL, name
    for name, project in made.items():
        project.env = {}
        if (n_jobs := MOMENTS[name][1]) is not None:
            assert len(project.jobs()) == n_jobs, name
    said = dict(zip(made, sweep_all(made.values()), strict=True))
    for name, project in made.items():
        project.wait_for_jobs()
        remove_scratch_files(project.runs)
        project.check()
        assert [project.ends(trial) for trial in project.trials()] == [["completed"]] * 3, name
        assert len(project.jobs()) == 3, name
        n_found = (said[name].err + said[name].out).count("of an interrupted command was found again")
        assert n_found == (name in FOUND), (name, said[name])


# -- S19


@pytest.mark.long
def test_what_a_site_lets_in_is_submitted_and_the_same_command_tops_up(make_cluster):
    cluster = make_cluster("limits")
    starts = [float(i) for i in range(1, N_TRIALS + 1)]
    launch = {"parallel": None, "trials_per_job": 1, "mem": "100M", "extra_args": ["--begin=now+10"]}
    project = make_slurm_project(cluster, "limits", space={"start": starts}, launch=launch)
    first = project.run_sweep(code=5)
    assert f"submitted as {N_LET_IN} job(s)" in first.out + first.err
    assert "4 job(s) were not submitted; the same command goes on with them" in first.err
    assert project.status()["counts"] == {"waiting": 4, "pending": N_LET_IN}
    full = project.run_sweep(code=4)
    assert "Job violates accounting/QOS policy" in full.err
    project.wait_for_jobs()
    project.run_sweep("--wait")
    project.check()
    assert len(project.jobs()) == N_TRIALS
    assert summary(project) == undisturbed(project)
    assert [project.ends(trial) for trial in project.trials()] == [["completed"]] * N_TRIALS
