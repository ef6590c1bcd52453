"""A `Run` without any worker around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlcluster.run_dir import TrialDir
from dlcluster.trial import Trial
from dlcluster.worker.run import Run
from dlcluster.worker.shared_page import SharedPage

RULES = {"objective": "loss", "on_nonfinite": "fail"}


def make_trial(**params: Any) -> Trial:
    return Trial(id="a" * 16, config="b" * 16, index=0, seed=0, params=params)


def make_run(folder: Path, attempt: int = 1, stop: SharedPage | None = None, **rules: Any) -> Run:
    trial_dir = TrialDir(folder / "trial")
    number = trial_dir.attempt(attempt)
    number.path.mkdir(parents=True)
    return Run(make_trial(), number, trial_dir, stop or SharedPage(), {**RULES, **rules})


def rows_of(run: Run, kind: str | None = None) -> list[dict[str, Any]]:
    rows, damage = TrialDir(run.dir).attempt(run.attempt).read()
    assert not damage.n_bad_lines
    return [row for row in rows if kind in (None, row["kind"])]
