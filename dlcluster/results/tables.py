"""The table of configs: who is ahead, by how much, how sure that is, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dlcluster.journal import State
from dlcluster.results.aggregate import Results
from dlcluster.results.intervals import ALPHA, Interval, choose_interval, interval_sentence
from dlcluster.results.predictions import aligned_items
from dlcluster.results.rendering import Table, render
from dlcluster.results.series import Objective
from dlcluster.run_dir import Plan, SweepDir
from dlcluster.trial import Trial

__all__ = ["Table", "comparison_table", "render"]

FEWER_SEEDS, MIXED_CODE, NONFINITE = "*", "~", "!"
NEEDED = (
    "trial", "config", "role", "state", "reason", "attempts", "score", "score_step", "epochs", "seconds", "snapshot",
    "counts",
)  # fmt: skip
ENDED = tuple(state.value for state in (State.COMPLETED, State.STOPPED, State.FAILED, State.CANCELLED))


def comparison_table(results: Results, alpha: float = ALPHA) -> Table:
    """One row a config, the best first; configs that can not be ranked are below, with their state."""
    sweep, plan = results.sweep, results.plan
    objective, trials = Objective.of(plan.spec), _with_ranks(results.trials, plan)
    known, warnings = {trial.id: trial for trial in plan.trials}, list[str]()
    params = _varying(trials, plan)
    columns: dict[str, list[Any]] = {name: [] for name in _columns(params)}  # not a dict a row: that is four times more
    for (role, config), group in trials[[*NEEDED, *params]].groupby(["role", "config"], sort=False):
        counted = group[group["counts"]]
        interval, n_items, warning = _interval_of(counted, sweep, known, alpha)
        warnings += [warning] if warning else []
        numbers = _numbers(group, counted, interval, n_items)
        row = {"config": config, "role": role, **_values(group, params), **numbers}
        for name, column in columns.items():
            column.append(row.get(name, np.nan))
    rows = _ranked(pd.DataFrame(columns), objective)
    caption = _caption(rows, trials, plan, objective, alpha)
    return Table(sweep.name, objective, rows, params, caption, tuple(warnings), alpha)


def _with_ranks(trials: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """With a column `counts`: the trial has a score that may be compared.

    Completed trials count, and those that were stopped at a non-finite value if the spec says so; trials that were
    stopped early for other reasons have a score at another point of their training, and do not.
    """
    counts = trials["state"] == State.COMPLETED.value
    if plan.spec.get("on_nonfinite") == "stop":
        counts = counts | ((trials["state"] == State.STOPPED.value) & trials["reason"].str.startswith("diverged"))
    return trials.assign(counts=counts & trials["score"].notna())


def _varying(trials: pd.DataFrame, plan: Plan) -> tuple[str, ...]:
    """Parameters with more than one value, those of the search space first."""
    names = [column for column in trials.columns if column.startswith("param.")]
    varying = [name for name in names if len({repr(value) for value in trials[name]}) > 1]
    space = [f"param.{name}" for name in plan.spec.get("space") or {}]
    return tuple(sorted(varying, key=lambda name: space.index(name) if name in space else len(space)))


def _interval_of(
    counted: pd.DataFrame, sweep: SweepDir, known: Mapping[str, Trial], alpha: float
) -> tuple[Interval | None, int | None, str]:
    """The interval of a config, the number of items behind it (None: it is not about items), and a warning."""
    if not len(counted):
        return None, None, ""
    items, warning = aligned_items(sweep, [known[t] for t in counted["trial"]], counted["score_step"].astype(int))
    interval = choose_interval(counted["score"].to_numpy(), items, alpha=alpha)
    n_items = None if items is None or interval.method in ("t", "none") else items.shape[1]
    return interval, n_items, warning


def _columns(params: Sequence[str]) -> list[str]:
    numbers = ["mean", "low", "high", "method", "se", "n_seeds", "n_planned", "seed_sd", "n_items", "epochs", "seconds"]
    return ["config", "role", *params, *numbers, "state", "marks", "snapshot"]


def _values(group: pd.DataFrame, params: Sequence[str]) -> dict[str, Any]:
    return {name: group[name].iloc[0] for name in params}


def _numbers(
    group: pd.DataFrame, counted: pd.DataFrame, interval: Interval | None, n_items: int | None
) -> dict[str, Any]:
    shown = counted if len(counted) else group
    snapshots = sorted({part for text in shown["snapshot"] for part in str(text).split("+") if part})
    return {
        **({key: getattr(interval, key) for key in ("mean", "low", "high", "method", "se")} if interval else {}),
        "n_seeds": len(counted),
        "n_planned": len(group),
        "seed_sd": counted["score"].std(ddof=1) if len(counted) > 1 else np.nan,
        "n_items": n_items,
        "epochs": shown["epochs"].mean(),
        "seconds": shown["seconds"].mean() if shown["attempts"].any() else np.nan,
        "state": _state_of_config(group),
        "marks": _marks(group, counted, snapshots),
        "snapshot": "+".join(snapshots),
    }


def _state_of_config(group: pd.DataFrame) -> str:
    """`completed`, or how many of its trials are in which state, as in `2/3 completed, 1 failed (diverged)`."""
    reasons = [f" ({reason})" if reason else "" for reason in group["reason"]]
    words = Counter(state + reason for state, reason in zip(group["state"], reasons, strict=True))
    if len(words) == 1:
        return next(iter(words))
    done = words.pop(State.COMPLETED.value, 0)
    parts = [f"{done}/{len(group)} completed"] if done else []
    return ", ".join(parts + [f"{count} {word}" for word, count in words.items()])


def _marks(group: pd.DataFrame, counted: pd.DataFrame, snapshots: Sequence[str]) -> str:
    marks = FEWER_SEEDS if 0 < len(counted) < len(group) else ""
    marks += MIXED_CODE if len(snapshots) > 1 else ""
    return marks + (NONFINITE if (counted["state"] == State.STOPPED.value).any() else "")


def _ranked(rows: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    numbers = {name: "float64" for name in ("mean", "low", "high", "se", "seed_sd", "epochs", "seconds")}
    rows = rows.astype({**numbers, "n_items": "Int64"})
    rows = rows.sort_values("mean", ascending=not objective.maximizes, kind="stable", na_position="last")
    n_ranked = int(rows["mean"].notna().sum())
    rank = pd.array([*range(1, n_ranked + 1), *[None] * (len(rows) - n_ranked)], dtype="Int64")
    rows = rows.reset_index(drop=True)
    rows.insert(0, "rank", rank)
    return rows


# -- the caption --------------------------------------------------------------------------------------------------


def _caption(rows: pd.DataFrame, trials: pd.DataFrame, plan: Plan, objective: Objective, alpha: float) -> str:
    sentences = [
        _what_was_tried(rows, trials),
        *_what_is_missing(trials),
        _how_ranked(objective),
        *_how_sure(rows, alpha),
        *_what_marks_mean(rows),
    ]
    return " ".join([f"{plan.spec.get('name') or plan.header.get('name', '')}:", *sentences])


def _what_was_tried(rows: pd.DataFrame, trials: pd.DataFrame) -> str:
    n_seeds = trials["seed"].nunique()
    states = Counter(trials["state"])
    done = [f"{states[word]} {word}" for word in ENDED if states[word]]
    counts = f"{_n(len(rows), 'config')}, {_n(n_seeds, 'seed')}, {_n(len(trials), 'trial')}"
    return f"{counts} ({', '.join(done) or 'none ended'})."


def _what_is_missing(trials: pd.DataFrame) -> list[str]:
    n_unfinished = int((~trials["state"].isin(ENDED)).sum())
    sentences = [f"{n_unfinished} of {_n(len(trials), 'trial')} not finished."] if n_unfinished else []
    n_failed = int((trials["state"] == State.FAILED.value).sum())
    return sentences + (["Failed trials are part of no mean."] if n_failed else [])


def _how_ranked(objective: Objective) -> str:
    direction = "larger" if objective.maximizes else "smaller"
    text = f"Ranked by the mean over seeds of {objective.metric} on validation data ({direction} is better), at the "
    if objective.at == "best":
        return text + "best logged step of each trial: a selection, so the scores are optimistic."
    return text + "last logged step."


def _how_sure(rows: pd.DataFrame, alpha: float) -> list[str]:
    """Which interval over what; the numbers of rows are named where rows differ."""
    ranked = rows[rows["mean"].notna()]
    methods = ranked.groupby("method", sort=False)
    sentences = []
    for method, group in methods:
        text = interval_sentence(str(method), _range(group["n_seeds"]), _range(group["n_items"].dropna()))
        level = "" if method == "none" else f"{100 * (1 - alpha):.4g} % "
        where = f" ({_n(len(group), 'row')})" if len(methods) > 1 else ""
        sentences.append(f"{(level + text)[0].upper()}{(level + text)[1:]}{where}.")
    if len(ranked) > 1:
        sentences.append(f"The first row is the best of {int(rows['rank'].max())}: its score is optimistic.")
    return sentences


def _what_marks_mean(rows: pd.DataFrame) -> list[str]:
    marks = "".join(rows["marks"])
    mixed = rows.loc[rows["marks"].str.contains(MIXED_CODE, regex=False), "snapshot"]
    versions = sorted({part for text in mixed for part in text.split("+")})
    used = sorted({part for text in rows["snapshot"] for part in text.split("+") if part})
    sentences = {
        f"{FEWER_SEEDS} fewer seeds than planned.": FEWER_SEEDS in marks,
        f"{MIXED_CODE} mixes code versions {', '.join(versions)}.": bool(versions),
        f"Rows come from different code versions: {', '.join(used)}.": len(used) > 1 and not versions,
        f"{NONFINITE} stopped at a non-finite value: the last finite row counts.": NONFINITE in marks,
        "Seconds are wall time, the mean over the trials of a row.": True,
    }
    return [sentence for sentence, is_true in sentences.items() if is_true]


def _range(numbers: pd.Series) -> str:
    if not len(numbers):
        return "?"
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _n(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else noun + 's'}"
