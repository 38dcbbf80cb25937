"""References that several files of these tests compare with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm


def _anova(values: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, items and the rest, by statsmodels' two-way analysis of variance."""
    seeds, n = values.shape
    table = pd.DataFrame(
        {
            "y": values.ravel(),
            "seed": np.repeat(range(seeds), n).astype(str),
            "item": np.tile(range(n), seeds).astype(str),
        }
    )
    found = anova_lm(ols("y ~ C(seed) + C(item)", table).fit())
    return tuple(found.mean_sq[["C(seed)", "C(item)", "Residual"]])


@pytest.fixture(scope="session")
def anova() -> Callable[[np.ndarray], tuple[float, float, float]]:
    """statsmodels' mean squares of a table ``(seeds, items)``."""
    return _anova
