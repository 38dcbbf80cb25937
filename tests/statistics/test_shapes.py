"""Polynomials, segmented regression and the isotonic fit, against statsmodels, scipy, numpy and exact curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from sklearn.isotonic import IsotonicRegression
from statsmodels.tools.eval_measures import aicc as reference_aicc

from synthmix import keys
from synthmix.statistics.curves import Curve
from synthmix.statistics.resampling import Array
from synthmix.statistics.shapes import (
    DEGREES,
    SEGMENTED,
    aicc,
    curve_polynomial,
    isotonic,
    least_squares,
    piecewise,
    polynomial,
    powers,
    read_pieces,
    segmented,
    whitening,
)

X = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
Y = np.array([0.61, 0.60, 0.61, 0.55, 0.50, 0.47])


def near(f: Callable[[Array], Array] | Sequence[float], error: float = 0.005, x: Array = X, n: int = 400) -> Curve:
    """A curve around a function (or values), with independent errors and as many draws."""
    means = f(x) if callable(f) else np.asarray(f, dtype=float)
    draws = means + keys.generator("near").normal(0, error, (n, len(x)))
    return Curve(x, means, np.eye(len(x)) * error**2, draws, 300, 3, "test")


# -- choice ---------------------------------------------------------------------------------------------------------


def test_aicc_without_known_errors_differs_from_statsmodels_by_a_constant() -> None:
    ours, theirs = [], []
    for degree in (0, 1, 2):
        fit = sm.OLS(Y, powers(X, degree)).fit()
        ours.append(aicc(float(fit.ssr), degree + 1, 6, known=False))
        theirs.append(reference_aicc(fit.llf, 6, degree + 2))
    assert np.diff(ours) == pytest.approx(np.diff(theirs))


def test_aicc_is_undefined_where_points_are_too_few() -> None:
    assert aicc(1.0, 3, 4) == math.inf and aicc(1.0, 2, 4) < math.inf
    assert aicc(1.0, 2, 4, known=False) == math.inf


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_least_squares_is_that_of_statsmodels_with_a_full_covariance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T + 0.1 * np.eye(6)
    rows = rng.normal(size=(3, 6))
    coefficients, misfits = least_squares(rows, powers(X, 2), whitening(covariance, 6))
    for row, ours, misfit in zip(rows, coefficients, misfits, strict=True):
        fit = sm.GLS(row, powers(X, 2), sigma=covariance).fit()
        assert ours == pytest.approx(fit.params, rel=1e-5, abs=1e-6)
        assert misfit == pytest.approx(float(fit.wresid @ fit.wresid), rel=1e-5)


def test_whitening_takes_errors_or_their_covariance() -> None:
    errors = np.array([0.1, 0.2, 0.5])
    assert np.abs(whitening(errors**2 * np.eye(3), 3)).sum(axis=0) == pytest.approx(1 / errors)
    assert whitening(errors, 3) == pytest.approx(np.diag(1 / errors))
    for wrong in ([0.1, 0.2], [0.1, 0.0, 0.3], np.eye(2)):
        with pytest.raises(ValueError, match="positive errors"):
            whitening(wrong, 3)


# -- polynomials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficients", [[0.6], [0.6, -0.3], [0.6, 0.1, -0.9], [0.6, 0.2, -3.0, 3.5]])
def test_the_degree_is_recovered_where_errors_are_small(coefficients: list[float]) -> None:
    values = np.polynomial.polynomial.polyval(X, coefficients)
    found = polynomial(X, values, np.full(6, 0.001))
    assert found.degree == len(coefficients) - 1
    assert found.coefficients == pytest.approx(coefficients, abs=1e-9)


def test_weights_and_unknown_errors_are_those_of_numpy() -> None:
    errors = np.array([0.01, 0.02, 0.01, 0.03, 0.01, 0.02])
    weighted = polynomial(X, Y, errors)
    assert weighted.degree is not None
    expected = np.polynomial.polynomial.polyfit(X, Y, weighted.degree, w=1 / errors)
    assert weighted.coefficients == pytest.approx(expected)
    free = polynomial(X, Y)
    assert free.degree is not None
    assert free.coefficients == pytest.approx(np.polynomial.polynomial.polyfit(X, Y, free.degree))


def test_large_errors_leave_the_constant() -> None:
    assert polynomial(X, Y, np.full(6, 0.2)).degree == 0


def test_three_shares_leave_nothing_to_choose_and_four_only_a_line() -> None:
    assert polynomial(X[:3], Y[:3], np.full(3, 0.01)).degree is None
    found = polynomial(X[:4], Y[:4], np.full(4, 1e-4))
    assert [d for d in DEGREES if found.aicc[d] < math.inf] == [0, 1] and found.degree in (0, 1)


def test_turning_and_inflection_points_have_intervals() -> None:
    hump = curve_polynomial(near(lambda x: 0.6 - 2.0 * (x - 0.2) ** 2))
    (top,) = hump.features
    assert hump.degree == 2 and top.kind == "maximum" and top.found > 0.99
    assert top.at.low < 0.2 < top.at.high and top.at.estimate == pytest.approx(0.2, abs=1e-6)
    wave = curve_polynomial(near(lambda x: 0.5 + 20 * (x - 0.1) * (x - 0.25) * (x - 0.4), error=0.001))
    kinds = {feature.kind: feature.at.estimate for feature in wave.features}
    half = 0.15 / math.sqrt(3)
    assert kinds == pytest.approx({"maximum": 0.25 - half, "minimum": 0.25 + half, "inflection": 0.25}, abs=1e-3)


def test_a_turning_point_outside_the_range_is_not_stated() -> None:
    found = curve_polynomial(near(lambda x: 0.6 - (x + 0.2) ** 2))
    assert found.degree == 2 and found.features == ()


# -- isotonic -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
@settings(max_examples=50, deadline=None)
def test_isotonic_is_that_of_scikit_learn(values: list[float]) -> None:
    expected = IsotonicRegression(increasing=False).fit_transform(np.arange(len(values)), values)
    both = isotonic(np.array([values, values[::-1]]))
    assert both[0] == pytest.approx(expected, abs=1e-9) and np.all(np.diff(both, axis=-1) <= 1e-12)


# -- segmented regression -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.15, 0.2, 0.27])
def test_a_known_break_is_found_and_its_interval_holds_it(place: float) -> None:
    found = segmented(near(lambda x: 0.6 - np.maximum(x - place, 0)))
    assert found.shape == "flat then line" and found.break_at is not None and not found.reason
    assert found.break_at.estimate == pytest.approx(place, abs=0.003)
    assert 0 <= found.break_at.low < place < found.break_at.high <= 0.5
    (slope,) = found.slopes
    assert slope.estimate == pytest.approx(-1, abs=0.03) and slope.low < -1 < slope.high


def test_two_lines_have_two_slopes() -> None:
    x = np.linspace(0, 0.7, 8)
    found = segmented(near(lambda x: 0.7 - 0.2 * x - np.maximum(x - 0.31, 0), error=0.002, x=x))
    assert found.shape == "two lines" and found.break_at is not None
    assert found.break_at.estimate == pytest.approx(0.31, abs=0.01)
    assert [slope.estimate for slope in found.slopes] == pytest.approx([-0.2, -1.2], abs=0.03)


def test_segments_are_the_least_squares_of_scipy() -> None:
    def two_lines(x: Array, a: float, b: float, c: float, place: float) -> Array:
        return a + b * x + c * np.maximum(x - place, 0)

    x, y = np.linspace(0, 1, 11), np.array([5, 4.9, 4.9, 4.7, 4.7, 4.2, 3.6, 3.1, 2.7, 2.0, 1.6])
    expected, _ = curve_fit(two_lines, x, y, (5, 0, -5, 0.45))
    best, misfit = piecewise(y[None], x, "two lines", whitening(None, 11))
    assert best[0] == pytest.approx(expected, abs=0.05)
    assert misfit[0] == pytest.approx(((two_lines(x, *expected) - y) ** 2).sum(), rel=0.01)
    assert read_pieces(best, x)[0] == pytest.approx(two_lines(x, *best[0]))


@pytest.mark.parametrize(("values", "shape"), [([0.6] * 6, "constant"), (list(0.6 - 0.4 * X), "line")])
def test_without_a_break_none_is_claimed(values: list[float], shape: str) -> None:
    found = segmented(near(values))
    assert found.shape == shape and found.break_at is None and shape in found.reason
    assert len(found.slopes) == (shape == "line")


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_points_cannot_tell_a_break_from_a_line(n: int) -> None:
    found = segmented(near(Y[:n], error=1e-4, x=X[:n]))
    assert found.shape is None and found.break_at is None and f"{n} points are too few" in found.reason
    assert found.aicc["flat then line"] == math.inf and set(found.aicc) == set(SEGMENTED)


def test_an_end_that_cannot_be_located_is_moved_to_the_end_of_the_range() -> None:
    """A break in the last gap has one point behind it: its place and its slope cannot both be told."""
    found = segmented(near(lambda x: 0.6 - 2 * np.maximum(x - 0.42, 0), error=0.01))
    assert found.break_at is not None and found.break_at.high == 0.5 and found.break_at.low > 0
