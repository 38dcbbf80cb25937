"""Measured curves: their covariance against the random-effects estimate, their draws, and what must not be silent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from synthmix import keys
from synthmix.statistics import crossed_error, wilson
from synthmix.statistics.curves import Curve, measured_curve
from synthmix.statistics.resampling import Array
from synthmix.statistics.simulate import Loss, Simulation, simulate

SHARES = (0.0, 0.1, 0.3, 0.5)


def study(name: object, seeds: int = 3, items: int = 200, **settings: float) -> list[Array]:
    """Scores a seed, ``(shares, items)``."""
    drawn = simulate(Simulation((0.65,), (Loss(0.3),), SHARES, items, seeds, **settings), name).scores[0]
    return list(drawn.swapaxes(0, 1))


def test_means_are_those_of_all_seeds_and_items() -> None:
    scores = study("means")
    curve = measured_curve(SHARES, scores, "k")
    assert curve.means == pytest.approx(np.stack(scores).mean(axis=(0, 2)))
    assert (curve.n_items, curve.n_seeds, curve.method) == (200, 3, "random effects, seeds and items")
    assert curve.draws.shape == (1000, 4) and curve.draws.mean(axis=0) == pytest.approx(curve.means, abs=0.01)


def test_draws_are_a_function_of_the_key() -> None:
    scores = study("key")
    assert np.array_equal(measured_curve(SHARES, scores, "a").draws, measured_curve(SHARES, scores, "a").draws)
    assert not np.array_equal(measured_curve(SHARES, scores, "a").draws, measured_curve(SHARES, scores, "b").draws)


def test_a_difference_has_the_error_of_two_way_random_effects() -> None:
    """With two points, runs have as many pooled degrees of freedom as a single contrast: both estimates are the same."""
    scores = [table[[0, 3]] for table in study("error", seeds=4)]
    curve = measured_curve([0.0, 0.5], scores, "k")
    error, _ = crossed_error(np.stack([table[1] - table[0] for table in scores]))
    contrast = np.array([-1.0, 1.0])
    assert math.sqrt(contrast @ curve.covariance @ contrast) == pytest.approx(error, rel=1e-6)


def test_covariance_is_that_of_the_simulated_studies() -> None:
    """Averaged over studies, it is the covariance between studies: level, own noise of runs, and items together."""
    curves = [measured_curve(SHARES, study(("many", t), seed_sd=0.2, run_sd=0.2), t, resamples=2) for t in range(400)]
    expected = np.cov(np.array([curve.means for curve in curves]).T)
    found = np.mean([curve.covariance for curve in curves], axis=0)
    assert np.diag(found) == pytest.approx(np.diag(expected), rel=0.25)
    step = np.array([-1.0, 0.0, 0.0, 1.0])
    assert step @ found @ step == pytest.approx(step @ expected @ step, rel=0.25)


def test_draws_have_heavier_tails_than_the_normal_with_few_seeds() -> None:
    """95 % of draws lie within Student's t quantiles, not within the normal's, of a curve whose runs alone vary."""
    rng = keys.generator("tails")
    scores = [np.repeat(0.5 + 0.1 * rng.normal(size=(2, 1)), 50, axis=1) for _ in range(3)]
    curve = measured_curve([0.0, 0.5], scores, "t", resamples=20_000)
    gap = curve.draws[:, 1] - curve.draws[:, 0]
    gaps = [table[1, 0] - table[0, 0] for table in scores]
    error = float(np.std(gaps, ddof=1)) / math.sqrt(3)
    low, high = np.quantile(gap - np.mean(gaps), [0.025, 0.975]) / error
    # Wilson's bound for alike items adds a little.
    assert high == pytest.approx(stats.t.ppf(0.975, 2), rel=0.15) and low == pytest.approx(-high, rel=0.1)


def test_one_seed_covers_items_only_and_says_so() -> None:
    scores = study("one", seeds=1)
    for method in ("random effects", "bootstrap"):
        curve = measured_curve(SHARES, scores, "k", method=method)  # type: ignore[arg-type]
        assert "items only (one seed)" in curve.method and not curve.interval(0.5, curve.draws[:, 0]).covers_runs
        assert curve.covariance == pytest.approx(np.cov(scores[0]) / 200, rel=0.2, abs=1e-4)


def test_the_bootstrap_is_a_choice_and_nearly_the_same_with_many_seeds() -> None:
    scores = study("boot", seeds=12, items=400)
    ours, theirs = (measured_curve(SHARES, scores, "k", method=m) for m in ("random effects", "bootstrap"))
    assert theirs.method == "bootstrap, seeds then items"
    step = [c.draws[:, 3] - c.draws[:, 0] for c in (ours, theirs)]
    # The pigeonhole bootstrap counts the noise of single answers twice: it is wider by a known, small amount.
    assert 0.9 < step[1].std() / step[0].std() < 1.6


def test_items_of_each_seed_alone() -> None:
    scores = [study("a")[0][:, :150], study("b")[1], study("c")[2][:, :120]]
    with pytest.raises(ValueError, match="same items"):
        measured_curve(SHARES, scores, "k")
    curve = measured_curve(SHARES, scores, "k", shared_items=False)
    assert curve.n_items == 120 and curve.draws.std(axis=0).min() > 0


def test_points_without_visible_spread_get_wilsons_bound() -> None:
    scores = study("alike", seeds=1)
    scores[0][1] = 1.0
    scores[0][3] = scores[0][2]
    expected = wilson(0, 200).high / stats.norm.ppf(0.975)
    curve = measured_curve(SHARES, scores, "k")
    assert np.diff(curve.draws[:, 2:]).std() == pytest.approx(math.sqrt(2) * expected, rel=0.1)
    assert curve.draws[:, 1].std() == pytest.approx(expected, rel=0.1)
    for method in ("random effects", "bootstrap"):
        constant = measured_curve(SHARES, [np.ones((4, 200))] * 3, "k", method=method)  # type: ignore[arg-type]
        assert constant.draws.std(axis=0) == pytest.approx(np.full(4, expected), rel=0.1)
        assert np.diag(constant.covariance) == pytest.approx(np.full(4, expected**2))


def test_relative_is_the_ratio_with_paired_intervals() -> None:
    curve = measured_curve(SHARES, study("ratio"), "k")
    found = curve.relative()
    assert [r.estimate for r in found] == pytest.approx(curve.means / curve.means[0])
    assert found[0].low == found[0].high == 1.0
    plain = np.quantile(curve.draws[:, 3] / curve.draws[:, 0], [0.025, 0.975])
    assert (found[3].low, found[3].high) == pytest.approx(plain, abs=0.02)


def test_interval_takes_infinite_draws() -> None:
    curve = measured_curve(SHARES, study("inf"), "k")
    found = curve.interval(0.3, np.concatenate([np.full(60, np.inf), np.linspace(0.1, 0.5, 940)]))
    assert found.low == pytest.approx(0.11, abs=0.01) and math.isinf(found.high) and math.isnan(found.error)


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        ([0.0], (1, 20), "two increasing x"),
        ([0.0, 0.3, 0.3], (3, 20), "two increasing x"),
        ([0.3, 0.0], (2, 20), "two increasing x"),
        ([0.0, 0.3], (3, 20), "n_items"),
        ([0.0, 0.3], (2, 1), "n_items"),
    ],
)
def test_what_is_no_curve_is_refused(x: list[float], shape: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured_curve(x, [np.zeros(shape)], "k")
    with pytest.raises(ValueError, match="n_items"):
        measured_curve([0.0, 0.3], [], "k")


def test_a_control_of_0_has_no_relative_score() -> None:
    curve = Curve(np.array([0.0, 0.5]), np.array([0.0, 0.2]), np.eye(2), np.zeros((5, 2)), 9, 1, "test")
    with pytest.raises(ValueError, match="control scores 0"):
        curve.relative()
