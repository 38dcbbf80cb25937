"""Laws over model size: a power law and a logarithmic one, by least squares, with what few sizes can say.

A study has two to four sizes. Two fix a line without any error left to judge it by, so nothing is fitted to them; with
three there is one degree of freedom, and Student's t makes its intervals honest, which is to say wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from synthmix.statistics.intervals import LEVEL
from synthmix.statistics.resampling import Array

Law = Literal["power", "log"]
#: Unit of the model size in both laws: parameters.
BILLION = 1e9
#: Different sizes that a law needs at least.
FEWEST_SIZES = 3


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a law with its t interval and standard error."""

    estimate: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Prediction:
    """What a law says of one size.

    Attributes:
        estimate, low, high: in the unit of the observations; the interval is that of one new observation.
        extrapolated: the size lies outside the fitted ones; the interval takes the law for true there.
    """

    estimate: float
    low: float
    high: float
    extrapolated: bool


@dataclass(frozen=True)
class ScalingLaw:
    """A law fitted to observations at several model sizes.

    Attributes:
        law: ``power``: ``y = exp(intercept) (N / 1e9)^slope``; ``log``: ``y = intercept + slope log10(N / 1e9)``.
        intercept, slope: for ``power`` they belong to the natural logarithm of y, and ``slope`` is the exponent.
        r_squared: of the observations, in their own unit; below 0 the mean of them would predict better.
        r_squared_fitted: on the scale of the fit; for ``power`` that of the logarithms.
        freedom: degrees of freedom, sizes - 2.
        sizes: fitted sizes, in parameters.
        residual: residual standard deviation, on the scale of the fit.
        level: of the intervals.
    """

    law: Law
    intercept: Coefficient
    slope: Coefficient
    r_squared: float
    r_squared_fitted: float
    freedom: int
    sizes: tuple[float, ...]
    residual: float
    level: float

    @property
    def scale(self) -> float:
        """``power``: the value at 1e9 parameters."""
        return math.exp(self.intercept.estimate)

    def predict(self, size: float) -> Prediction:
        """The law at ``size`` parameters, with the interval of one new observation there.

        Raises:
            ValueError: the size is not positive.
        """
        x, (place,) = _abscissa(self.law, self.sizes), _abscissa(self.law, [size])
        spread = 1 + 1 / len(x) + (place - x.mean()) ** 2 / float(((x - x.mean()) ** 2).sum())
        half = float(stats.t.ppf((1 + self.level) / 2, self.freedom)) * self.residual * math.sqrt(spread)
        middle = self.intercept.estimate + self.slope.estimate * float(place)
        ends = np.array([middle, middle - half, middle + half])
        estimate, low, high = np.exp(np.minimum(ends, 700)) if self.law == "power" else ends
        return Prediction(float(estimate), float(low), float(high), not min(self.sizes) <= size <= max(self.sizes))


def fit_law(law: Law, sizes: Sequence[float], values: Sequence[float], level: float = LEVEL) -> ScalingLaw:
    """Ordinary least squares of a law, unweighted, with t intervals.

    ``log`` is the form of Eq. 3 of arXiv 2510.05133 (safe proportion against size).

    Args:
        sizes: model sizes in parameters.
        values: one observation a size; several models may share a size.

    Raises:
        ValueError: fewer than three different sizes, sizes that are not positive, or for ``power`` values that are not.

    >>> paper = fit_law("log", [410e6, 1.4e9, 6.9e9, 12e9], [15, 18, 23, 27])
    >>> round(paper.intercept.estimate, 1), round(paper.slope.estimate, 1), round(paper.r_squared, 3)
    (17.5, 7.8, 0.965)
    """
    observed = np.asarray(values, dtype=np.float64)
    if len(sizes) != len(observed) or len(set(sizes)) < FEWEST_SIZES:
        raise ValueError(
            f"expected values at {FEWEST_SIZES} different sizes or more but got {observed} at {list(sizes)}"
        )
    if law == "power" and observed.min() <= 0:
        raise ValueError(f"a power law takes values above 0 but got {observed.min():g}")
    x, y = _abscissa(law, sizes), np.log(observed) if law == "power" else observed
    line = stats.linregress(x, y)
    fitted, freedom = line.intercept + line.slope * x, len(x) - 2
    t = float(stats.t.ppf((1 + level) / 2, freedom))
    intercept, slope = (
        Coefficient(float(b), float(b - t * e), float(b + t * e), float(e))
        for b, e in ((line.intercept, line.intercept_stderr), (line.slope, line.stderr))
    )
    back = np.exp(fitted) if law == "power" else fitted
    residual = math.sqrt(float(((y - fitted) ** 2).sum()) / freedom)
    return ScalingLaw(
        law, intercept, slope, r_squared(observed, back), r_squared(y, fitted), freedom, tuple(map(float, sizes)),
        residual, level,
    )  # fmt: skip


def r_squared(observed: Sequence[float] | Array, predicted: Sequence[float] | Array) -> float:
    """``1 - SS_residual / SS_total``; negative where the observations' mean predicts better; nan where they are all alike.

    Eq. 3 of arXiv 2510.05133 as printed, against the four proportions that the paper reports:

    >>> eq3 = [12 + 3.5 * math.log10(billions) for billions in (0.41, 1.4, 6.9, 12)]
    >>> round(r_squared([15, 18, 23, 27], eq3), 2)
    -1.83
    """
    ours, theirs = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    total = float(((ours - ours.mean()) ** 2).sum())
    return 1 - float(((ours - theirs) ** 2).sum()) / total if total > 0 else math.nan


def _abscissa(law: Law, sizes: Sequence[float]) -> Array:
    given = np.asarray(sizes, dtype=np.float64)
    if given.min() <= 0:
        raise ValueError(f"expected sizes above 0 but got {given.min():g}")
    return (np.log if law == "power" else np.log10)(given / BILLION)
