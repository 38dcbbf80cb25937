"""Shapes over iterations against scipy, exact chains, and simulated ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from synthmix import keys
from synthmix.statistics.curves import Curve
from synthmix.statistics.decay import FAR, SHAPES, decay, fit_shapes, half_life, shape_value
from synthmix.statistics.resampling import Array

T = np.arange(5.0)


def chain(means: Array, error: float = 0.005, seeds: int = 3) -> Curve:
    """A curve over iterations with independent errors."""
    draws = means + keys.generator("chain").normal(0, error, (400, len(means)))
    return Curve(np.arange(len(means), dtype=float), means, np.eye(len(means)) * error**2, draws, 300, seeds, "test")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.08, 0.3, -0.05])
def test_an_exact_chain_gives_back_its_shape(shape: str, rate: float) -> None:
    fits = fit_shapes(T, shape_value(shape, 0.6, rate, T), np.full(5, 0.01))
    assert (fits[shape].start, fits[shape].rate) == (pytest.approx(0.6, abs=1e-3), pytest.approx(rate, abs=2e-3))
    assert min(fits, key=lambda name: fits[name].misfit) == shape
    assert all(fits[name].aicc == pytest.approx(fits[name].misfit + 4 + 12 / 2) for name in SHAPES)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_fits_are_the_least_squares_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, values = rng.uniform(0.01, 0.05, 4), np.sort(rng.uniform(0.2, 0.8, 4))[::-1]
    fits = fit_shapes(T[:4], values, errors)
    for shape in SHAPES:

        def model(t: Array, a: float, b: float, shape: str = shape) -> Array:
            return shape_value(shape, a, b, t)

        best, _ = curve_fit(
            model, T[:4], values, (fits[shape].start, fits[shape].rate), sigma=errors, xtol=1e-12, ftol=1e-12
        )
        misfit = (((model(T[:4], *best) - values) / errors) ** 2).sum()
        assert fits[shape].misfit == pytest.approx(misfit, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_life_is_where_half_is_left(shape: str) -> None:
    time = float(half_life(shape, 0.6, 0.15))
    assert float(shape_value(shape, 0.6, 0.15, time)) == pytest.approx(0.3)
    assert np.isinf(half_life(shape, 0.6, -0.1)) and np.isinf(half_life(shape, 0.6, 0.0))


def test_a_clear_decay_has_a_half_life_with_an_interval() -> None:
    found = decay(chain(0.6 * np.exp(-0.35 * T)))
    assert found.best == "exponential" and found.criterion == "AICc" and found.alike == ("exponential",)
    assert found.half_life is not None and not found.extrapolated and found.last == 4
    assert found.half_life.low < math.log(2) / 0.35 < found.half_life.high
    assert found.change.estimate == pytest.approx(0.6 * math.expm1(-1.4), abs=1e-3)


def test_a_slight_decay_is_extrapolated_and_its_shape_not_told() -> None:
    found = decay(chain(0.6 * np.exp(-0.05 * T), error=0.01))
    assert found.half_life is not None and found.extrapolated and len(found.alike) > 1 and found.best in found.alike
    assert math.isinf(found.half_life.high) or found.half_life.high <= FAR * 4


def test_without_a_decay_there_is_no_half_life_and_the_reason_says_so() -> None:
    for means in (np.full(4, 0.5), np.array([0.5, 0.51, 0.52, 0.54])):
        found = decay(chain(means, error=0.01))
        assert found.half_life is None and found.reason == "the data do not show a decay" and found.change.high >= 0


def test_a_chain_of_zeros_has_no_half_life() -> None:
    assert decay(chain(np.zeros(4))).half_life is None


def test_three_points_are_compared_by_misfit_and_say_so() -> None:
    found = decay(chain(np.array([0.6, 0.5, 0.4])))
    assert found.criterion == "misfit" and found.best == "linear"
    assert all(fit.aicc == math.inf for fit in found.fits.values())
    with pytest.raises(ValueError, match="three points"):
        decay(chain(np.array([0.6, 0.5])))


def test_unknown_errors_take_one_parameter_more() -> None:
    """The paper's table 4: four accuracies without errors, so AICc is not defined."""
    fits = fit_shapes(T[:4], [24.1, 23.8, 21.3, 18.9])
    assert all(fit.aicc == math.inf for fit in fits.values())
    assert fits["linear"].rate == pytest.approx(1.81) and fits["linear"].misfit == pytest.approx(1.367, abs=1e-3)
    assert fit_shapes(T, [24.1, 23.8, 21.3, 18.9, 17.0])["linear"].aicc < math.inf


def test_intervals_of_change_and_half_life_hold_the_truth() -> None:
    truth, start, trials, held, changed = math.log(2) / 0.2, 0.6, 150, 0, 0
    for trial in range(trials):
        rng = keys.generator("decay", trial)
        means = start * np.exp(-0.2 * T) + rng.normal(0, 0.01, 5)
        draws = means + rng.normal(0, 0.01, (300, 5))
        found = decay(Curve(T, means, np.eye(5) * 1e-4, draws, 300, 3, "test"))
        assert found.half_life is not None
        held += found.half_life.low <= truth <= found.half_life.high
        changed += found.change.low <= start * math.expm1(-0.8) <= found.change.high
    assert held / trials >= 0.9 and changed / trials >= 0.9
