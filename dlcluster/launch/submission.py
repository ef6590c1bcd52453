"""A submission: the record of what is to be run and all that a worker needs, written before anything starts."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlcluster.files import make_dir, write_json
from dlcluster.run_dir import Plan, SweepDir

# Enough for a checkpoint of two minutes; a trial that shall save within a time limit needs this much of it.
DEFAULT_MARGIN_S = 120.0


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
        "margin": DEFAULT_MARGIN_S if margin is None else margin,
    }


def write_intent(
    sweep: SweepDir, wanted: Sequence[tuple[str, int]], rules: Mapping[str, Any], snapshot: str | None
) -> str:
    """Record, durably, what is about to be started. Returns the id of the submission: ids sort by time."""
    submission_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    folder = sweep.submission(submission_id)
    make_dir(folder.path)
    make_shards(sweep, wanted)
    write_json(
        folder.intent,
        {
            "id": submission_id,
            "time": time.time(),
            "python": sys.executable,
            "snapshot": snapshot,
            "trials": [list(entry) for entry in wanted],
            "rules": dict(rules),
        },
    )
    return submission_id


def make_shards(sweep: SweepDir, wanted: Sequence[tuple[str, int]]) -> None:
    """Here and not in the worker: a worker makes no folder whose parent is gone, so a deleted run stays deleted."""
    trials = {trial.id: trial for trial in sweep.read_plan().trials}
    for shard in sorted({sweep.trial(trials[trial_id]).path.parent for trial_id, _first in wanted}):
        make_dir(shard)
    make_dir(sweep.workers_dir)


def snapshots_that_passed(sweep: SweepDir) -> set[str]:
    """Hashes of code whose job has been imported and checked before an earlier submission."""
    intents = (submission.read_intent() for submission in sweep.submissions())
    return {intent["snapshot"] for intent in intents if intent and intent["snapshot"]}
