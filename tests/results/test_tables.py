"""The table of configs, and every form in which it is printed."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pandas as pd
import pytest

from dlcluster.errors import UsageError
from dlcluster.results.aggregate import aggregate
from dlcluster.results.intervals import crossed_interval, t_interval, wilson
from dlcluster.results.rendering import csv_text, decimals_for, export_bytes, number, render, score_cell
from dlcluster.results.tables import comparison_table

from .builder import Sweep, state_of

PARAMS = ({"lr": 0.1, "epochs": 5}, {"lr": 0.01, "epochs": 5}, {"lr": 0.001, "epochs": 5}, {"lr": 1e-4, "epochs": 5})
FORMATS = ("terminal", "markdown", "csv", "latex", "json")


def table_of(sweep, **options):
    return comparison_table(aggregate(sweep.dir, state_of), **options)


@pytest.fixture
def sweep(tmp_path):
    """Completed with items; 2 of 3 completed, one diverged, another snapshot; all failed; waiting."""
    sweep = Sweep(tmp_path / "lr", params=PARAMS, space={"lr": {}})
    sweep.items = np.random.default_rng(0).random((3, 100)) < 0.8
    for k in range(3):
        sweep.complete(k, [0.1, float(sweep.items[k].mean())])
        sweep.predictions(k, 2, correct=sweep.items[k])
    sweep.complete(3, [0.90])
    sweep.complete(4, [0.92], snapshot="bbbb")
    for k in (5, 6, 7, 8):
        attempt = sweep.attempt(k)
        attempt.log(1, val_acc=0.99)
        attempt.end("failed", "diverged")
    return sweep


def test_rows_are_ranked_and_nobody_disappears(sweep):
    rows = table_of(sweep).rows
    assert rows["rank"].tolist() == [1, 2, pd.NA, pd.NA]
    assert rows["param.lr"].tolist() == [0.01, 0.1, 0.001, 1e-4]
    assert rows["state"].tolist() == ["2/3 completed, 1 failed (diverged)", "completed", "failed (diverged)", "waiting"]
    assert rows["n_seeds"].tolist() == [2, 3, 0, 0]
    assert rows["n_planned"].tolist() == [3, 3, 3, 3]
    assert rows["mean"].tolist()[:2] == pytest.approx([0.91, sweep.items.mean()])
    assert rows["mean"].isna().tolist() == [False, False, True, True]
    assert rows["marks"].tolist() == ["*~", "", "", ""]
    assert "param.epochs" not in rows


def test_the_intervals_are_those_of_the_data(sweep):
    rows = table_of(sweep).rows
    t, crossed = t_interval([0.90, 0.92]), crossed_interval(sweep.items)
    assert (rows.loc[0, "low"], rows.loc[0, "high"]) == (t.low, t.high)
    assert (rows.loc[1, "low"], rows.loc[1, "high"]) == (crossed.low, crossed.high)
    assert rows["method"].tolist()[:2] == ["t", "crossed"]
    assert rows["n_items"].tolist()[:2] == [pd.NA, 100]
    assert rows.loc[1, "seed_sd"] == pytest.approx(sweep.items.mean(axis=1).std(ddof=1))
    wider = table_of(sweep, alpha=0.01)
    assert wider.rows.loc[1, "low"] < crossed.low
    assert "99 % crossed" in wider.caption


def test_the_caption_says_what_it_is(sweep):
    caption = table_of(sweep).caption
    for text in (
        "lr: 4 configs, 3 seeds, 12 trials (5 completed, 4 failed).",
        "3 of 12 trials not finished.",
        "Failed trials are part of no mean.",
        "mean over seeds of val_acc on validation data (larger is better), at the last logged step.",
        "95 % t interval over 2 seeds, on this validation set (1 row).",
        "95 % crossed seed-by-item interval over 3 seeds and the same 100 validation items (1 row).",
        "best of 2: its score is optimistic",
        "* fewer seeds than planned.",
        "~ mixes code versions aaaa, bbbb.",
    ):
        assert text in caption


def test_at_best_is_called_a_selection_and_minimising_sorts_upwards(tmp_path):
    objective = {"metric": "loss", "goal": "minimize", "at": "best"}
    sweep = Sweep(tmp_path / "lr", objective=objective)
    for k in range(6):
        sweep.complete(k, [0.5 + k / 20, 0.4])
    table = table_of(sweep)
    assert "best logged step of each trial: a selection" in table.caption
    assert "smaller is better" in table.caption
    assert table.rows["mean"].is_monotonic_increasing


def test_one_seed_has_wilson_with_items_and_nothing_without(tmp_path):
    sweep = Sweep(tmp_path / "lr", seeds=(0,))
    sweep.complete(0, [0.9])
    sweep.predictions(0, 1, correct=[1] * 9 + [0])
    sweep.complete(1, [0.5])
    table = table_of(sweep)
    assert (table.rows.loc[0, "low"], table.rows.loc[0, "high"]) == (wilson(9, 10).low, wilson(9, 10).high)
    assert math.isnan(table.rows.loc[1, "low"])
    assert "No interval for one seed without results per item (1 row)." in table.caption
    assert "0.5" in render(table)


def test_items_of_another_metric_are_not_used(tmp_path):
    sweep = Sweep(tmp_path / "lr", objective={"metric": "loss", "goal": "minimize", "at": "last"})
    for k in range(3):
        sweep.complete(k, [0.7 + k / 100])
        sweep.predictions(k, 1, correct=[1, 0, 1])
    assert table_of(sweep).rows.loc[0, "method"] == "t"


def test_items_that_do_not_fit_are_a_warning(tmp_path):
    sweep = Sweep(tmp_path / "lr")
    for k in range(3):
        sweep.complete(k, [0.5])
    sweep.predictions(0, 1, correct=[1, 0])
    table = table_of(sweep)
    assert len(table.warnings) == 1
    assert sweep.trials[1].id in table.warnings[0]
    assert table.warnings[0] in " ".join(render(table, width=300).split())


def test_stopped_trials_rank_only_if_the_spec_says_so(tmp_path):
    for policy, n_ranked in (("stop", 1), ("fail", 0)):
        sweep = Sweep(tmp_path / policy, params=[{"lr": 1}], seeds=(0, 1), on_nonfinite=policy)
        attempt = sweep.attempt(0)
        attempt.log(1, val_acc=0.5, loss=1.0)
        attempt.log(2, val_acc=0.1, loss=math.inf)
        attempt.end("stopped", "diverged")
        pruned = sweep.attempt(1)
        pruned.log(1, val_acc=0.9)
        pruned.end("stopped", "rung 1")
        rows = table_of(sweep).rows
        assert rows.loc[0, "n_seeds"] == n_ranked
        if n_ranked:
            assert rows.loc[0, "mean"] == 0.5  # of the last finite row
            assert rows.loc[0, "marks"] == "*!"


def test_a_table_of_nothing(tmp_path):
    table = table_of(Sweep(tmp_path / "lr"))
    assert "6 of 6 trials not finished" in table.caption
    for form in FORMATS:
        assert "waiting" in render(table, form)


# -- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "decimals"),
    [(0.0123, 3), (0.28, 2), (0.0996, 2), (0.00995, 3), (1.0, 1), (9.96, 0), (123.0, 0), (0.0, None), (math.nan, None)],
)
def test_two_digits_of_the_error_decide(error, decimals):
    assert decimals_for(error) == decimals


def test_cells():
    assert score_cell(0.91368, 0.910225, 0.917135, 0.00124) == "0.9137 [0.9102, 0.9171]"
    assert score_cell(12.3, math.nan, math.nan, math.nan) == "12.3"
    assert score_cell(math.nan, math.nan, math.nan, math.nan) == ""
    assert [number(v) for v in (0.000123456, 128, 128.0, True, None, "a", [1, 2], 1e-5, np.float64(2.5))] == [
        "0.0001235", "128", "128", "true", "", "a", "[1,2]", "1e-05", "2.5"
    ]  # fmt: skip


def test_the_terminal_table_fits_and_is_plain(sweep):
    text = render(table_of(sweep), "terminal", width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    assert "\x1b" not in text
    assert "0.910 [0.783, 1.037]*~" in text
    assert "+-" not in text
    assert "\x1b" in render(table_of(sweep), "terminal", color=True)


def test_csv_has_full_precision_and_the_names_of_the_frame(sweep):
    table = table_of(sweep)
    back = pd.read_csv(io.StringIO(render(table, "csv")))
    assert list(back.columns) == list(table.rows.columns)
    assert back["mean"].tolist()[:2] == table.rows["mean"].tolist()[:2]
    assert back["low"].tolist()[:2] == table.rows["low"].tolist()[:2]
    assert len(back) == 4


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


def test_json_is_strict(sweep):
    value = json.loads(render(table_of(sweep), "json"), parse_constant=refuse)
    assert [row["rank"] for row in value["rows"]] == [1, 2, None, None]
    assert value["rows"][2]["mean"] is None
    assert value["caption"]


def test_hostile_texts_are_harmless(tmp_path):
    texts = [
        "=cmd|' /C calc'!A0",
        "a|b",
        "\x1b[31mred\nnew",
        r"\input{/etc/passwd} 50% _^~&#$",
        "[bold]x[/bold]",
        "<b>",
    ]
    sweep = Sweep(tmp_path / "lr", params=[{"opt": text} for text in texts], seeds=(0,))
    for k in range(len(texts)):
        sweep.complete(k, [-0.5 - k / 10])
    table = table_of(sweep)
    out = {form: render(table, form) for form in FORMATS}
    assert "'=cmd" in out["csv"]
    assert "\x1b" not in out["terminal"]
    assert "\\u001b[31mred\\u000anew" in out["terminal"].replace("\n", "")
    assert "[bold]x[/bold]" in out["terminal"]
    assert "a\\|b" in out["markdown"]
    assert "&lt;b&gt;" in out["markdown"]
    assert r"\input" not in out["latex"]
    assert r"\textbackslash{}input\{/etc/passwd\} 50\% \_\textasciicircum{}\textasciitilde{}\&\#\$" in out["latex"]
    assert all(len(line.split("|")) == len(out["markdown"].splitlines()[0].split("|")) for line in
               out["markdown"].replace("\\|", "").splitlines()[:8] if line)  # fmt: skip


def test_latex_has_booktabs_and_real_minus_signs(tmp_path):
    sweep = Sweep(tmp_path / "lr")
    for k in range(6):
        sweep.complete(k, [-0.5 - k / 10])
    text = render(table_of(sweep), "latex")
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", "$-0.6"):
        assert command in text


def test_a_format_that_does_not_exist(sweep):
    with pytest.raises(UsageError, match="no such format"):
        render(table_of(sweep), "docx")


@pytest.mark.parametrize("what", ["trials", "metrics"])
def test_export_and_back(sweep, tmp_path, what):
    results = aggregate(sweep.dir, state_of)
    frame = getattr(results, what)
    for form, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        (tmp_path / f"x.{form}").write_bytes(export_bytes(results, what, form))
        back = read(tmp_path / f"x.{form}")
        assert list(back.columns) == list(frame.columns)
        assert len(back) == len(frame)
        assert back["metric.val_acc" if what == "trials" else "val_acc"].equals(
            frame["metric.val_acc" if what == "trials" else "val_acc"]
        )
    with pytest.raises(UsageError):
        export_bytes(results, what, "xlsx")


def test_mixed_parameters_can_be_exported(tmp_path):
    params = [{"a": [1], "b": 1}, {"a": "x", "b": None}, {"a": None, "c": True}, {"a": 10**30, "b": 0.5}]
    sweep = Sweep(tmp_path / "lr", params=params, seeds=(0,))
    (tmp_path / "x.parquet").write_bytes(export_bytes(aggregate(sweep.dir, state_of), "trials", "parquet"))
    back = pd.read_parquet(tmp_path / "x.parquet")
    assert back["param.a"].tolist()[:2] == ["[1]", '"x"']


def test_integers_of_any_size_are_written(tmp_path):
    sweep = Sweep(tmp_path / "lr", params=[{"a": 10**30, "b": {"c": [2**64]}}, {"a": 1, "b": None}], seeds=(0,))
    rows = json.loads(render(table_of(sweep), "json"))["rows"]
    assert (rows[0]["param.a"], rows[0]["param.b"], rows[1]["param.a"]) == (str(10**30), {"c": [str(2**64)]}, 1)
    for form in FORMATS:
        assert render(table_of(sweep), form)


def test_numbers_in_csv_are_numbers():
    frame = pd.DataFrame({"x": [-1.5, 0.1 + 0.2], "text": ["-a", "b"]})
    assert csv_text(frame) == "x,text\n-1.5,'-a\n0.30000000000000004,b\n"


def test_a_terminal_shows_the_best_rows_and_counts_the_others(tmp_path):
    sweep = Sweep(tmp_path / "runs" / "many", params=[{"lr": i / 1000} for i in range(1, 211)], seeds=(0,))
    for k in range(209):
        sweep.complete(k, [k / 1000])
    table = table_of(sweep)
    text = render(table, "terminal")
    assert "... and 10 more rows (9 completed, 1 waiting); --format csv has them all" in text
    assert render(table, "csv").count("\n") == 211
