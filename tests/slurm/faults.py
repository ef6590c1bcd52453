"""What is done to running jobs, and what became of their trials."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dlcluster.trial import Trial
from tests.slurm.cluster import DevCluster
from tests.slurm.projects import PATIENCE_S, SlurmProject, give_to_user, make_slurm_project
from tests.support import history_of, pause, wait_until

FINAL_WORDS = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED"}
QUIET_S = 15.0  # a job that was requeued by mistake runs again after 6 to 11 s

# A training program that knows nothing of dlcluster: it keeps a checkpoint of its own, also when it is asked to stop.
PROGRAM = """\
import json, os, signal, sys, time

start, steps, every, pause, file = (kind(word) for kind, word in zip((float, int, int, float, str), sys.argv[1:]))
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
step = json.load(open(file))["step"] if os.path.exists(file) else 0
while step < steps:
    step += 1
    time.sleep(pause)
    print(f"step={step} loss={start / step!r}", flush=True)
    if step % every == 0 or asked:
        json.dump({"step": step}, open(file + ".new", "w"))
        os.replace(file + ".new", file)
    if asked:
        sys.exit(143)
"""
COMMAND = ["python", "train.py", "{start}", "{steps}", "{every}", "{pause}", "{trial_dir}/program.json"]


def now_and_then(condition: Callable[[], Any], seconds: float = 0.3) -> Callable[[], Any]:
    """For `wait_until` with a question to Slurm: many tests ask at once, and squeue is a program."""
    return lambda: condition() or pause(seconds)


def make_project(cluster: DevCluster, name: str, steps: int, **changes: Any) -> SlurmProject:
    """One trial in one job, with a step of half a second."""
    fixed = {"steps": steps, "every": 10, "pause": 0.5, **changes.pop("fixed", {})}
    launch = {"parallel": 1, **changes.pop("launch", {})}
    return make_slurm_project(cluster, name, **{"space": {"start": [1.0]}, **changes}, fixed=fixed, launch=launch)


def make_command_project(cluster: DevCluster, name: str, steps: int, **changes: Any) -> SlurmProject:
    project = make_project(cluster, name, steps, job=None, command=COMMAND, **changes)
    (project.root / "train.py").write_text(PROGRAM)
    give_to_user(cluster, project.root)
    return project


def save_slowly(project: SlurmProject, seconds: float) -> None:
    """The trial shall need so long to save when it is asked to stop; `slow-save` in its log says that it has begun.

    For one that saves at no other time.
    """
    counter = project.root / "counter.py"
    asked = "if run.should_stop() and not deaf:\n"
    text = counter.read_text()
    assert asked in text
    counter.write_text(text.replace(asked, f'{asked}{" " * 12}print("slow-save", flush=True); time.sleep({seconds})\n'))


def hang_once(project: SlurmProject, step: int) -> None:
    """The first attempt shall come to a stop before this step, and hear neither a request nor SIGTERM."""
    counter = project.root / "counter.py"
    text, place = counter.read_text(), "        if fault and step == at:\n"
    assert place in text
    hang = f"""        if run.attempt == 1 and step == {step}:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
"""
    counter.write_text(text.replace(place, hang + place))


def wait_for_saving(project: SlurmProject, trial: Trial, timeout: float = PATIENCE_S) -> None:
    log = project.sweep.trial(trial).attempts()[-1].log
    wait_until(lambda: "slow-save" in log.read_text(), "a trial that saves", timeout)


def job_of(project: SlurmProject, trial: Trial) -> str:
    """The job of the newest attempt, as scontrol and scancel want it: 12, or 12_3 of an array."""
    job = project.sweep.trial(trial).attempts()[-1].facts().start["job"]
    return f"{job['id']}" if job["array"] is None else f"{job['array']}_{job['index']}"


def scancel(project: SlurmProject, trial: Trial) -> None:
    """As its user does it, past dlcluster."""
    project.cluster.run_as_user(["scancel", job_of(project, trial)])


def n_lost(project: SlurmProject, trial: Trial) -> int:
    """Steps that had to be done again."""
    return history_of(project.sweep.trial(trial)).n_dropped


def states(project: SlurmProject) -> list[str]:
    """Of all trials, as `dlcluster status` has it: `cancelled by_user`."""
    return [f"{t['state']} {t['reason']}".strip() for t in project.status()["trials"]]


def wait_for_attempt(project: SlurmProject, trial: Trial, number: int, n_more_steps: int = 1) -> None:
    """Until this attempt runs and has logged some steps."""

    def has_begun() -> bool:
        attempt = project.sweep.trial(trial).attempt(number)
        return attempt.path.exists() and sum(row["kind"] == "metrics" for row in attempt.read()[0]) >= n_more_steps

    wait_until(has_begun, f"attempt {number} of {project.root.name}", PATIENCE_S)


def preempt(cluster: DevCluster, node: str, seconds: float = 0) -> str:
    """A more important job that wants the whole node, and is there for so long. Returns its id."""
    script = f"exec sleep {seconds}"
    return cluster.submit(script, "--partition=high", f"--nodelist={node}", "--cpus-per-task=8")


def wait_for_end(cluster: DevCluster, job: str) -> None:
    wait_until(now_and_then(lambda: cluster.jobs().get(job) in FINAL_WORDS), f"the end of job {job}", PATIENCE_S)


def stays_gone(project: SlurmProject, seconds: float = QUIET_S) -> None:
    """A cancelled job must not come back: nothing of the project is in the queue, now and for a while."""
    project.wait_for_jobs()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert project.live_jobs() == []
        pause(0.5)


def check_not_resumed(project: SlurmProject) -> None:
    """What its user has cancelled is run again by `resume --failed` alone."""
    n = len(project.sweep.submissions())
    for command in (["sweep", "sweep.yaml"], ["resume", "count"]):
        assert "nothing is missing" in project.run(*command).out
    assert len(project.sweep.submissions()) == n
