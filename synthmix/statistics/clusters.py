"""Numbers over clusters of dependent observations: resampled by whole clusters, with intervals that few clusters allow.

Observations of one cluster are dependent, so clusters are the sample, whatever the number of rows. The interval is
Student's t, with one degree of freedom less than clusters, on the bootstrap's standard error, whose divisor is set
right for small samples (Hesterberg 2015). In a simulation of forecasts (6 on each cluster) it holds the truth of a
proportion or an AUROC in 92 to 100 % of studies with 3, 6, 10 and 20 clusters; the bootstrap's percentiles do so in 75
to 97 % with 3. Where every resample is alike (no false alarm, say) the bootstrap shows no error at all: a
proportion gets Wilson's interval on the number of clusters, an AUROC Newcombe's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from synthmix import keys
from synthmix.statistics.intervals import Interval
from synthmix.statistics.resampling import Array

#: Resamples closer together than this are alike.
_ALIKE = 1e-12
SHARE = (0.0, 1.0)
WILSON = "Wilson, clusters"


@dataclass(frozen=True)
class Undefined:
    """A number that does not exist for these data, and why."""

    reason: str


Estimate = Interval | Undefined


@dataclass(frozen=True)
class Clusters:
    """Resamples of clusters.

    Attributes:
        index: ``(n,)``, the cluster of each observation.
        weights: ``(resamples, clusters)``, how often each was drawn.
    """

    index: NDArray[np.intp]
    weights: Array
    level: float

    @classmethod
    def of(cls, cluster: ArrayLike, n: int, key: tuple[Any, ...], resamples: int, level: float) -> Clusters:
        """The clusters of ``n`` observations, named by ``cluster (n,)``.

        Raises:
            ValueError: no observation, or another number of names.
        """
        names, index = np.unique(np.asarray(cluster), return_inverse=True)
        if n == 0 or len(index) != n:
            raise ValueError(f"expected a cluster for each of at least one observation but got {len(index)} for {n}")
        k = len(names)
        drawn = keys.generator("clusters", *key).multinomial(k, np.full(k, 1 / k), size=resamples)
        return cls(index, drawn.astype(np.float64), level)

    @property
    def count(self) -> int:
        return self.weights.shape[1]

    def sums(self, values: ArrayLike) -> Array:
        """Sum of ``values (n,)`` in each cluster."""
        weights = np.asarray(values, dtype=np.float64)
        return np.bincount(self.index, weights=weights, minlength=self.count).astype(np.float64)

    def ratio(self, top: Array, bottom: Array) -> Array:
        """Ratio of two sums in each resample; nan where the lower is 0."""
        return divided(self.weights @ top, self.weights @ bottom)

    def proportion(
        self, top: Array, bottom: Array, reason: str, reshape: Callable[[Array], Array] = lambda share: share
    ) -> Estimate:
        """``reshape`` (increasing, [0, 1] to [0, 1]) of a proportion of two sums; Undefined where the lower is 0."""
        if bottom.sum() == 0:
            return Undefined(reason)
        share, draws = top.sum() / bottom.sum(), reshape(self.ratio(top, bottom))
        found = self.interval(float(reshape(share)), draws, SHARE, f"in which {reason}")
        if self.count < 2 or found.error > _ALIKE:
            return found
        seen = int(np.sum(bottom > 0))
        ends = proportion_confint(share * seen, seen, 1 - self.level, method="wilson")
        low, high = np.clip(reshape(np.asarray(ends, dtype=np.float64)), *SHARE).tolist()
        return self.bounded(found, low, high, WILSON)

    def interval(self, estimate: float, draws: Array, limits: tuple[float, float], left_out: str = "") -> Interval:
        """Student's t interval, within ``limits``, from the resamples in which the number exists (is not nan).

        With one cluster there is no interval: its ends are nan.
        """
        known, n, k = draws[~np.isnan(draws)], len(self.index), self.count
        if k < 2 or len(known) < 2:
            return Interval(estimate, math.nan, math.nan, n, k, "no interval: one cluster")
        error = float(known.std(ddof=1)) * math.sqrt(k / (k - 1))
        half = float(stats.t.ppf((1 + self.level) / 2, k - 1)) * error
        method = "t, bootstrap of clusters"
        if left_out and len(known) < len(draws):
            method += f" without the {100 * (1 - len(known) / len(draws)):.1f} % of resamples {left_out}"
        return Interval(estimate, max(limits[0], estimate - half), min(limits[1], estimate + half), n, k, method, error)

    def bounded(self, found: Interval, low: float, high: float, method: str) -> Interval:
        """The estimate with other ends, and the error that a normal interval of that width has."""
        error = (high - low) / 2 / float(stats.norm.ppf((1 + self.level) / 2))
        return replace(found, low=low, high=high, method=method, error=error)


def divided(top: Array, bottom: Array) -> Array:
    """``top / bottom``, nan where that is 0."""
    return np.divide(top, bottom, out=np.full(len(top), math.nan), where=bottom > 0)


def newcombe(area: float, positives: int, negatives: int, level: float) -> tuple[float, float]:
    """Interval of an AUROC that inverts Hanley and McNeil's variance (Newcombe 2006, method 5): has a width at 0 and 1.

    >>> low, high = newcombe(1.0, 10, 10, 0.95)
    >>> round(low, 3), high
    (0.8, 1.0)
    """
    z, half = float(stats.norm.ppf((1 + level) / 2)), (positives + negatives) / 2

    def off(theta: float) -> float:
        spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = theta * (1 - theta) * (1 + (half - 1) * spread) / (positives * negatives)
        return abs(theta - area) - z * math.sqrt(max(variance, 0.0))

    # At the estimate the distance is 0, at the edges the variance: each end lies between. Where the estimate is an
    # edge both are 0, hence the step aside.
    start = float(np.clip(area, 1e-9, 1 - 1e-9))
    low = 0.0 if area == 0 else float(optimize.brentq(off, 0.0, start))
    return low, 1.0 if area == 1 else float(optimize.brentq(off, start, 1.0))
