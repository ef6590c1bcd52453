"""A submission: the record of what is to be run and all that a worker needs, written before anything starts."""

from __future__ import annotations

import calendar
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlcluster.errors import SubmissionError
from dlcluster.files import make_dir, sync_dir, write_json
from dlcluster.launch.job_plan import JobPlan
from dlcluster.liveness import identity
from dlcluster.run_dir import Plan, SweepDir

# Enough for a checkpoint of two minutes; a trial that shall save within a time limit needs this much of it.
DEFAULT_MARGIN_S = 120.0
ID_TIME = "%Y%m%dT%H%M%S"


def make_rules(plan: Plan, code: Path) -> dict[str, Any]:
    """What a worker has to know about the sweep, from the resolved spec."""
    spec, launch = plan.spec, plan.spec["launch"]
    margin = launch.get("margin")
    return {
        "job": spec.get("job"),
        "command": spec.get("command"),
        "metrics": spec.get("metrics"),
        "objective": spec["objective"]["metric"],
        "on_nonfinite": spec["on_nonfinite"],
        "tensorboard": spec["tensorboard"],
        "share": spec["share"],
        "code": str(code),
        "cwd": str(code / (spec.get("cwd") or ".")),
        "reuse_process": launch["reuse_process"],
        "cpus": launch["cpus"],
        "env": launch["env"],
        "grace": launch["grace"],
        "max_attempts": launch["max_attempts"],
        "time": launch.get("time"),
        "margin": default_margin(launch.get("time")) if margin is None else margin,
        "retry": launch.get("retry", {}),
        "hang_timeout": launch.get("hang_timeout"),
        "canary": launch.get("canary", False),
        "executor": launch.get("executor", "local"),
        "trials_at_once": launch.get("trials_per_gpu", 1),
        "nodes": launch.get("nodes", 1),
        "processes_per_node": launch.get("processes_per_node") or 1,
        "gpus": launch.get("gpus"),
    }


def default_margin(time_s: float | None) -> float:
    """Seconds before the end of a worker's time at which its trial is asked to stop."""
    return DEFAULT_MARGIN_S if time_s is None else min(DEFAULT_MARGIN_S, time_s / 2)


def write_intent(
    sweep: SweepDir,
    wanted: Sequence[tuple[str, int]],
    rules: Mapping[str, Any],
    snapshot: str | None,
    *,
    checked: bool = False,
    jobs: JobPlan | None = None,
    executor: str = "local",
    by_hand: bool = False,
) -> str:
    """Record, durably, what is about to be started. Returns the id of the submission: ids sort by time.

    `jobs` for an executor that hands it to a scheduler; `by_hand`: the user will submit the scripts.
    """
    submission_id = next_submission_id(sweep)
    folder = sweep.submission(submission_id)
    make_shards(sweep, wanted)
    make_dir(folder.path)
    write_json(
        folder.intent,
        {
            "id": submission_id,
            "time": time.time(),
            "python": sys.executable,
            "snapshot": snapshot,
            "checked": checked,
            "trials": [list(entry) for entry in wanted],
            "rules": dict(rules),
            "executor": executor,
            **({} if jobs is None else {"name": sweep.name, **_what_jobs_are(jobs, by_hand)}),
        },
    )
    for parent in (sweep.trials_dir, sweep.submissions_dir, sweep.path, sweep.path.parent):
        sync_dir(parent)  # the names of the folders just made; workers see to what is below
    return submission_id


def _what_jobs_are(jobs: JobPlan, by_hand: bool) -> dict[str, Any]:
    return {
        "trials_per_job": jobs.trials_per_job,
        "batches": [[batch.first, batch.size] for batch in jobs.batches],
        "submitter": identity(os.getpid()),
        "by_hand": by_hand,
    }


def next_submission_id(sweep: SweepDir) -> str:
    """Later than all that are there, also where two follow within a second, or this host's clock is behind."""
    at = max([time.time(), *(_seconds_of(submission.path.name) + 1 for submission in sweep.submissions())])
    return f"{time.strftime(ID_TIME, time.gmtime(at))}-{secrets.token_hex(3)}"


def _seconds_of(submission_id: str) -> float:
    """The time in an id; 0 for a folder that is no submission."""
    try:
        return calendar.timegm(time.strptime(submission_id.partition("-")[0], ID_TIME))
    except ValueError:
        return 0.0


def make_shards(sweep: SweepDir, wanted: Sequence[tuple[str, int]]) -> None:
    """Here and not in the worker: a worker makes no folder whose parent is gone, so a deleted run stays deleted."""
    trials = {trial.id: trial for trial in sweep.read_plan().trials}
    if any(trial_id not in trials for trial_id, _first in wanted):
        raise SubmissionError(f"{sweep.plan_file}: another command has just replaced the plan", "run this one again")
    for shard in sorted({sweep.trial(trials[trial_id]).path.parent for trial_id, _first in wanted}):
        make_dir(shard)
    make_dir(sweep.workers_dir)


def snapshots_that_passed(sweep: SweepDir) -> set[str]:
    """Hashes of code whose job has been imported and checked before an earlier submission."""
    intents = (submission.read_intent() for submission in sweep.submissions())
    return {intent["snapshot"] for intent in intents if intent and intent["snapshot"] and intent.get("checked")}
