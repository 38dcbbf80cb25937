"""Levels and their intervals against scipy and statsmodels, and the calibration error's against simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netcal.metrics import ECE
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from synthmix import keys
from synthmix.metrics import expected_calibration_error
from synthmix.statistics import crossed, ece_interval, hierarchical_bootstrap, mean_interval, seed_noise, wilson
from synthmix.statistics.simulate import Simulation, simulate


def coin(name: object, *shape: int, p: float = 0.6) -> np.ndarray:
    return (keys.generator("coin", name).random(shape) < p).astype(float)


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (50, 50), (17, 50), (640, 1319)])
def test_wilson_equals_statsmodels(successes: int, n: int) -> None:
    interval = wilson(successes, n)
    low, high = proportion_confint(successes, n, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.estimate == successes / n


# -- bootstrap --------------------------------------------------------------------------------------------------------


def test_one_seed_bootstrap_is_close_to_the_normal_interval_and_says_items_only() -> None:
    scores = coin("one", 1000)
    interval = hierarchical_bootstrap([scores], "test")
    error = math.sqrt(scores.var() / 1000)
    assert interval.error == pytest.approx(error, rel=0.1)
    assert interval.low == pytest.approx(scores.mean() - 1.96 * error, abs=0.006)
    assert interval.high == pytest.approx(scores.mean() + 1.96 * error, abs=0.006)
    assert "items only" in interval.method and not interval.covers_runs


def test_bootstrap_of_one_seed_agrees_with_scipy_on_fractional_scores() -> None:
    scores = keys.generator("f1").beta(2, 1, size=400)
    ours = hierarchical_bootstrap([scores], "f1")
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_intervals_are_a_function_of_the_key() -> None:
    scores = [coin("a", 200), coin("b", 200)]
    assert hierarchical_bootstrap(scores, "x") == hierarchical_bootstrap(scores, "x")
    assert hierarchical_bootstrap(scores, "x").error != hierarchical_bootstrap(scores, "y").error


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_wrong_and_all_right_get_a_wilson_interval_instead_of_width_zero(value: float) -> None:
    for interval_of in (hierarchical_bootstrap, mean_interval):
        interval = interval_of([np.full(80, value), np.full(80, value)], "same")
        low, high = proportion_confint(80 * value, 80, method="wilson")
        assert (interval.low, interval.high) == pytest.approx((low, high))
        assert interval.high > interval.low and interval.n_items == 80 and interval.n_seeds == 2


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = [coin("s0", 400, p=0.6), coin("s1", 400, p=0.6), coin("s2", 400, p=0.6)]
    apart = [coin("s0", 400, p=0.4), coin("s1", 400, p=0.6), coin("s2", 400, p=0.8)]
    for interval_of in (hierarchical_bootstrap, mean_interval):
        narrow, wide = interval_of(alike, "w"), interval_of(apart, "w")
        assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
        assert wide.covers_runs


def test_items_apart_in_each_seed_may_differ_in_number() -> None:
    scores = [coin("s0", 150), coin("s1", 300)]
    interval = hierarchical_bootstrap(scores, "ragged", shared_items=False)
    assert interval.estimate == pytest.approx((scores[0].mean() + scores[1].mean()) / 2)
    assert interval.low < interval.estimate < interval.high and interval.n_items == 150
    with pytest.raises(ValueError, match="same items"):
        hierarchical_bootstrap(scores, "ragged")
    with pytest.raises(ValueError, match="at least one item"):
        hierarchical_bootstrap([np.array([])], "empty")


def test_shared_hard_items_are_not_counted_once_a_seed() -> None:
    """Three seeds that answer alike are one test set: the interval must be as wide as that of one seed."""
    one = coin("alike", 500)
    single = hierarchical_bootstrap([one], "k")
    shared = hierarchical_bootstrap([one] * 3, "k")
    apart = hierarchical_bootstrap([one] * 3, "k", shared_items=False)
    assert shared.error == pytest.approx(single.error, rel=0.1)
    assert apart.error < 0.7 * single.error


# -- Student's t ------------------------------------------------------------------------------------------------------


def test_seeds_that_answer_alike_have_the_interval_of_one_test_set() -> None:
    """No seed adds anything: Student's t over items, as scipy has it."""
    one = coin("alike", 500)
    interval = mean_interval([one] * 3, "k")
    low, high = stats.ttest_1samp(one, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert interval.method == "t, seeds and items random"


def test_a_level_is_the_crossed_error_with_the_noise_of_the_study() -> None:
    scores = [coin(("s", s), 200, p=p) for s, p in enumerate((0.5, 0.55, 0.7))]
    others = [[coin(("o", k, s), 200) for s in range(3)] for k in range(4)]
    noise = seed_noise([[crossed(np.stack(rows))] for rows in [scores, *others]])[0]
    for lent, level in ((None, 0.95), (noise, 0.95), (noise, 0.9)):
        interval = mean_interval(scores, "k", noise=lent, level=level)
        error, freedom = crossed(np.stack(scores)).error(lent)
        assert interval.error == error and interval.estimate == pytest.approx(np.mean(scores))
        assert interval.high - interval.estimate == pytest.approx(stats.t.ppf((1 + level) / 2, freedom) * error)


def test_a_level_stays_between_0_and_1() -> None:
    scores = [coin(("low", s), 40, p=0.02) for s in range(3)]
    interval = mean_interval(scores, "k")
    assert interval.low == 0.0 < interval.estimate < interval.high
    assert mean_interval([1 - row for row in scores], "k").high == 1.0


def test_a_level_without_shared_items_or_with_one_seed_is_a_bootstrap() -> None:
    ragged = [coin("s0", 150), coin("s1", 300)]
    assert mean_interval(ragged, "k", shared_items=False) == hierarchical_bootstrap(ragged, "k", shared_items=False)
    assert mean_interval(ragged[:1], "k") == hierarchical_bootstrap(ragged[:1], "k")


# -- expected calibration error ---------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 80), st.integers(2, 15))
def test_ece_estimate_is_that_of_the_metric(seed: int, n: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, score = np.round(rng.random(n), 2), (rng.random(n) < 0.5).astype(float)
    interval = ece_interval([confidence], [score], seed, bins=bins, resamples=50)
    assert interval.estimate == pytest.approx(expected_calibration_error(confidence, score, n_bins=bins), abs=1e-12)
    assert 0 <= interval.low <= interval.high <= 1


def test_ece_estimate_is_that_of_netcal_averaged_over_seeds() -> None:
    drawn = simulate(Simulation(shares=(0.0,), sharpness=1.7, shift=0.3), "netcal")
    confidence, score = list(drawn.confidence[0, 0]), list(drawn.scores[0, 0])
    reference = [ECE(10).measure(c, s.astype(int)) for c, s in zip(confidence, score, strict=True)]
    assert ece_interval(confidence, score, "k", resamples=20).estimate == pytest.approx(np.mean(reference), abs=1e-9)


@pytest.mark.parametrize(
    ("n", "power", "truth"),
    [(300, 1.0, 0.0), (300, 2.0, 1 / 6), (1000, 1.0, 0.0), (1000, 1.3, None), (64, 1.0, 0.0), (64, 1.3, None)],
)
def test_ece_intervals_hold_the_truth(n: int, power: float, truth: float | None) -> None:
    """Also that of a calibrated model, whose estimate is always above it (up to 0.05 at 300 items)."""
    edges = np.arange(11) / 10
    per_bin = np.abs(np.diff(edges ** (power + 1) / (power + 1)) - np.diff(edges**2 / 2))
    expected = per_bin.sum()
    assert truth is None or expected == pytest.approx(truth, abs=1e-9)
    hits = 0
    for trial in range(200):
        rng = keys.generator("calibrated", n, power, trial)
        confidence = rng.random(n)
        score = (rng.random(n) < confidence**power).astype(float)
        interval = ece_interval([confidence], [score], trial, resamples=200)
        hits += interval.low - 1e-9 <= expected <= interval.high + 1e-9
    assert hits / 200 >= (0.9 if n >= 300 else 0.85)


# -- coverage of the bootstrap ----------------------------------------------------------------------------------------


def _coverage(shared: bool, seeds: int, trials: int, n: int = 200) -> float:
    """Share of intervals that hold the true mean, when items have a difficulty that all seeds share."""
    task = Simulation((0.6,), shares=(0.0,), items=n, seeds=seeds, response_sd=0.0, seed_sd=0.0, run_sd=0.0)
    hits = 0
    for trial in range(trials):
        scores = list(simulate(task, trial).scores[0, 0])
        interval = hierarchical_bootstrap(scores, trial, shared_items=shared, resamples=200)
        hits += interval.low <= 0.6 <= interval.high
    return hits / trials


@pytest.mark.slow
def test_coverage_with_one_seed_is_nominal() -> None:
    assert 0.91 <= _coverage(True, 1, 300) <= 0.98


@pytest.mark.slow
def test_coverage_with_shared_items_holds_where_items_apart_fall_short() -> None:
    assert _coverage(True, 5, 300) >= 0.95
    assert _coverage(False, 5, 300) < 0.94
