"""Sweeps on disk whose trials never run: what the rooms around the scheduler need, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlcluster.journal import State, TrialState
from dlcluster.launch.coverage import job_name
from dlcluster.launch.jobs import make_order, place_order
from dlcluster.launch.sbatch import SlurmExecutor, Submitted
from dlcluster.launch.status import read_statuses
from dlcluster.launch.top_up import write_plan
from dlcluster.liveness import identity
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.spec.launch_section import Launch
from dlcluster.trial import Trial

ELSEWHERE = {"host": "elsewhere", "boot": "another", "pid_namespace": "another", "pid": 7, "pid_start": 7}


@dataclass
class Made:
    """A sweep and the ids of its trials."""

    sweep: SweepDir
    ids: list[str]

    @property
    def plan(self) -> Plan:
        return self.sweep.read_plan()

    def executor(self, n_trials: int | None = None, first: int = 1, **launch: Any) -> SlurmExecutor:
        """A submission of the first trials, on disk, with which nothing has been done yet. Its pauses take no time."""
        settings = Launch(**{"executor": "slurm", "trials_per_job": 1, **launch}).model_dump()
        wanted = [(trial_id, first) for trial_id in self.ids[:n_trials]]
        order = make_order(self.sweep, settings, len(wanted), 120.0, shared=False)
        submission, _scripts = place_order(order, wanted, {}, None, checked=True)
        return replace(order.executor(submission), wait=lambda _seconds: None)

    def submit(self, n_trials: int | None = None, first: int = 1, **launch: Any) -> Submitted:
        return self.executor(n_trials, first, **launch).submit()

    def change_intent(self, number: int = -1, **changes: Any) -> None:
        file = self.sweep.submissions()[number].intent
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def forget_submitter(self, host: dict[str, Any] | None = None) -> None:
        """The command that submitted has died (or ran on another host)."""
        self.change_intent(submitter=host or {**identity(os.getpid()), "pid_start": 1})

    def lose_job(self, batch: int = 0) -> None:
        """It died before it could note the job."""
        self.sweep.submissions()[-1].job_file(batch).unlink()

    def name(self, batch: int = 0, number: int = -1) -> str:
        return job_name(self.sweep.name, self.sweep.submissions()[number].path.name, batch)

    def jobs_on_record(self) -> list[Any]:
        folder = self.sweep.submissions()[-1]
        n_batches = len((folder.read_intent() or {}).get("batches", ()))
        return [(folder.read_job(k) or {"job_id": "open"})["job_id"] for k in range(n_batches)]

    def begin(self, k: int, *rows: dict[str, Any], attempt: int = 1, element: int | None = None, life: int = 0) -> None:
        """The journal of an attempt that a worker on another host has begun in its job, and perhaps ended."""
        submission = self.sweep.submissions()[-1].path.name
        worker = f"{submission}-{k if element is None else element:04d}" + (f"r{life}" if life else "")
        start = {"kind": "start", "time": 1.0, "submission": submission, "worker": worker, **ELSEWHERE}
        folder = self.sweep.trial(self.plan.by_id(self.ids[k])).attempt(attempt)
        folder.path.mkdir(parents=True)
        lines = [{**start, "job": {"id": 101, "array": 101, "index": k, "restarts": life}}, *rows]
        folder.journal.write_text("".join(json.dumps(row) + "\n" for row in lines))

    def states(self, max_age_s: float = 0.0) -> list[TrialState]:
        return [status.state for status in read_statuses(self.sweep, self.plan, max_age_s=max_age_s)]

    def texts(self, max_age_s: float = 0.0) -> list[str]:
        return [str(state) for state in self.states(max_age_s)]


def end_row(state: State = State.COMPLETED, reason: str = "") -> dict[str, Any]:
    return {"kind": "end", "time": 2.0, "state": state.value, "reason": reason, "seconds": 1.0}


def make_sweep(folder: Path, n_trials: int = 3, name: str = "t") -> Made:
    ids = [f"{k:012x}" for k in range(1, n_trials + 1)]
    trials = [Trial(id=trial_id, config=trial_id, index=k, seed=0, params={}) for k, trial_id in enumerate(ids)]
    spec = {"launch": Launch(executor="slurm").model_dump(), "objective": {"metric": "loss", "goal": "minimize"}}
    sweep = SweepDir(folder / name)
    write_plan(sweep, Plan({"name": name, "identity": {}, "spec": spec}, tuple(trials)), "")
    return Made(sweep, ids)


def covered_by(made: Made, live: Sequence[tuple[str, int]]) -> dict[str, int]:
    """How many of the live elements of jobs (name, index) would run each trial."""
    n_jobs = dict.fromkeys(made.ids, 0)
    for folder in made.sweep.submissions():
        intent = folder.read_intent() or {"batches": []}
        for batch, (first, _size) in enumerate(intent["batches"]):
            for name, index in live:
                if name == job_name(made.sweep.name, intent["id"], batch):
                    n, place = intent["trials_per_job"], first + index
                    mine = intent["trials"] if n == "pull" else intent["trials"][place * n : (place + 1) * n]
                    for trial_id, _first in mine:
                        n_jobs[trial_id] += 1
    return n_jobs
