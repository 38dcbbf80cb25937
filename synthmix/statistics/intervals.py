"""Levels with their intervals: Wilson's, the hierarchical bootstrap, and that of the calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from synthmix.statistics.moderation import SeedNoise, crossed
from synthmix.statistics.resampling import RESAMPLES, Array, checked, resample

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate, low, high: in the unit of the scores.
        n_items: items a seed (of the smallest seed).
        n_seeds: seeds behind it; with one, the interval says nothing about training runs (see :attr:`method`).
        method: how it was computed, in words.
        error: standard error (of a bootstrap: standard deviation over resamples).
    """

    estimate: float
    low: float
    high: float
    n_items: int
    n_seeds: int
    method: str
    error: float = math.nan

    @property
    def covers_runs(self) -> bool:
        """Whether variation between training runs (seeds) is part of the interval."""
        return self.n_seeds > 1


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927): has its coverage at 0 of n and n of n too.

    >>> interval = wilson(0, 100)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0, 0.037)
    """
    found = stats.binomtest(int(successes), int(n)).proportion_ci(confidence_level=level, method="wilson")
    rate = successes / n
    error = math.sqrt(rate * (1 - rate) / n)
    return Interval(rate, float(found.low), float(found.high), n, 1, "Wilson, items", error)


def hierarchical_bootstrap(
    scores: Sequence[Array], *key: Any, shared_items: bool = True, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Percentile interval of the mean score: seeds are resampled, then items.

    Args:
        scores: one array of item scores a seed.
        key: names the quantity; the resamples are a function of it.
        shared_items: entry i is the same item in every seed.

    With one seed only items are resampled, and the method says so. Where every score is 0, or every score is 1,
    resampling would give an interval of width 0: Wilson's is given instead.

    Raises:
        ValueError: no items.
    """
    rows = checked(scores, shared_items)
    merged = np.concatenate(rows)
    n = min(map(len, rows))
    estimate = float(np.mean([row.mean() for row in rows]))
    if merged.min() == merged.max() and merged[0] in (0.0, 1.0):
        bound = wilson(round(merged[0] * n), n, level)
        return Interval(estimate, bound.low, bound.high, n, len(rows), "Wilson, all items alike", 0.0)
    draws = resample([row[None] for row in rows], key, shared_items, resamples)[:, 0]
    return percentiles(estimate, draws, n, len(rows), level)


def student(
    estimate: float, error: float, freedom: float, n: int, seeds: int, method: str, level: float = LEVEL
) -> Interval:
    """Student's t interval from a standard error and its degrees of freedom."""
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Interval(estimate, estimate - half, estimate + half, n, seeds, method, error)


def mean_interval(
    scores: Sequence[Array],
    *key: Any,
    shared_items: bool = True,
    noise: SeedNoise | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Interval of a mean score in [0, 1]: Student's t with seeds and items random; with one seed, a bootstrap over items.

    With other items in every seed, or scores that are all 0 or all 1, it is that of :func:`hierarchical_bootstrap`.
    """
    rows = checked(scores, shared_items)
    merged = np.concatenate(rows)
    if len(rows) < 2 or not shared_items or len(rows[0]) < 2 or merged.min() == merged.max():
        return hierarchical_bootstrap(rows, *key, shared_items=shared_items, resamples=resamples, level=level)
    table = crossed(np.stack(rows))
    found = student(table.mean, *table.error(noise), len(rows[0]), len(rows), "t, seeds and items random", level)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def ece_interval(
    confidence: Sequence[Array],
    score: Sequence[Array],
    *key: Any,
    bins: int = 10,
    shared_items: bool = True,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mean over seeds of the expected calibration error, bins as in :mod:`synthmix.metrics`.

    An absolute value grows with noise, so the estimate lies above the truth, and resamples lie above the estimate by
    about as much again. The lower end is that of the basic bootstrap (percentiles mirrored at the estimate: the bias
    comes off twice), or 0 where a calibrated model would show as much in more than 2.5 % of resamples; the upper end
    is the percentile moved back by the bias once. In simulations with one seed this holds the truth in 92 to 97 % of
    studies with 300 items or more, a calibrated model's 0 included (88 % at the worst with 64 items; see the tests);
    with three seeds in 99 to 100 %, being wider than it need be (experiments/statistics).
    """
    blocks = [_gaps(c, s, bins) for c, s in zip(confidence, score, strict=True)]
    estimate = float(np.mean([_binned(block.mean(axis=1), bins)[0] for block in blocks]))
    draws, null = resample(blocks, key, shared_items, resamples, lambda means: _binned(means, bins)).T
    items = min(int(block[-1].sum()) for block in blocks)
    found = percentiles(estimate, draws, items, len(blocks), level)
    calibrated = estimate <= np.quantile(null, (1 + level) / 2)
    low = 0.0 if calibrated else min(estimate, max(0.0, 2 * estimate - found.high))
    high = max(estimate, min(1.0, estimate + found.high - float(draws.mean())))
    return replace(found, low=low, high=high, method=f"{found.method}, bias taken off")


def _gaps(confidence: Array, score: Array, bins: int) -> Array:
    """``(2 bins + 1, n)``: score - confidence of item i in the row of its bin; the same with each bin's mean taken off, as
    if the model were calibrated; and whether item i has a confidence. The ECE is :func:`_binned` of the row means."""
    confidence, score = np.asarray(confidence, dtype=np.float64), np.asarray(score, dtype=np.float64)
    known = ~np.isnan(confidence)
    index = np.searchsorted(np.arange(1, bins) / bins, confidence[known], side="right")
    rows = np.zeros((bins, len(confidence)))
    rows[index, np.flatnonzero(known)] = (score - confidence)[known]
    calibrated = (rows - rows.sum(axis=1, keepdims=True) / known.sum()) * known
    return np.concatenate([rows, calibrated, known[None]])


def _binned(means: Array, bins: int) -> Array:
    """From row means ``(..., 2 bins + 1)`` of :func:`_gaps` to the two calibration errors, ``(..., 2)``."""
    sums = np.abs(means[..., :-1]).reshape(*means.shape[:-1], 2, bins).sum(axis=-1)
    return sums / np.maximum(means[..., -1:], 1e-300)


def percentiles(estimate: float, draws: Array, n: int, seeds: int, level: float) -> Interval:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    method = "bootstrap, seeds then items" if seeds > 1 else "bootstrap, items only (one seed)"
    return Interval(estimate, float(low), float(high), n, seeds, method, float(draws.std(ddof=1)))
