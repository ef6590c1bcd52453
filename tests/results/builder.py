"""Builds run directories the way the worker does: through `dlcluster.files`, line by line."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from dlcluster.files import AppendFile, json_line, make_dir, write_bytes, write_json_lines
from dlcluster.journal import State, TrialState
from dlcluster.run_dir import SweepDir, plan_rows
from dlcluster.trial import Trial

T0 = 1_700_000_000.0


def state_of(_trial_id, attempts):
    """A small stand-in for the rule of the launch side."""
    if not attempts:
        return TrialState(State.WAITING)
    end = attempts[-1].end
    return TrialState(State.RUNNING) if end is None else TrialState(State(end["state"]), end.get("reason", ""))


class Sweep:
    """A run directory under construction."""

    def __init__(self, path: Path, params=({"lr": 0.1}, {"lr": 0.01}), seeds=(0, 1, 2), **spec):
        self.dir = SweepDir(path)
        self.spec = {
            "name": path.name,
            "objective": {"metric": "val_acc", "goal": "maximize", "at": "last"},
            "seeds": list(seeds),
            "space": {},
            "fixed": {},
            "job": "jobs.x",
            "on_nonfinite": "fail",
            **spec,
        }
        self.trials = [Trial.of("jobs.x", p, seed, i) for i, p in enumerate(params) for seed in seeds]
        self.write_plan()

    @classmethod
    def opened(cls, path):
        """What another process has built."""
        sweep = cls.__new__(cls)
        sweep.dir = SweepDir(path)
        plan = sweep.dir.read_plan()
        sweep.spec, sweep.trials = dict(plan.spec), list(plan.trials)
        return sweep

    def write_plan(self):
        make_dir(self.dir.path)
        header = {
            "name": self.spec["name"],
            "fingerprint": "f",
            "spec": self.spec,
            "project_root": "/p",
            "version": "0",
        }
        write_json_lines(self.dir.plan_file, plan_rows(header, self.trials))

    def trial_dir(self, k):
        return self.dir.trial(self.trials[k])

    def attempt(self, k, number=1, snapshot="aaaa"):
        return Attempt(self.trials[k], self.trial_dir(k).attempt(number), snapshot)

    def complete(self, k, values, number=1, **more):
        """A trial that logged `val_acc` for steps 1, 2, ... and ended well."""
        attempt = self.attempt(k, number, **more)
        for step, value in enumerate(values, 1):
            attempt.log(step, val_acc=value, loss=1 - value)
        attempt.end()
        return attempt

    def predictions(self, k, step, correct=None, scores=None, ids=None):
        values = correct if correct is not None else scores
        ids = np.arange(len(values)) if ids is None else ids
        arrays = {"correct": np.array(correct, bool)} if correct is not None else {"scores": np.float32(scores)}
        buffer = io.BytesIO()
        np.savez(buffer, ids=np.asarray(ids), **arrays)
        file = self.trial_dir(k).predictions_file("validation", step)
        make_dir(file.parent)
        write_bytes(file, buffer.getvalue(), durable=False)


class Attempt:
    def __init__(self, trial, attempt_dir, snapshot="aaaa"):
        make_dir(attempt_dir.path)
        self.dir, self.number, self.clock = attempt_dir, attempt_dir.number, T0 + 1000 * attempt_dir.number
        self.file = AppendFile(attempt_dir.journal)
        self.write("start", trial=trial.id, config=trial.config, seed=trial.seed, params=dict(trial.params),
                   attempt=self.number, worker="w1", host="h", boot="b", pid=1, pid_start=1, submission="s",
                   snapshot=snapshot)  # fmt: skip

    def write(self, kind, **fields):
        self.clock += 1
        self.file.write_row({"kind": kind, "time": self.clock, **fields})

    def raw(self, data: bytes):
        self.file.write(data)

    def log(self, step, **metrics):
        row = {"step": step, "metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()}}
        bad = {k: repr(float(v)) for k, v in metrics.items() if not math.isfinite(v)}
        self.write("metrics", **row, **({"nonfinite": bad} if bad else {}))

    def resume(self, step):
        self.write("resume", step=step, file=f"step-{step:08d}.pt")

    def end(self, state="completed", reason="", **more):
        self.write("end", state=state, reason=reason, message="", exit=0, peak_rss_mb=1.0,
                   **{"seconds": 10.0 * self.number, **more})  # fmt: skip
        self.file.close()


def line(**fields):
    return json_line(fields)
