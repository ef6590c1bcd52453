"""Confidence intervals as plain functions on arrays. Nothing here reads a file or knows what a sweep is.

Which one answers which question:
    wilson, clopper_pearson     one trained model on n items: another n items of the same kind
    t_interval                  S seeds: another seed on this very validation set
    crossed_interval            S seeds on the same n items: another seed AND other items
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

ALPHA = 0.05
OBJECTIVE_TOLERANCE = 1e-4  # relative; metrics are often computed in single precision


@dataclass(frozen=True)
class Interval:
    """A mean with its 1 - alpha interval, both in the units of the data.

    `df` is infinite where a normal quantile is used; without an interval (`method` "none") the bounds are NaN.
    """

    mean: float
    low: float
    high: float
    se: float
    df: float
    method: str
    note: str = ""


@dataclass(frozen=True)
class MeanSquares:
    """Two-way analysis of variance of an (S seeds, n items) array with one observation a cell."""

    seed: float
    item: float
    residual: float


def wilson(count: int, nobs: int, alpha: float = ALPHA) -> Interval:
    """Score interval of a proportion (Wilson 1927): the default for one model on `nobs` independent items."""
    return _proportion(count, nobs, alpha, "wilson")


def clopper_pearson(count: int, nobs: int, alpha: float = ALPHA) -> Interval:
    """Exact interval of a proportion (Clopper and Pearson 1934): never covers less than 1 - alpha."""
    return _proportion(count, nobs, alpha, "beta")


def _proportion(count: int, nobs: int, alpha: float, method: str) -> Interval:
    if not 0 <= count <= nobs or nobs < 1:
        raise ValueError(f"a proportion needs 0 <= count <= nobs and nobs >= 1, got {count} of {nobs}")
    low, high = proportion_confint(count, nobs, alpha=alpha, method=method)
    low, high = 0.0 if count == 0 else float(low), 1.0 if count == nobs else float(high)
    mean = count / nobs
    name = {"wilson": "wilson", "beta": "clopper-pearson"}[method]
    return Interval(mean, low, high, sqrt(mean * (1 - mean) / nobs), inf, name)


def t_interval(x: ArrayLike, alpha: float = ALPHA) -> Interval:
    """Student's interval of the mean of (S,) values, S >= 2. Raises ValueError for fewer or for non-finite ones."""
    values = _finite(x, 1)
    n = len(values)
    if n < 2:
        raise ValueError("a t interval needs at least 2 values")
    mean, se = float(values.mean()), float(values.std(ddof=1)) / sqrt(n)
    return _around(mean, se, n - 1, alpha, "t")


def _around(mean: float, se: float, df: float, alpha: float, method: str) -> Interval:
    half = float(stats.t.ppf(1 - alpha / 2, df)) * se
    return Interval(mean, mean - half, mean + half, se, df, method)


def _finite(x: ArrayLike, n_dimensions: int) -> NDArray[np.float64]:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != n_dimensions or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"finite numbers in a {n_dimensions}-dimensional array expected, got shape {values.shape}")
    return values


def mean_squares(y: ArrayLike) -> MeanSquares:
    """Mean squares for seeds, items and their interaction of an (S, n) array, S >= 2 and n >= 2."""
    values = _finite(y, 2)
    n_seeds, n_items = values.shape
    of_seed, of_item, grand = values.mean(axis=1), values.mean(axis=0), values.mean()
    residual = values - of_seed[:, None] - of_item[None, :] + grand
    return MeanSquares(
        n_items * float(of_seed.var(ddof=1)),
        n_seeds * float(of_item.var(ddof=1)),
        float((residual**2).sum()) / ((n_seeds - 1) * (n_items - 1)),
    )


def crossed_variance(y: NDArray[np.float64]) -> tuple[float, float]:
    """Variance of the grand mean over new seeds and new items, and its degrees of freedom (Satterthwaite)."""
    n_seeds, n_items = y.shape
    squares = mean_squares(y)
    total = max(squares.seed + squares.item - squares.residual, squares.item)  # a negative seed component is 0
    parts = (
        squares.seed**2 / (n_seeds - 1)
        + squares.item**2 / (n_items - 1)
        + squares.residual**2 / ((n_seeds - 1) * (n_items - 1))
    )
    df = max(n_seeds - 1, total**2 / parts) if parts else n_seeds - 1
    return total / (n_seeds * n_items), float(df)


def crossed_interval(y: ArrayLike, alpha: float = ALPHA) -> Interval:
    """Interval of the accuracy of a procedure over new seeds and new items, from (S, n) values 0 or 1.

    Crossed random effects; the variance enters Wilson's formula as an effective number of items. Without any error
    (or without any success): Clopper-Pearson on the n items. One seed: Wilson, which knows nothing of seeds.
    """
    values = _finite(y, 2)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("values 0 or 1 expected; `crossed_t_interval` takes any numbers")
    n_seeds, n_items = values.shape
    if n_seeds == 1:
        return replace(wilson(int(values.sum()), n_items, alpha), note="1 seed: no seed variance")
    if values.min() == values.max():
        return _no_variation(values[0, 0], n_items, alpha)
    variance, df = crossed_variance(values) if n_items > 1 else (0.0, 0.0)
    if variance <= 0:  # no variance between items is left to estimate it from: the conservative form
        return crossed_summary_interval(values.mean(axis=1), n_items, alpha)
    return _wilson_with(float(values.mean()), variance, df, alpha, "crossed")


def crossed_summary_interval(accuracies: ArrayLike, n_items: int, alpha: float = ALPHA) -> Interval:
    """The same from (S,) accuracies alone: conservative, because seeds and items can not be told apart."""
    values = _finite(accuracies, 1)
    if values.min() < 0 or values.max() > 1 or n_items < 1:
        raise ValueError("accuracies in [0, 1] and n_items >= 1 expected")
    n_seeds, p = len(values), float(values.mean())
    if p in (0.0, 1.0):
        return _no_variation(p, n_items, alpha)
    of_seeds = float(values.var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    of_items = p * (1 - p) / n_items
    variance = of_seeds + of_items
    parts = of_seeds**2 / max(n_seeds - 1, 1) + of_items**2 / max(n_items - 1, 1)
    df = variance**2 / parts if n_seeds > 1 else inf
    interval = _wilson_with(p, variance, df, alpha, "crossed-summary")
    return replace(interval, note="conservative: no results per item")


def _no_variation(p: float, n_items: int, alpha: float) -> Interval:
    exact = clopper_pearson(n_items if p else 0, n_items, alpha)
    return replace(exact, note="no error seen: exact interval over the items" if p else "no success seen: exact")


def _wilson_with(p: float, variance: float, df: float, alpha: float, method: str) -> Interval:
    """Wilson's formula with an effective number of items for n and a t quantile for z (methods for survey data)."""
    n, q = p * (1 - p) / variance, float(stats.t.ppf(1 - alpha / 2, df))
    centre = (p + q * q / (2 * n)) / (1 + q * q / n)
    half = q * sqrt(p * (1 - p) / n + q * q / (4 * n * n)) / (1 + q * q / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), sqrt(variance), df, method)


def crossed_t_interval(y: ArrayLike, alpha: float = ALPHA) -> Interval:
    """Interval of the mean over new seeds and new items of (S, n) real scores per item: m +- t sqrt(V)."""
    values = _finite(y, 2)
    n_seeds, n_items = values.shape
    if n_seeds == 1:
        return replace(t_interval(values[0], alpha), method="t-items", note="1 seed: no seed variance")
    if n_items == 1:
        return t_interval(values[:, 0], alpha)
    variance, df = crossed_variance(values)
    return _around(float(values.mean()), sqrt(variance), df, alpha, "crossed-t")


def choose_interval(
    values: Sequence[float], items: ArrayLike | None = None, n_items: int | None = None, alpha: float = ALPHA
) -> Interval:
    """The interval that the data allow: crossed with `items`, t over seeds without, Wilson for one seed of n items.

    `values` are the (S,) scores of the seeds; `items` (S, n) are the results per item, the same items for every seed,
    0 or 1 or real scores. Items whose means are not the scores belong to another metric and are left out of account.
    """
    scores = _finite(values, 1)
    matrix = None if items is None else np.asarray(items, dtype=np.float64)
    if matrix is not None and belongs_to(scores, matrix):
        return _from_items(matrix, alpha)
    if len(scores) > 1:
        return t_interval(scores, alpha)
    if n_items and 0 <= scores[0] <= 1:
        return replace(wilson(round(scores[0] * n_items), n_items, alpha), note="1 seed: no seed variance")
    return Interval(float(scores[0]), nan, nan, nan, nan, "none", "1 seed and no results per item: no interval")


def belongs_to(scores: NDArray[np.float64], items: NDArray[np.float64]) -> bool:
    """Is each seed's score the mean of its (S, n) items? Only then do the items say something about the score."""
    return (
        items.ndim == 2
        and items.shape[0] == len(scores)
        and items.shape[1] > 0
        and bool(np.isfinite(items).all())
        and bool(np.allclose(items.mean(axis=1), scores, rtol=OBJECTIVE_TOLERANCE, atol=1e-6))
    )


def _from_items(items: NDArray[np.float64], alpha: float) -> Interval:
    if np.isin(items, (0.0, 1.0)).all():
        return crossed_interval(items, alpha)
    return crossed_t_interval(items, alpha) if items.size > 1 else choose_interval([items[0, 0]], alpha=alpha)


SENTENCES = {
    "crossed": "crossed seed-by-item interval over {seeds} seeds and the same {items} validation items",
    "crossed-t": "crossed seed-by-item t interval over {seeds} seeds and the same {items} validation items",
    "crossed-summary": "conservative seed-and-item interval over {seeds} seeds and {items} validation items",
    "clopper-pearson": "exact (Clopper-Pearson) interval over {items} validation items",
    "t": "t interval over {seeds} seeds, on this validation set",
    "t-items": "t interval over {items} validation items of one seed: it knows nothing of other seeds",
    "wilson": "Wilson interval over {items} validation items of one seed: it knows nothing of other seeds",
    "none": "no interval for one seed without results per item",
}


def interval_sentence(method: str, seeds: str, items: str) -> str:
    """What a caption says about an interval; `seeds` and `items` are numbers or ranges, already written."""
    return SENTENCES[method].format(seeds=seeds, items=items)
