"""Corrections for multiple comparisons, over a family that the caller names."""

from __future__ import annotations

import math
from collections.abc import Sequence


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Each p-value times the size of the family, at most 1; nan entries (nothing tested) do not count."""
    family = sum(not math.isnan(p) for p in p_values)
    return [min(1.0, p * family) if not math.isnan(p) else math.nan for p in p_values]
