"""Corrections for multiple comparisons, over a family that the caller names; nan entries (nothing tested) do not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from synthmix.statistics.resampling import Array


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p-value times the size of the family, at most 1: bounds the chance of any false claim (family-wise error)."""
    return _adjusted(p_values, lambda p: p * len(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): the same bound as Bonferroni's, and never larger p-values."""
    return _adjusted(p_values, _step_down)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg (1995): bounds the expected share of false claims among the claims instead."""
    return _adjusted(p_values, stats.false_discovery_control)


def _step_down(p_values: Array) -> Array:
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    return steps[np.argsort(order, kind="stable")]


def _adjusted(p_values: Sequence[float], adjust: Callable[[Array], Array]) -> list[float]:
    """Not statsmodels' ``multipletests``, which collects garbage at every call: the tests compare with it."""
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(given), math.nan)
    tested = ~np.isnan(given)
    if tested.any():
        adjusted[tested] = np.minimum(1.0, adjust(given[tested]))
    return [float(p) for p in adjusted]
