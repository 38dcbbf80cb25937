"""Intervals and tests against scipy, statsmodels, and simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from synthmix import keys
from synthmix.metrics import expected_calibration_error
from synthmix.statistics import (
    bonferroni,
    crossed_error,
    ece_interval,
    hierarchical_bootstrap,
    mcnemar,
    paired_difference,
    paired_t,
    wilson,
)


def coin(name: object, *shape: int, p: float = 0.6) -> np.ndarray:
    return (keys.generator("coin", name).random(shape) < p).astype(float)


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (50, 50), (17, 50), (640, 1319)])
def test_wilson_equals_statsmodels(successes: int, n: int) -> None:
    interval = wilson(successes, n)
    low, high = proportion_confint(successes, n, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.estimate == successes / n


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
    interval = hierarchical_bootstrap([np.full(80, value), np.full(80, value)], "same")
    low, high = proportion_confint(80 * value, 80, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.high > interval.low and interval.n_items == 80 and interval.n_seeds == 2


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = [coin("s0", 400, p=0.6), coin("s1", 400, p=0.6), coin("s2", 400, p=0.6)]
    apart = [coin("s0", 400, p=0.4), coin("s1", 400, p=0.6), coin("s2", 400, p=0.8)]
    narrow, wide = hierarchical_bootstrap(alike, "w"), hierarchical_bootstrap(apart, "w")
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


def test_paired_difference_finds_the_known_effect_and_is_sharper_than_unpaired() -> None:
    control = coin("control", 600, p=0.7)
    treatment = control * coin("loss", 600, p=0.9)
    found = paired_difference([treatment], [control], "effect")
    assert found.points.estimate == pytest.approx(treatment.mean() - control.mean())
    assert found.points.high < 0
    errors = [hierarchical_bootstrap([x], "u").error for x in (treatment, control)]
    assert found.points.error < 0.6 * math.hypot(*errors)
    assert found.relative is not None
    assert found.relative.estimate == pytest.approx(treatment.mean() / control.mean() - 1)
    assert found.relative.low < found.relative.estimate < found.relative.high < 0


def test_one_seed_of_binary_scores_uses_exact_mcnemar() -> None:
    control, treatment = coin("c", 120), coin("t", 120)
    table = [[int(np.sum((treatment == i) & (control == j))) for j in (1, 0)] for i in (1, 0)]
    expected = reference_mcnemar(table, exact=True).pvalue
    assert mcnemar(treatment, control) == pytest.approx(expected)
    found = paired_difference([treatment], [control], "m")
    assert found.p_value == pytest.approx(expected) and found.test == "McNemar, exact"
    assert math.isnan(found.p_seeds)


def anova(values: np.ndarray) -> tuple[float, float, float]:
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


def test_several_seeds_are_a_random_factor_beside_the_items() -> None:
    control = [coin(("c", s), 60, p=0.7) for s in range(3)]
    treatment = [c * coin(("l", s), 60, p=0.95 - 0.4 * s) for s, c in enumerate(control)]
    found = paired_difference(treatment, control, "p")
    of_seeds, of_items, rest = anova(np.stack(treatment) - np.stack(control))
    total = of_seeds + of_items - rest
    freedom = total**2 / (of_seeds**2 / 2 + of_items**2 / 59 + rest**2 / 118)
    assert found.points.error == pytest.approx(math.sqrt(total / 180))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.points.estimate) / found.points.error, freedom))
    assert found.points.high - found.points.estimate == pytest.approx(stats.t.ppf(0.975, freedom) * found.points.error)
    means = [[x.mean() for x in side] for side in (treatment, control)]
    assert found.p_seeds == pytest.approx(stats.ttest_rel(*means).pvalue)
    assert found.relative is not None and found.relative.high > found.relative.estimate > found.relative.low


def test_noise_never_makes_the_error_smaller_than_a_factor_shows() -> None:
    values = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])  # neither factor, all rest
    assert crossed_error(values) == (0.0, 1.0)
    values = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    of_seeds, of_items, rest = anova(values)
    assert of_seeds + of_items - rest < max(of_seeds, of_items)
    assert crossed_error(values)[0] == pytest.approx(math.sqrt(max(of_seeds, of_items) / 8))
    with pytest.raises(ValueError, match="two seeds"):
        crossed_error(np.ones((1, 4)))


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.17), (3, 0.10), (5, 0.08)])
def test_runs_that_differ_by_chance_are_rarely_called_an_effect(seeds: int, most: float) -> None:
    """No effect, but every training run has a level of its own: at 5 %, a test should err in 5 % of studies. Two seeds
    are too few for any test; the bootstrap over so few errs about twice as often, which is why it does not decide."""
    rng, trials, n = keys.generator("null", seeds), 400, 200
    errors = by_bootstrap = 0
    for trial in range(trials):
        hardness = rng.normal(0, 1.5, n)
        sides = []
        for _ in range(2):
            levels = rng.normal(0.6, 0.5, (seeds, 1))
            sides.append(list((rng.random((seeds, n)) < 1 / (1 + np.exp(hardness - levels))).astype(float)))
        errors += paired_difference(*sides, trial).p_value < 0.05
        if trial < 100:
            gaps = [a - b for a, b in zip(*sides, strict=True)]
            interval = hierarchical_bootstrap(gaps, trial, resamples=200)
            by_bootstrap += not interval.low <= 0 <= interval.high
    assert errors / trials < most
    assert by_bootstrap / 100 > 1.2 * errors / trials


def test_conditions_that_never_differ_have_no_p_and_a_bounded_interval() -> None:
    scores = coin("same", 200)
    found = paired_difference([scores], [scores], "same")
    bound = proportion_confint(0, 200, method="wilson")[1]
    assert (found.points.low, found.points.high) == pytest.approx((-bound, bound))
    assert found.p_value == 1.0 and found.relative is None


def test_a_control_of_zero_has_no_relative_change() -> None:
    found = paired_difference([coin("t", 100, p=0.2)], [np.zeros(100)], "zero")
    assert found.relative is None and found.points.estimate > 0


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="pairs differ"):
        paired_difference([np.ones(3)], [np.ones(4)], "x")


def test_paired_t_without_variation_is_undefined() -> None:
    assert math.isnan(paired_t(np.array([0.5]), np.array([0.4])))
    assert math.isnan(paired_t(np.array([0.5, 0.6]), np.array([0.4, 0.5])))


def test_bonferroni_equals_statsmodels_and_leaves_out_what_was_not_tested() -> None:
    p = [0.001, 0.02, 0.4]
    assert bonferroni(p) == pytest.approx(list(multipletests(p, method="bonferroni")[1]))
    with_gap = bonferroni([0.001, math.nan, 0.02, 0.4])
    assert math.isnan(with_gap[1]) and with_gap[0] == pytest.approx(0.003)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 80), st.integers(2, 15))
def test_ece_estimate_is_that_of_the_metric(seed: int, n: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, score = np.round(rng.random(n), 2), (rng.random(n) < 0.5).astype(float)
    interval = ece_interval([confidence], [score], seed, bins=bins, resamples=50)
    assert interval.estimate == pytest.approx(expected_calibration_error(confidence, score, n_bins=bins), abs=1e-12)
    assert 0 <= interval.low <= interval.high <= 1


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


def _coverage(shared: bool, seeds: int, trials: int, n: int = 200) -> float:
    """Share of intervals that hold the true mean, when items have a difficulty that all seeds share."""
    rng = keys.generator("coverage", seeds)
    truth = 1 / (1 + np.exp(-0.6 - rng.normal(0, 1.5, 400_000)))
    hits = 0
    for trial in range(trials):
        p = 1 / (1 + np.exp(-0.6 - rng.normal(0, 1.5, n)))
        scores = [(rng.random(n) < p).astype(float) for _ in range(seeds)]
        interval = hierarchical_bootstrap(scores, trial, shared_items=shared, resamples=200)
        hits += interval.low <= truth.mean() <= interval.high
    return hits / trials


@pytest.mark.slow
def test_coverage_with_one_seed_is_nominal() -> None:
    assert 0.91 <= _coverage(True, 1, 300) <= 0.98


@pytest.mark.slow
def test_coverage_with_shared_items_holds_where_items_apart_fall_short() -> None:
    assert _coverage(True, 5, 300) >= 0.95
    assert _coverage(False, 5, 300) < 0.94


def test_a_study_of_sixty_cells_is_quick() -> None:
    """Sixty conditions of 500 items in three seeds: a bootstrap each, within seconds."""
    import time

    scores = [coin(("quick", s), 500) for s in range(3)]
    start = time.process_time()
    for cell in range(60):
        hierarchical_bootstrap(scores, cell)
    assert time.process_time() - start < 10
