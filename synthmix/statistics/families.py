"""Corrections for multiple comparisons, over a family that the caller names; nan entries (nothing tested) do not count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from statsmodels.stats.multitest import multipletests


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p-value times the size of the family, at most 1: bounds the chance of any false claim (family-wise error)."""
    return _adjusted(p_values, "bonferroni")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): the same bound as Bonferroni's, and never larger p-values."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg (1995): bounds the expected share of false claims among the claims instead."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: Sequence[float], method: str) -> list[float]:
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(given), math.nan)
    tested = ~np.isnan(given)
    if tested.any():
        adjusted[tested] = multipletests(given[tested], method=method)[1]
    return adjusted.tolist()
