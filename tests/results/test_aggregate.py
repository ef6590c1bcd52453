"""Run directories become tables, whatever state they are in."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dlcluster.errors import UsageError
from dlcluster.files import append_json_line, write_bytes
from dlcluster.journal import State, TrialState
from dlcluster.results import reading
from dlcluster.results.aggregate import aggregate
from dlcluster.results.index import index_file

from .builder import Sweep, state_of


def same(left, right):
    pd.testing.assert_frame_equal(left.trials, right.trials)
    pd.testing.assert_frame_equal(left.metrics, right.metrics)
    assert left.warnings == right.warnings


def both_ways(sweep):
    """With the index as it is; and the same must come from the journals alone."""
    results = aggregate(sweep.dir, state_of)
    same(results, aggregate(sweep.dir, state_of, use_index=False))
    return results


@pytest.fixture
def sweep(tmp_path):
    """Two configs x three seeds: three completed, one failed, one running, one waiting."""
    sweep = Sweep(tmp_path / "lr")
    for k in range(3):
        sweep.complete(k, [0.5, 0.6, 0.7 + k / 100])
    failed = sweep.attempt(3)
    failed.log(1, val_acc=0.3, loss=math.nan)
    failed.end("failed", "diverged")
    sweep.running = sweep.attempt(4)
    sweep.running.log(1, val_acc=0.2, loss=1.0)
    return sweep


def test_one_row_a_trial_in_plan_order_and_nobody_is_missing(sweep):
    trials = both_ways(sweep).trials
    assert list(trials["trial"]) == [trial.id for trial in sweep.trials]
    assert list(trials["state"]) == ["completed"] * 3 + ["failed", "running", "waiting"]
    assert list(trials["reason"]) == ["", "", "", "diverged", "", ""]
    assert trials["score"].tolist()[:3] == [0.7, 0.71, 0.72]
    assert list(trials["steps"]) == [3, 3, 3, 1, 1, 0]
    assert list(trials["nonfinite"]) == [False, False, False, True, False, False]
    assert list(trials["param.lr"]) == [0.1] * 3 + [0.01] * 3
    assert trials.loc[0, "seconds"] == 10.0
    assert trials.loc[4, "seconds"] == 1.0  # no end yet: from the first to the last record
    assert list(trials["seed"]) == [0, 1, 2, 0, 1, 2]
    assert trials.loc[3, "metric.val_acc"] == 0.3
    assert math.isnan(trials.loc[3, "metric.loss"])


def test_metrics_have_a_row_a_step(sweep):
    metrics = both_ways(sweep).metrics
    assert list(metrics.columns) == ["sweep", "trial", "attempt", "step", "time", "val_acc", "loss"]
    assert len(metrics) == 3 * 3 + 1 + 1
    assert metrics.loc[2, "val_acc"] == 0.7


def test_an_empty_sweep(tmp_path):
    results = both_ways(Sweep(tmp_path / "lr"))
    assert set(results.trials["state"]) == {"waiting"}
    assert len(results.metrics) == 0
    assert results.warnings == []


def test_attempts_are_one_history(tmp_path):
    sweep = Sweep(tmp_path / "lr")
    first = sweep.attempt(0)
    for step in range(1, 6):
        first.log(step, val_acc=step / 10)
    first.end("interrupted", "deadline")
    second = sweep.attempt(0, 2, snapshot="bbbb")
    second.resume(3)
    second.log(4, val_acc=0.9)
    second.end()
    results = both_ways(sweep)
    assert list(results.metrics["val_acc"]) == [0.1, 0.2, 0.3, 0.9]
    assert list(results.metrics["attempt"]) == [1, 1, 1, 2]
    row = results.trials.iloc[0]
    assert (row["attempts"], row["n_dropped"], row["seconds"], row["snapshot"]) == (2, 2, 30.0, "aaaa+bbbb")
    assert (row["score"], row["score_step"]) == (0.9, 4)


def score(tmp_path, values, **spec):
    sweep = Sweep(tmp_path / "lr", seeds=(0,), **spec)
    sweep.complete(0, values)
    row = both_ways(sweep).trials.iloc[0]
    return (
        None if math.isnan(row["score"]) else row["score"],
        None if row["score_step"] is pd.NA else row["score_step"],
    )


BEST = {"objective": {"metric": "val_acc", "goal": "maximize", "at": "best"}}
LEAST = {"objective": {"metric": "loss", "goal": "minimize", "at": "best"}}


@pytest.mark.parametrize(
    ("values", "spec", "expected"),
    [
        ([0.2, 0.8, 0.5], {}, (0.5, 3)),
        ([0.2, 0.8, 0.5], BEST, (0.8, 2)),
        ([0.25, 0.75, 0.5], LEAST, (0.25, 2)),
        ([0.2, 0.8, math.nan], {}, (None, None)),
        ([0.2, 0.8, math.nan], {"on_nonfinite": "stop"}, (0.8, 2)),
        ([0.2, 0.8, math.nan], BEST, (0.8, 2)),
        ([math.inf, 0.8, -math.inf], BEST, (0.8, 2)),
        ([math.nan], BEST, (None, None)),
    ],
)
def test_the_score_is_never_what_is_not_finite(tmp_path, values, spec, expected):
    assert score(tmp_path, values, **spec) == expected


def test_the_objective_may_be_logged_more_rarely_than_other_metrics(tmp_path):
    sweep = Sweep(tmp_path / "lr", seeds=(0,))
    attempt = sweep.attempt(0)
    attempt.log(1, loss=1.0)
    attempt.log(2, loss=0.9, val_acc=0.5)
    attempt.log(3, loss=0.8)
    attempt.end()
    row = both_ways(sweep).trials.iloc[0]
    assert (row["score"], row["score_step"]) == (0.5, 2)
    assert (row["metric.val_acc"], row["metric.loss"]) == (0.5, 0.8)


def test_an_objective_that_is_never_reported_is_named_with_what_is_there(tmp_path):
    sweep = Sweep(tmp_path / "lr", objective={"metric": "val_loss", "goal": "minimize", "at": "last"})
    sweep.complete(0, [0.5])
    results = both_ways(sweep)
    assert results.warnings == ["metric 'val_loss' not found; seen: loss, val_acc"]
    assert results.trials.loc[0, "state"] == "completed"


def test_a_completed_trial_without_the_objective_is_counted(sweep):
    attempt = sweep.attempt(5)
    attempt.log(1, loss=1.0)
    attempt.end()
    assert both_ways(sweep).warnings == ["1 completed trial without a finite 'val_acc': not ranked"]


def test_conditional_parameters_and_odd_values(tmp_path):
    params = [{"opt": "sgd", "momentum": 0.9, "x": [1, 2]}, {"opt": "adam", "x": None}, {"opt": "=1", "x": 10**30}]
    sweep = Sweep(tmp_path / "lr", params=params, seeds=(0,))
    trials = both_ways(sweep).trials
    assert list(trials["param.momentum"]) == [0.9, None, None]
    assert list(trials["param.x"]) == [[1, 2], None, 10**30]


# -- the index ----------------------------------------------------------------------------------------------------


def test_the_index_is_used_and_completed_trials_are_not_asked_about_again(sweep):
    first = aggregate(sweep.dir, state_of)
    asked = []

    def counting(trial_id, attempts):
        asked.append(attempts[-1].start["trial"] if attempts else None)
        return state_of(trial_id, attempts)

    same(first, aggregate(sweep.dir, counting))
    assert sorted(filter(None, asked)) == sorted([sweep.trials[3].id, sweep.trials[4].id])


def test_what_is_appended_is_seen(sweep):
    before = aggregate(sweep.dir, state_of)
    sweep.running.log(2, val_acc=0.4, loss=0.5)
    sweep.complete(5, [0.1])
    sweep.running.end()
    after = both_ways(sweep)
    assert len(after.metrics) == len(before.metrics) + 2
    assert list(after.trials["state"]) == ["completed"] * 3 + ["failed", "completed", "completed"]


def test_more_trials_and_seeds(sweep):
    aggregate(sweep.dir, state_of)
    bigger = Sweep(sweep.dir.path, params=({"lr": 1.0}, {"lr": 0.1}, {"lr": 0.01}), seeds=(0, 1, 2, 3))
    assert [t.id for t in bigger.trials[4:7]] == [t.id for t in sweep.trials[:3]]
    results = both_ways(bigger)
    assert len(results.trials) == 12


@pytest.mark.parametrize("content", [b"", b"garbage", b"000000000000005\n[1,2]", b"\0" * 4096, b"999999999999999\n{}"])
def test_a_broken_index_is_rebuilt(sweep, content):
    fresh = aggregate(sweep.dir, state_of)
    write_bytes(index_file(sweep.dir), content)
    same(fresh, aggregate(sweep.dir, state_of))
    assert index_file(sweep.dir).stat().st_size > 500


def test_an_index_cut_at_any_place_never_gives_wrong_numbers(sweep):
    fresh = aggregate(sweep.dir, state_of)
    fresh.metrics  # noqa: B018 - loaded before the file is damaged
    whole = index_file(sweep.dir).read_bytes()
    for size in range(0, len(whole), 97):
        write_bytes(index_file(sweep.dir), whole[:size], durable=False)
        same(fresh, aggregate(sweep.dir, state_of))


def test_an_index_for_another_objective_is_not_used(sweep):
    aggregate(sweep.dir, state_of)
    sweep.spec["objective"] = {"metric": "loss", "goal": "minimize", "at": "last"}
    sweep.write_plan()
    assert both_ways(sweep).trials.loc[0, "score"] == pytest.approx(0.3)


def test_deleting_the_index_loses_nothing(sweep):
    first = aggregate(sweep.dir, state_of)
    shutil.rmtree(sweep.dir.results_dir)
    same(first, aggregate(sweep.dir, state_of))


def test_the_index_of_equal_data_is_equal(sweep):
    aggregate(sweep.dir, state_of)
    before = index_file(sweep.dir).read_bytes()
    index_file(sweep.dir).unlink()
    aggregate(sweep.dir, state_of)
    assert index_file(sweep.dir).read_bytes() == before


def test_a_results_folder_that_cannot_be_made_does_not_matter(sweep):
    write_bytes(sweep.dir.results_dir, b"a file where the folder should be")
    assert list(aggregate(sweep.dir, state_of).trials["state"])[:3] == ["completed"] * 3


def test_metrics_asked_for_after_the_index_was_replaced_belong_to_the_trials(sweep):
    aggregate(sweep.dir, state_of)
    old = aggregate(sweep.dir, state_of)
    sweep.running.log(2, val_acc=0.9, loss=0.1)
    index_file(sweep.dir).unlink()
    aggregate(sweep.dir, state_of)
    assert len(old.metrics) == old.trials["steps"].sum()


def test_a_trial_that_vanished_is_not_completed_any_more(sweep):
    aggregate(sweep.dir, state_of)
    shutil.rmtree(sweep.trial_dir(0).path)
    results = aggregate(sweep.dir, state_of)
    assert results.trials.loc[0, "state"] == "waiting"
    assert math.isnan(results.trials.loc[0, "score"])
    assert "1 trial read before and gone now" in results.warnings[0]


def test_a_journal_that_vanished_is_not_completed_any_more(sweep):
    aggregate(sweep.dir, state_of)
    sweep.trial_dir(0).attempt(1).journal.unlink()
    assert both_ways(sweep).trials.loc[0, "state"] == "running"


def test_a_journal_that_shrank_or_was_replaced_is_read_again(sweep):
    aggregate(sweep.dir, state_of)
    journal = sweep.trial_dir(0).attempt(1).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    os.truncate(journal, len(lines[0]) + len(lines[1]))
    assert both_ways(sweep).trials.loc[0, "steps"] == 1
    other = sweep.trial_dir(1).attempt(1).journal
    write_bytes(other, other.read_bytes().replace(b"0.71", b"0.99"))
    assert both_ways(sweep).trials.loc[1, "score"] == 0.99
    running = sweep.trial_dir(4).attempt(1).journal
    write_bytes(running, running.read_bytes().replace(b"0.2", b"0.3"))
    assert both_ways(sweep).trials.loc[4, "score"] == 0.3


def test_an_older_attempt_that_still_writes(tmp_path):
    """A fenced process may append to attempt 1 after attempt 2 has begun."""
    sweep = Sweep(tmp_path / "lr", seeds=(0,))
    first, second = sweep.attempt(0, 1), sweep.attempt(0, 2)
    first.log(1, val_acc=0.1)
    second.log(1, val_acc=0.2)
    aggregate(sweep.dir, state_of)
    first.log(2, val_acc=0.3)
    second.log(3, val_acc=0.4)
    assert both_ways(sweep).trials.loc[0, "n_dropped"] == 2


# -- what does not belong there -----------------------------------------------------------------------------------


def test_foreign_files_links_and_fifos_are_skipped_with_one_warning(sweep):
    trial = sweep.trial_dir(0).path
    write_bytes(sweep.dir.trials_dir / "notes.txt", b"hello")
    os.symlink(trial.parent, trial.parent / "loop")
    os.mkfifo(trial.parent / "pipe")
    write_bytes(trial / "core", b"x")
    write_bytes(trial / "attempts" / "notes", b"x")
    write_bytes(trial.parent / ".scratch", b"x")
    results = both_ways(sweep)
    assert len(results.warnings) == 1
    assert "3 entries of no trial skipped" in results.warnings[0]
    assert list(results.trials["state"])[0] == "completed"


@pytest.mark.parametrize("with_index", [False, True])
@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_journal_that_is_no_file(sweep, kind, with_index):
    if with_index:
        aggregate(sweep.dir, state_of)
    journal = sweep.trial_dir(0).attempt(1).journal
    journal.unlink()
    {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda path: os.symlink(path, path)}[kind](journal)
    results = aggregate(sweep.dir, state_of)
    assert list(results.trials["state"])[:2] == ["unreadable", "completed"]
    assert len(results.warnings) == 1
    assert "1 place not readable" in results.warnings[0]


def test_no_permission(sweep, monkeypatch):
    """Tests may run as root, who may read everything: the refusal is made up."""
    forbidden, real = sweep.trial_dir(0).attempts_dir, os.listdir

    def listdir(path):
        if Path(path) == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    results = aggregate(sweep.dir, state_of)
    assert (results.trials.loc[0, "state"], results.trials.loc[0, "reason"]) == ("unreadable", "Permission denied")
    assert len(results.warnings) == 1


def test_an_error_while_reading_is_the_trial_s_only(sweep, monkeypatch):
    """ESTALE can not be had on a local disk; a second try is made, then the trial is unreadable."""
    bad, real, calls = str(sweep.trial_dir(0).attempt(1).journal), os.open, []

    def stale(path, *args):
        if str(path) == bad:
            calls.append(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, *args)

    monkeypatch.setattr(reading.os, "open", stale)
    results = aggregate(sweep.dir, state_of, use_index=False)
    assert len(calls) == 2
    assert results.trials.loc[0, "reason"] == "Stale file handle"
    assert list(results.trials["state"])[1:3] == ["completed"] * 2


def test_a_sweep_that_is_gone(sweep, monkeypatch):
    def vanish(_trial_id, attempts):
        shutil.rmtree(sweep.dir.path, ignore_errors=True)
        return TrialState(State.WAITING)

    with pytest.raises(UsageError, match="gone"):
        aggregate(sweep.dir, vanish)
    assert not sweep.dir.path.exists()
    with pytest.raises(UsageError, match="no sweep here"):
        aggregate(sweep.dir, state_of)


def test_a_newer_format_is_refused(sweep):
    text = sweep.dir.plan_file.read_bytes().replace(b'"format":1', b'"format":99')
    write_bytes(sweep.dir.plan_file, text)
    with pytest.raises(UsageError, match="newer"):
        aggregate(sweep.dir, state_of)


def test_metrics_of_foreign_types_are_damage(sweep):
    journal = sweep.trial_dir(0).attempt(1).journal
    for value in ("0.5", [0.5], {"x": 1}):
        append_json_line(journal, {"kind": "metrics", "step": 9, "time": 1.0, "metrics": {"val_acc": value}})
    append_json_line(journal, {"kind": "metrics", "step": "9", "time": 1.0, "metrics": {"val_acc": 0.5}})
    append_json_line(journal, {"kind": "end", "time": 1.0, "state": "exploded"})
    append_json_line(journal, {"kind": "something new", "time": 1.0})
    results = both_ways(sweep)
    assert results.has_damage
    assert results.trials.loc[0, "n_bad_lines"] == 5
    assert results.trials.loc[0, "score"] == 0.7
    assert "5 damaged lines skipped in 1 trial, the first in trials/" in results.warnings[0]


def test_a_metric_called_like_a_column(tmp_path):
    sweep = Sweep(tmp_path / "lr", seeds=(0,))
    attempt = sweep.attempt(0)
    attempt.write("metrics", step=1, metrics={"step": 5.0, "time": 6.0, "val_acc": 0.5, "epoch": 3})
    attempt.end()
    results = both_ways(sweep)
    assert list(results.metrics.columns)[5:] == ["metric.step", "metric.time", "val_acc", "epoch"]
    assert results.trials.loc[0, "epochs"] == 3


def test_a_trial_that_is_twice_in_the_plan_has_its_own_metrics(sweep):
    sweep.trials = [*sweep.trials[:2], sweep.trials[0], *sweep.trials[2:]]
    sweep.write_plan()
    results = both_ways(sweep)
    assert len(results.trials) == 7
    counts = results.metrics.groupby("trial", observed=True)["val_acc"].agg(["size", "max"])
    assert counts.loc[sweep.trials[1].id].tolist() == [3, 0.71]
    assert counts.loc[sweep.trials[0].id].tolist() == [3, 0.7]
