"""Shapes of a measured curve: polynomials, segmented regression and the isotonic fit, chosen by AICc.

Points of a curve share seeds and items, so that fits weight by the inverse of their covariance (generalised least
squares); a misfit is then a chi square. A study has few shares, and AICc takes that seriously: among six shares a break
behind a flat part must explain 10 units of it more than a straight line does, and with four shares no break is ever
preferred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import isotonic_regression

from synthmix.statistics.curves import Curve
from synthmix.statistics.intervals import LEVEL, Interval
from synthmix.statistics.resampling import Array

#: Polynomials that are compared.
DEGREES = (0, 1, 2, 3)
#: Shapes whose AICc lies this close to the best one are not told apart (Burnham and Anderson 2002, section 2.6).
ALIKE = 2.0
#: Shapes of segmented regression, each with its number of parameters (a break is one).
SEGMENTED = {"constant": 1, "line": 2, "flat then line": 3, "two lines": 4}
#: Columns of :func:`piecewise` that a shape has.
_USED = {"constant": [0], "line": [0, 1], "flat then line": [0, 2], "two lines": [0, 1, 2]}
#: Places at which a break is tried.
_TRIED = 81


def isotonic(means: Array) -> Array:
    """Non-increasing least-squares fit of each row, ``(..., points)`` (:func:`scipy.optimize.isotonic_regression`)."""
    return np.apply_along_axis(lambda row: isotonic_regression(row, increasing=False).x, -1, means)


# -- choice ---------------------------------------------------------------------------------------------------------


def aicc(misfit: float, coefficients: int, points: int, known: bool = True) -> float:
    """Akaike's criterion with its small-sample correction (Hurvich and Tsai 1989), up to a constant.

    Args:
        misfit: residual sum of squares; in units of the errors where these are known.
        known: whether they are; if not, their variance is one parameter more.

    Returns:
        ``inf`` where ``points - parameters - 1`` is not positive: the criterion is not defined.

    >>> aicc(4.0, 2, 6), aicc(4.0, 3, 4)
    (12.0, inf)
    """
    k = coefficients if known else coefficients + 1
    if points - k - 1 <= 0:
        return math.inf
    fit = misfit if known else points * math.log(max(misfit, 1e-300) / points)
    return fit + 2 * k + 2 * k * (k + 1) / (points - k - 1)


def whitening(errors: Sequence[float] | Array | None, points: int) -> Array:
    """``(points, points)`` matrix that turns residuals into independent ones of variance 1.

    Args:
        errors: standard errors ``(points,)`` or covariance ``(points, points)``; None: independent, of variance 1.

    Raises:
        ValueError: another size, or an error that is not positive.
    """
    given = np.eye(points) if errors is None else np.asarray(errors, dtype=np.float64)
    own = given if given.ndim == 1 else np.diagonal(given)
    if given.shape not in ((points,), (points, points)) or np.any(own <= 0):
        raise ValueError(f"expected {points} positive errors, or their covariance, but got {given}")
    if given.ndim == 1:
        return np.diag(1 / given)
    values, vectors = np.linalg.eigh(given)
    return (vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1]))).T


def least_squares(rows: Array, design: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted least squares of many curves at once.

    Args:
        rows: ``(curves, points)``.
        design: ``(points, k)``.
        weight: from :func:`whitening`.

    Returns:
        coefficients ``(curves, k)``, and misfits ``(curves,)``: weighted residual sums of squares.
    """
    coefficients = rows @ (np.linalg.pinv(weight @ design) @ weight).T
    return coefficients, (((rows - coefficients @ design.T) @ weight.T) ** 2).sum(axis=1)


# -- polynomials ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """A turning or inflection point of a polynomial within the measured range.

    Attributes:
        kind: ``maximum``, ``minimum`` or ``inflection``.
        at: where; percentiles of the draws that have one within the range.
        found: share of the draws that do: far below 1, there may be none.
    """

    kind: str
    at: Interval
    found: float


@dataclass(frozen=True)
class Polynomial:
    """The polynomial that AICc prefers.

    Attributes:
        degree: None where AICc is defined for fewer than two degrees: nothing to choose from.
        coefficients: of ``1, x, x², ...``; empty without a degree.
        aicc: of every degree, ``inf`` where there are too few points for it.
        features: turning and inflection points within the range.
    """

    degree: int | None
    coefficients: Array
    aicc: dict[int, float]
    features: tuple[Feature, ...] = ()


def polynomial(
    x: Sequence[float] | Array, means: Sequence[float] | Array, errors: Sequence[float] | Array | None = None
) -> Polynomial:
    """Polynomials of :data:`DEGREES` by least squares; AICc chooses.

    Args:
        errors: standard errors ``(points,)`` or covariance ``(points, points)`` of the means, which weight the fit and
            scale its misfit; None: unknown and equal.
    """
    places, rows = np.asarray(x, dtype=np.float64), np.asarray(means, dtype=np.float64)[None]
    n, weight = len(places), whitening(errors, len(places))
    fits = {d: least_squares(rows, powers(places, d), weight) for d in DEGREES if d < n}
    found = {d: aicc(float(fits[d][1][0]), d + 1, n, errors is not None) if d in fits else math.inf for d in DEGREES}
    defined = [d for d in DEGREES if found[d] < math.inf]
    if len(defined) < 2:
        return Polynomial(None, np.empty(0), found)
    degree = min(defined, key=found.__getitem__)
    return Polynomial(degree, fits[degree][0][0], found)


def curve_polynomial(curve: Curve, level: float = LEVEL) -> Polynomial:
    """:func:`polynomial` of a curve, with its turning and inflection points; the draws keep the chosen degree."""
    chosen = polynomial(curve.x, curve.means, curve.covariance)
    if (chosen.degree or 0) < 2:
        return chosen
    ours, low, high = _features(chosen.coefficients[None]), curve.x[0], curve.x[-1]
    weight = whitening(curve.covariance, len(curve.x))
    drawn = _features(least_squares(curve.draws, powers(curve.x, chosen.degree or 0), weight)[0])
    features = []
    for kind, place in ours.items():
        inside = drawn[kind][(drawn[kind] > low) & (drawn[kind] < high)]
        if low < place[0] < high and len(inside) > 1:
            found = len(inside) / len(curve.draws)
            features.append(Feature(kind, curve.interval(float(place[0]), inside, level), found))
    return replace(chosen, features=tuple(features))


# -- segmented regression ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segmented:
    """The piecewise linear shape that AICc prefers.

    Attributes:
        shape: one of :data:`SEGMENTED`; None where there are too few points to compare a break with a straight line.
        aicc: of every shape, ``inf`` where there are too few points for it.
        break_at: where the slope changes; None unless a shape with a break is preferred.
        slopes: of the parts that are not flat, in score per unit of x.
        reason: why there is no break; empty where there is one.
    """

    shape: str | None
    aicc: dict[str, float]
    break_at: Interval | None
    slopes: tuple[Interval, ...]
    reason: str = ""


def segmented(curve: Curve, level: float = LEVEL) -> Segmented:
    """Segmented regression: two lines that meet at a break, or a flat part and a line, against a line without a break.

    The break is tried at every place of a grid (cf. Muggeo 2003); its interval holds the percentiles of the best places
    in draws of the curve. A break cannot be located within the first or last gap between points, so that an end which
    comes to one of them is moved to the end of the range.

    That AICc prefers a break to a straight line says that the curve bends, not that it bends at a corner: the AICc of a
    polynomial of degree 2 (:func:`curve_polynomial`) has the same scale and as many parameters as ``flat then line``.

    In the simulations of the curves' module (3 seeds, six shares, 300 items), a break is claimed in 1 % of studies of a
    line, in 13 to 54 % of those of a smooth bend, and where there is one in 18 to 85 %, the fewer the more runs differ.
    Its estimate has its median at the true 0.20 where runs are alike, and at 0.25 where they differ a lot: only
    breaks that look clear are claimed.
    """
    n, weight = len(curve.x), whitening(curve.covariance, len(curve.x))
    found = {name: math.inf for name in SEGMENTED}
    for name, k in SEGMENTED.items():
        if n > k + 1:
            found[name] = aicc(float(piecewise(curve.means[None], curve.x, name, weight)[1][0]), k, n)
    if found["flat then line"] == math.inf:
        return Segmented(
            None, found, None, (), f"{n} points are too few to compare a break with a straight line (five)"
        )
    shape = min(found, key=found.__getitem__)
    ours, drawn = (piecewise(rows, curve.x, shape, weight)[0] for rows in (curve.means[None], curve.draws))
    slopes = tuple(
        curve.interval(float(one[0]), many, level) for one, many in zip(_slopes(ours), _slopes(drawn), strict=True)
    )
    slopes = {"constant": (), "line": slopes[:1], "flat then line": slopes[1:]}.get(shape, slopes)
    if SEGMENTED[shape] < 3:
        return Segmented(shape, found, None, slopes, f"AICc prefers a {shape} to any break")
    at = curve.interval(float(ours[0, 3]), drawn[:, 3], level)
    low, high = _tried(curve.x, shape)[[0, -1]]
    ends = curve.x[0] if at.low <= low else at.low, curve.x[-1] if at.high >= high else at.high
    return Segmented(shape, found, replace(at, low=float(ends[0]), high=float(ends[1])), slopes)


# -- parts ------------------------------------------------------------------------------------------------------------


def powers(x: Array, degree: int) -> Array:
    return np.vander(x, degree + 1, increasing=True)


def _features(coefficients: Array) -> dict[str, Array]:
    """Places ``(curves,)`` of turning and inflection points of polynomials of degree 2 or 3; nan where there is none."""
    b, c = coefficients[:, 1], coefficients[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        if coefficients.shape[1] == 3:
            turn = -b / (2 * c)
            return {"maximum": np.where(c < 0, turn, np.nan), "minimum": np.where(c > 0, turn, np.nan)}
        d = coefficients[:, 3]
        root = np.sqrt(c**2 - 3 * b * d)
        return {"maximum": (-c - root) / (3 * d), "minimum": (-c + root) / (3 * d), "inflection": -c / (3 * d)}


def _tried(x: Array, shape: str) -> Array:
    """Where a break is tried: two points or more lie on each sloping part."""
    low = x[0] if shape == "flat then line" else x[1]
    return np.linspace(low, x[-2], _TRIED) if SEGMENTED[shape] > 2 else x[-1:]


def piecewise(rows: Array, x: Array, shape: str, weight: Array) -> tuple[Array, Array]:
    """The best fit of a shape: ``(curves, 4)`` value at 0, slope, change of slope, break; and misfits ``(curves,)``."""
    used = _USED[shape]
    best, misfit = np.zeros((len(rows), 4)), np.full(len(rows), np.inf)
    for place in _tried(x, shape):
        design = np.stack([np.ones_like(x), x, np.maximum(x - place, 0)], axis=1)[:, used]
        coefficients, misfits = least_squares(rows, design, weight)
        better = np.flatnonzero(misfits < misfit)
        misfit[better] = misfits[better]
        best[better[:, None], used] = coefficients[better]
        best[better, 3] = place
    return best, misfit


def read_pieces(pieces: Array, grid: Array) -> Array:
    """Values ``(curves, places)`` of the fits of :func:`piecewise`."""
    start, slope, change, place = (column[:, None] for column in pieces.T)
    return start + slope * grid + change * np.maximum(grid - place, 0)


def _slopes(pieces: Array) -> tuple[Array, Array]:
    return pieces[:, 1], pieces[:, 1] + pieces[:, 2]
