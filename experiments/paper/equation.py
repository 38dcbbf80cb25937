"""Equation 3: its four points, the equation as printed, and the least-squares refit with its bands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy import stats

from synthmix.analysis.paper import published
from synthmix.analysis.paper.published import Published
from synthmix.statistics.scaling import BILLION, Coefficient, Prediction, ScalingLaw, r_squared


@dataclass(frozen=True)
class Band:
    """The refit at one size, percent: 95 % confidence of the line, and prediction of one new point."""

    estimate: float
    low: float
    high: float
    prediction_low: float
    prediction_high: float


@dataclass(frozen=True)
class Refit:
    """Equation 3 against its own points; shares in percent.

    Attributes:
        models, parameters, stated: the four points of the text.
        law: the least-squares line on log10(N / 1e9).
    """

    models: list[str]
    parameters: list[float]
    stated: list[float]
    law: ScalingLaw
    source: Published

    @property
    def printed(self) -> list[float]:
        return [self.as_printed(n) for n in self.parameters]

    @property
    def fitted(self) -> list[float]:
        return [self.predict(n).estimate for n in self.parameters]

    @property
    def printed_r_squared(self) -> float:
        return r_squared(self.stated, self.printed)

    @property
    def equation(self) -> str:
        a, b = self.law.intercept.estimate, self.law.slope.estimate
        return f"{a:.1f} % + {b:.1f} % · log10(N / 1e9)"

    def as_printed(self, n: float) -> float:
        """Equation 3 at n parameters."""
        return self.source.equation3.intercept + self.source.equation3.slope * math.log10(n / BILLION)

    def predict(self, n: float) -> Prediction:
        """The refit at n parameters, with its 95 % prediction interval."""
        return self.law.predict(n)

    def band(self, n: float) -> Band:
        """Both bands: a prediction's variance is that of the line plus that of one point."""
        at = self.predict(n)
        point = float(stats.t.ppf((1 + self.law.level) / 2, self.law.freedom)) * self.law.residual
        half = math.sqrt(max(0.0, (at.high - at.estimate) ** 2 - point**2))
        return Band(at.estimate, at.estimate - half, at.estimate + half, at.low, at.high)

    def numbers(self) -> dict[str, Any]:
        """What the audit records."""
        return {
            "points": dict(zip(self.models, self.stated, strict=True)),
            "eq3": dict(zip(self.models, self.printed, strict=True)), "eq3_r_squared": self.printed_r_squared,
            "refit": dict(zip(self.models, self.fitted, strict=True)), "refit_r_squared": self.law.r_squared,
            "intercept": _interval(self.law.intercept), "slope": _interval(self.law.slope),
            "freedom": self.law.freedom, "residual": self.law.residual,
        }  # fmt: skip


def _interval(coefficient: Coefficient) -> list[float]:
    return [coefficient.estimate, coefficient.low, coefficient.high]


def refit(p: Published) -> Refit:
    """The four points of the text and the line through them."""
    models = list(p.safe.proportions)
    stated = [p.safe.proportions[model] for model in models]
    return Refit(models, [p.models[model] for model in models], stated, published.refit(p), p)
