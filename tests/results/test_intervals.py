"""The intervals give the published numbers, and hold the truth as often as they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dlcluster.results.intervals import (
    choose_interval,
    clopper_pearson,
    crossed_interval,
    crossed_summary_interval,
    crossed_t_interval,
    mean_squares,
    t_interval,
    wilson,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text())["cases"]


def golden(statistic):
    cases = [case for case in GOLDEN if case["statistic"] == statistic]
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


def approx(value, case):
    return pytest.approx(value, rel=case["tolerance"].get("rel", 0), abs=case["tolerance"].get("abs", 0))


@golden("wilson")
def test_wilson_golden(case):
    got, want = wilson(**case["inputs"]), case["expected"]
    assert (got.low, got.high) == approx((want["low"], want["high"]), case)


@golden("clopper_pearson")
def test_clopper_pearson_golden(case):
    got, want = clopper_pearson(**case["inputs"]), case["expected"]
    assert (got.low, got.high) == approx((want["low"], want["high"]), case)


@golden("t_interval")
def test_t_interval_golden(case):
    got, want = t_interval(**case["inputs"]), case["expected"]
    n = len(case["inputs"]["x"])
    assert (got.mean, got.low, got.high) == approx((want["mean"], want["low"], want["high"]), case)
    assert got.se * n**0.5 == approx(want["sd"], case)


def crossed_data(inputs):
    if "Y" in inputs:
        return np.array(inputs["Y"])
    rng = np.random.RandomState(inputs["seed"])
    items, seeds = rng.standard_normal(inputs["n"]), rng.standard_normal(inputs["S"])
    noise = rng.standard_normal((inputs["S"], inputs["n"]))
    return (inputs["acc"] + inputs["item_sd"] * items + inputs["seed_sd"] * seeds[:, None] + noise > 0).astype(int)


@golden("crossed")
def test_crossed_golden(case):
    y, want = crossed_data(case["inputs"]), case["expected"]
    got = crossed_interval(y)
    assert (got.mean, got.low, got.high) == approx((want["mean"], want["low"], want["high"]), case)
    if "fallback" in want:
        assert got.method == "clopper-pearson"
        return
    assert y.sum(axis=1).tolist() == want["correct_per_seed"]
    squares = mean_squares(y)
    assert (squares.seed, squares.item, squares.residual) == approx(
        (want["MS_seed"], want["MS_item"], want["MS_resid"]), case
    )
    assert (got.se, got.df) == approx((want["se"], want["df"]), case)
    assert got.mean * (1 - got.mean) / got.se**2 == approx(want["n_eff"], case)
    wald = crossed_t_interval(y)
    assert (wald.low, wald.high) == approx(tuple(want["wald_t"]), case)
    summary, wanted = crossed_summary_interval(y.mean(axis=1), y.shape[1]), want["summary_only"]
    assert (summary.se, summary.df, summary.low, summary.high) == approx(
        (wanted["se"], wanted["df"], wanted["low"], wanted["high"]), case
    )


def test_no_success_is_the_mirror_of_no_error():
    none, all_right = crossed_interval(np.zeros((3, 50))), crossed_interval(np.ones((3, 50)))
    assert (none.low, none.high) == pytest.approx((1 - all_right.high, 1 - all_right.low))
    assert none.low == 0.0
    assert crossed_summary_interval([1.0, 1.0], 50) == crossed_interval(np.ones((2, 50)))


def test_one_seed_is_wilson_and_says_so():
    y = np.array([[1] * 9 + [0]])
    got, want = crossed_interval(y), wilson(9, 10)
    assert (got.low, got.high, got.method) == (want.low, want.high, "wilson")
    assert "1 seed" in got.note
    summary = crossed_summary_interval([0.9], 10)
    assert (summary.low, summary.high) == pytest.approx((want.low, want.high))


@pytest.mark.parametrize("y", [[[1, 0], [0, 1]], [[1], [0]], [[1, 1], [0, 0]], [[1, 1, 1], [1, 1, 1], [0, 0, 0]]])
def test_degenerate_tables_have_a_wide_interval_and_no_nan(y):
    got = crossed_interval(y)
    assert 0 <= got.low < got.mean < got.high <= 1
    assert got.high - got.low > 0.5


def test_equal_values_give_a_degenerate_interval():
    got = t_interval([2.0, 2.0, 2.0])
    assert (got.mean, got.low, got.high) == (2.0, 2.0, 2.0)
    assert crossed_t_interval(np.full((3, 4), 2.0)).high == 2.0


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, np.nan], [1.0, np.inf], [[1.0, 2.0]]])
def test_bad_input_is_refused(bad):
    with pytest.raises(ValueError):
        t_interval(bad)


def test_bad_proportions_and_tables_are_refused():
    for count, nobs in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError):
            wilson(count, nobs)
    with pytest.raises(ValueError):
        crossed_interval([[0.5, 1.0]])
    with pytest.raises(ValueError):
        crossed_summary_interval([1.2, 0.5], 10)


def test_the_data_choose_the_interval():
    y = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    scores = y.mean(axis=1)
    assert choose_interval(scores, y) == crossed_interval(y)
    assert choose_interval(scores, y * 0.5 + 0.1).method == "t"  # items of another metric
    assert choose_interval(scores * 0.5 + 0.1, y * 0.5 + 0.1).method == "crossed-t"
    assert choose_interval(scores, None, 4) == t_interval(scores)
    assert choose_interval(scores[:1], None, 4).method == "wilson"
    assert choose_interval(scores[:1], y[:1]).method == "wilson"
    nothing = choose_interval([3.5])
    assert nothing.method == "none"
    assert np.isnan(nothing.low)
    assert choose_interval([3.5], None, 10).method == "none"  # a loss is no proportion
    assert choose_interval(np.float32(scores), y).method == "crossed"


def contains(interval, value):
    return interval.low <= value <= interval.high


def within_binomial_noise(held, n, low, high, beyond=1e-6):
    """May `held` of `n` come from a coverage between low and high?"""
    return stats.binom.cdf(held, n, low) > beyond and stats.binom.sf(held - 1, n, high) > beyond


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_t_interval_holds_the_truth_95_times_in_100(n):
    rng = np.random.default_rng(n)
    held = sum(contains(t_interval(rng.normal(3.0, 2.0, n)), 3.0) for _ in range(3000))
    assert within_binomial_noise(held, 3000, 0.95, 0.95)


def draw(rng, shift, item_sd, seed_sd, n_seeds, n_items):
    items, seeds = rng.normal(0, item_sd, n_items), rng.normal(0, seed_sd, (n_seeds, 1))
    return (shift + items + seeds + rng.standard_normal((n_seeds, n_items)) > 0).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "item_sd", "seed_sd", "n_seeds", "n_items"),
    [(3.0, 2.5, 0.15, 5, 200), (3.0, 2.5, 0.15, 3, 360), (6.0, 2.5, 0.15, 5, 360), (3.0, 2.5, 0.6, 3, 500)],
)
def test_the_crossed_interval_holds_the_truth(shift, item_sd, seed_sd, n_seeds, n_items):
    truth = float(stats.norm.cdf(shift / np.sqrt(item_sd**2 + seed_sd**2 + 1)))
    rng = np.random.default_rng(1)
    tables = [draw(rng, shift, item_sd, seed_sd, n_seeds, n_items) for _ in range(1500)]
    assert within_binomial_noise(sum(contains(crossed_interval(y), truth) for y in tables), 1500, 0.925, 0.97)
    assert within_binomial_noise(
        sum(contains(crossed_summary_interval(y.mean(axis=1), n_items), truth) for y in tables), 1500, 0.93, 0.995
    )


def test_ignoring_the_items_is_too_narrow():
    """The reason for the crossed interval: t over seeds answers another question."""
    truth = float(stats.norm.cdf(3.0 / np.sqrt(2.5**2 + 0.15**2 + 1)))
    rng = np.random.default_rng(2)
    tables = [draw(rng, 3.0, 2.5, 0.15, 5, 300) for _ in range(400)]
    t_held = sum(contains(t_interval(y.mean(axis=1)), truth) for y in tables)
    crossed_held = sum(contains(crossed_interval(y), truth) for y in tables)
    assert t_held < 0.75 * 400 < crossed_held


def test_the_crossed_t_interval_holds_the_truth_for_scores():
    rng = np.random.default_rng(3)
    tables = [
        rng.normal(0, 1, (1, 100)) + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, 0.5, (4, 100)) for _ in range(1500)
    ]
    assert within_binomial_noise(sum(contains(crossed_t_interval(y), 0.0) for y in tables), 1500, 0.935, 0.97)
