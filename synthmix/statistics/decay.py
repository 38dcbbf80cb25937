"""The shape of a score over iterations: linear, exponential, logarithmic or power decay, and its half-life.

A chain has three or four iterations, phase 0 included. All four shapes have two parameters, so that AICc, where it is
defined (four points with known errors), ranks them by their misfit; below, the misfit alone is left, and nothing accounts
for chance. Shapes that differ by less than two units cannot be told apart, which with so few points is the usual case.
Whether there is a decay at all is told by the interval of the change that the shape describes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthmix.statistics.curves import Curve
from synthmix.statistics.intervals import LEVEL, Interval
from synthmix.statistics.resampling import Array
from synthmix.statistics.shapes import ALIKE, aicc, least_squares, whitening

#: ``a - b t``, ``a exp(-b t)``, ``a - b log(1 + t)``, ``a (1 + t)^-b``.
SHAPES = ("linear", "exponential", "logarithmic", "power")
#: A half-life beyond this many times the last iteration is not told from none.
FAR = 10
#: Rates that are tried for the shapes that are not linear in theirs; dense around 0, growth included.
_RATES = 5 * np.sinh(np.linspace(-6, 6, 401)) / math.sinh(6)


@dataclass(frozen=True)
class ShapeFit:
    """One shape fitted to one chain.

    Attributes:
        start: a, the value at iteration 0.
        rate: b; above 0 the score falls.
        misfit: residual sum of squares; in units of the errors where these are known.
        aicc: ``inf`` where there are too few points for it.
    """

    start: float
    rate: float
    misfit: float
    aicc: float


@dataclass(frozen=True)
class Decay:
    """How a chain's score goes on over iterations.

    Attributes:
        fits: of every shape.
        best: the shape with the least misfit.
        criterion: ``AICc``, or ``misfit`` where AICc is not defined.
        alike: shapes whose criterion is within :data:`ALIKE` of the best one's, ``best`` included.
        change: fitted value at the last iteration minus the one at the first; draws choose their own shapes.
        half_life: iterations after which half of the score at iteration 0 is left, if the shape goes on; ``inf`` for
            more than :data:`FAR` times the last iteration. Draws choose their own shapes. None where the data do not
            show a decay.
        last: the last iteration.
        reason: why there is no half-life; empty where there is one.
    """

    fits: dict[str, ShapeFit]
    best: str
    criterion: str
    alike: tuple[str, ...]
    change: Interval
    half_life: Interval | None
    last: float
    reason: str = ""

    @property
    def extrapolated(self) -> bool:
        """The half-life lies beyond the last iteration."""
        return self.half_life is not None and self.half_life.estimate > self.last


def fit_shapes(
    iterations: Sequence[float] | Array,
    means: Sequence[float] | Array,
    errors: Sequence[float] | Array | None = None,
) -> dict[str, ShapeFit]:
    """Every shape by least squares.

    Args:
        iterations: from 0 on, at least two.
        errors: standard errors or covariance of the means, which weight the fit; None: unknown and equal.
    """
    t, rows = np.asarray(iterations, dtype=np.float64), np.asarray(means, dtype=np.float64)[None]
    weight, found = whitening(errors, len(t)), {}
    for name in SHAPES:
        coefficients, misfit = _fit(rows, t, name, weight)
        value = aicc(float(misfit[0]), 2, len(t), errors is not None)
        found[name] = ShapeFit(float(coefficients[0, 0]), float(coefficients[0, 1]), float(misfit[0]), value)
    return found


def decay(curve: Curve, level: float = LEVEL) -> Decay:
    """The shape of a curve over iterations (``curve.x``), of three points or more.

    Raises:
        ValueError: fewer than three points, through two of which every shape goes exactly.
    """
    if len(curve.x) < 3:
        raise ValueError(f"a shape over iterations takes three points or more but there are {len(curve.x)}")
    fits = fit_shapes(curve.x, curve.means, curve.covariance)
    best = min(fits, key=lambda name: fits[name].misfit)
    defined = fits[best].aicc < math.inf
    alike = tuple(n for n in SHAPES if fits[n].misfit <= fits[best].misfit + ALIKE)
    changes, lives = _read(np.vstack([curve.means, curve.draws]), curve.x, whitening(curve.covariance, len(curve.x)))
    change = curve.interval(float(changes[0]), changes[1:], level)
    lives = np.where(lives > FAR * curve.x[-1], np.inf, lives)
    reason = _why_none(fits[best], change)
    life = None if reason else curve.interval(float(lives[0]), lives[1:], level)
    return Decay(fits, best, "AICc" if defined else "misfit", alike, change, life, float(curve.x[-1]), reason)


def half_life(shape: str, start: float | Array, rate: float | Array) -> Array:
    """Iterations after which half of ``start`` is left; ``inf`` where the score does not fall.

    >>> [round(float(half_life(shape, 1.0, 0.1)), 2) for shape in SHAPES]
    [5.0, 6.93, 147.41, 1023.0]
    """
    a, b = np.asarray(start, dtype=np.float64), np.asarray(rate, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = {
            "linear": a / (2 * b),
            "exponential": math.log(2) / b,
            "logarithmic": np.expm1(a / (2 * b)),
            "power": np.exp2(1 / b) - 1,
        }[shape]
    return np.where((b > 0) & (a > 0), found, np.inf)


def shape_value(shape: str, start: float | Array, rate: float | Array, t: float | Array) -> Array:
    """The score of a shape at iteration ``t``; arguments broadcast."""
    if shape in ("linear", "logarithmic"):
        return np.asarray(start - rate * _time(shape, t))
    return np.asarray(start * np.exp(-rate * _time(shape, t)))


# -- parts ----------------------------------------------------------------------------------------------------------


def _why_none(fit: ShapeFit, change: Interval) -> str:
    if fit.start <= 0:
        return "the fitted score at iteration 0 is not above 0"
    return "" if change.high < 0 else "the data do not show a decay"


def _read(rows: Array, t: Array, weight: Array) -> tuple[Array, Array]:
    """Of the best shape of each row: change from the first iteration to the last, and half-life; ``(curves,)`` each."""
    least = np.full(len(rows), np.inf)
    changes, lives = np.empty(len(rows)), np.empty(len(rows))
    for name in SHAPES:
        coefficients, misfits = _fit(rows, t, name, weight)
        better = misfits < least
        start, rate = coefficients[better].T
        least[better] = misfits[better]
        changes[better] = shape_value(name, start, rate, t[-1]) - shape_value(name, start, rate, t[0])
        lives[better] = half_life(name, start, rate)
    return changes, lives


def _time(shape: str, t: float | Array) -> Array:
    """Iterations, or their logarithm: in it, every shape is a line or an exponential."""
    return np.asarray(np.log1p(t) if shape in ("logarithmic", "power") else t, dtype=np.float64)


def _fit(rows: Array, t: Array, shape: str, weight: Array) -> tuple[Array, Array]:
    """Start and rate of each row ``(curves, 2)``, and misfits ``(curves,)``."""
    time = _time(shape, t)
    if shape in ("linear", "logarithmic"):
        return least_squares(rows, np.stack([np.ones_like(time), -time], axis=1), weight)
    # Given the rate, the start is a linear coefficient: only rates are searched (variable projection). With a single
    # regressor, all that a rate leaves over is a ratio of inner products.
    whitened, tried = rows @ weight.T, np.exp(-np.outer(_RATES, time)) @ weight.T
    total = (whitened**2).sum(axis=1)
    rates = _lowest(total[:, None] - (whitened @ tried.T) ** 2 / (tried**2).sum(axis=1))
    regressors = np.exp(-np.outer(rates, time)) @ weight.T
    starts = (regressors * whitened).sum(axis=1) / (regressors**2).sum(axis=1)
    return np.stack([starts, rates], axis=1), ((whitened - starts[:, None] * regressors) ** 2).sum(axis=1)


def _lowest(misfits: Array) -> Array:
    """The rate of least misfit in each row ``(curves, rates)``: the vertex of the parabola through the three lowest."""
    i = np.clip(misfits.argmin(axis=1), 1, len(_RATES) - 2)
    rows = np.arange(len(misfits))
    left, right = _RATES[i] - _RATES[i - 1], _RATES[i + 1] - _RATES[i]
    down, up = misfits[rows, i - 1] - misfits[rows, i], misfits[rows, i + 1] - misfits[rows, i]
    bend = left * up + right * down
    step = np.where(bend > 0, (right**2 * down - left**2 * up) / np.where(bend > 0, 2 * bend, 1), 0)
    return _RATES[i] + np.clip(step, -left, right)
