"""Levels with their intervals: Wilson's, the hierarchical bootstrap, and that of the calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

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
    is the percentile moved back by the bias once. In simulations this holds the truth in 92 to 97 % of studies with
    300 items or more, a calibrated model's 0 included (88 % at the worst with 64 items); see the tests.
    """
    blocks = [_gaps(c, s, bins) for c, s in zip(confidence, score, strict=True)]
    estimate = float(np.mean([np.abs(block.mean(axis=1)).sum() for block in blocks]))

    def resampled(rows: Sequence[Array], *name: str) -> Array:
        draws = resample(rows, (*key, *name), shared_items, resamples, lambda m: np.abs(m).sum(-1, keepdims=True))
        return draws[:, 0]

    draws = resampled(blocks)
    found = percentiles(estimate, draws, min(len(c) for c in confidence), len(blocks), level)
    null = resampled([block - block.mean(axis=1, keepdims=True) for block in blocks], "calibrated")
    calibrated = estimate <= np.quantile(null, (1 + level) / 2)
    low = 0.0 if calibrated else min(estimate, max(0.0, 2 * estimate - found.high))
    high = max(estimate, min(1.0, estimate + found.high - float(draws.mean())))
    return replace(found, low=low, high=high, method=f"{found.method}, bias taken off")


def _gaps(confidence: Array, score: Array, bins: int) -> Array:
    """``(bins, n)``: score - confidence of item i in the row of its bin. The ECE is the sum of |row means|."""
    confidence, score = np.asarray(confidence, dtype=np.float64), np.asarray(score, dtype=np.float64)
    index = np.searchsorted(np.arange(1, bins) / bins, confidence, side="right")
    rows = np.zeros((bins, len(confidence)))
    rows[index, np.arange(len(confidence))] = score - confidence
    return rows


def percentiles(estimate: float, draws: Array, n: int, seeds: int, level: float) -> Interval:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    method = "bootstrap, seeds then items" if seeds > 1 else "bootstrap, items only (one seed)"
    return Interval(estimate, float(low), float(high), n, seeds, method, float(draws.std(ddof=1)))
