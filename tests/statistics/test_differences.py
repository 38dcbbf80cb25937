"""A condition against its control: by hand, and against scipy and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from synthmix import keys
from synthmix.statistics import (
    CROSSED,
    MODERATED,
    Paired,
    cohens_d,
    crossed,
    crossed_error,
    difference,
    hierarchical_bootstrap,
    mcnemar,
    paired_difference,
    paired_t,
    seed_noise,
    tost,
)
from synthmix.statistics.differences import NO_DIFFERENCE, UNSHARED

Anova = Callable[[np.ndarray], tuple[float, float, float]]


def coin(name: object, *shape: int, p: float = 0.6) -> np.ndarray:
    return (keys.generator("coin", name).random(shape) < p).astype(float)


def sides(seeds: int, n: int = 60) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Treatment and control of some seeds; the more seeds, the larger the losses of the last."""
    control = [coin(("c", s), n, p=0.7) for s in range(seeds)]
    return [c * coin(("l", s), n, p=0.95 - 0.4 * s / 2 * (s > 0)) for s, c in enumerate(control)], control


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


# -- one seed ---------------------------------------------------------------------------------------------------------


def test_one_seed_of_binary_scores_uses_exact_mcnemar() -> None:
    control, treatment = coin("c", 120), coin("t", 120)
    table = [[int(np.sum((treatment == i) & (control == j))) for j in (1, 0)] for i in (1, 0)]
    expected = reference_mcnemar(table, exact=True).pvalue
    assert mcnemar(treatment, control) == pytest.approx(expected)
    found = paired_difference([treatment], [control], "m")
    assert found.p_value == pytest.approx(expected) and found.test == "McNemar, exact"
    assert math.isnan(found.p_seeds) and math.isinf(found.freedom) and found.spread is None
    assert found.p_mcnemar == (found.p_value,) and found.points == found.bootstrap


def test_one_seed_of_fractional_scores_is_tested_by_its_bootstrap_error() -> None:
    rng = keys.generator("fractional")
    control = rng.beta(2, 1, 200)
    treatment = np.clip(control - 0.02 + 0.2 * rng.normal(size=200), 0, 1)
    found = paired_difference([treatment], [control], "f")
    assert found.test == "bootstrap z" and math.isnan(found.p_mcnemar[0])
    assert found.p_value == pytest.approx(stats.ttest_rel(treatment, control).pvalue, abs=0.03)


# -- several seeds ----------------------------------------------------------------------------------------------------


def test_several_seeds_are_a_random_factor_beside_the_items(anova: Anova) -> None:
    control = [coin(("c", s), 60, p=0.7) for s in range(3)]
    treatment = [c * coin(("l", s), 60, p=0.95 - 0.4 * s) for s, c in enumerate(control)]
    found = paired_difference(treatment, control, "p")
    of_seeds, of_items, rest = anova(np.stack(treatment) - np.stack(control))
    total = of_seeds + of_items - rest
    freedom = total**2 / (of_seeds**2 / 2 + of_items**2 / 59 + rest**2 / 118)
    assert found.test == CROSSED and found.freedom == pytest.approx(freedom)
    assert found.points.error == pytest.approx(math.sqrt(total / 180))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.points.estimate) / found.points.error, freedom))
    assert found.points.high - found.points.estimate == pytest.approx(stats.t.ppf(0.975, freedom) * found.points.error)
    means = [[x.mean() for x in side] for side in (treatment, control)]
    assert found.p_seeds == pytest.approx(stats.ttest_rel(*means).pvalue)
    assert found.relative is not None and found.relative.high > found.relative.estimate > found.relative.low


def test_seeds_that_answer_alike_are_one_paired_t_test_over_items() -> None:
    """Student's t and the equivalence test of scipy and statsmodels, which know one test set alone."""
    (treatment,), (control,) = sides(1, 400)
    found = paired_difference([treatment] * 3, [control] * 3, "k")
    reference = stats.ttest_rel(treatment, control)
    assert found.p_value == pytest.approx(reference.pvalue) and found.freedom == 399
    interval = reference.confidence_interval(0.95)
    assert (found.points.low, found.points.high) == pytest.approx((interval.low, interval.high))
    assert found.equivalence(0.08) == pytest.approx(ttost_paired(treatment, control, -0.08, 0.08)[0], abs=1e-9)
    assert math.isnan(found.p_seeds)  # all seeds differ alike


def test_other_items_in_every_seed_are_a_paired_t_test_over_seeds() -> None:
    control = [coin(("c", s), 100 + 20 * s, p=0.7) for s in range(4)]
    treatment = [c * coin(("l", s), len(c), p=0.9) for s, c in enumerate(control)]
    found = paired_difference(treatment, control, "k", shared_items=False)
    means = [[x.mean() for x in side] for side in (treatment, control)]
    reference = stats.ttest_rel(*means)
    interval = reference.confidence_interval(0.95)
    assert (found.test, found.freedom, found.points.n_items) == (UNSHARED, 3, 100)
    assert found.p_value == pytest.approx(reference.pvalue) == found.p_seeds
    assert (found.points.low, found.points.high) == pytest.approx((interval.low, interval.high))


def test_the_noise_of_the_study_moves_error_freedom_and_spread() -> None:
    treatment, control = sides(3)
    pair = Paired(treatment, control)
    assert pair.crossed is not None
    tables = [crossed(np.stack([coin((k, s), 60, p=0.5 + 0.1 * s) - 0.5 for s in range(3)])) for k in range(6)]
    noise = seed_noise([[table] for table in [pair.crossed, *tables]])[0]
    assert noise is not None
    found, alone = difference(pair, "k", noise=noise), difference(pair, "k")
    assert (found.points.error, found.freedom) == pair.crossed.error(noise)
    assert found.spread == pair.crossed.spread(noise) != alone.spread
    assert (found.test, alone.test) == (MODERATED, CROSSED) and found.freedom > alone.freedom
    assert found.relative is not None and pair.ratio_gaps is not None
    assert found.relative.error == crossed(np.stack(pair.ratio_gaps)).error(noise)[0]


def test_a_relative_difference_moves_as_the_ratio_does() -> None:
    """The linearised error is that of the delta method: finite differences of the ratio give the same."""
    treatment, control = sides(3, 200)
    found = paired_difference(treatment, control, "r")
    ours, theirs = np.stack(treatment), np.stack(control)

    def ratio(weights: np.ndarray) -> float:
        return float((weights * ours).sum() / (weights * theirs).sum())

    step, moved = 1e-6, np.empty_like(ours)
    for index in np.ndindex(*ours.shape):
        weights = np.ones_like(ours)
        weights[index] += step
        moved[index] = (ratio(weights) - ratio(np.ones_like(ours))) / step * ours.size
    assert found.relative is not None
    assert found.relative.error == pytest.approx(crossed_error(moved)[0], rel=1e-4)
    interval = found.relative.high - found.relative.estimate
    assert interval == pytest.approx(stats.t.ppf(0.975, crossed_error(moved)[1]) * found.relative.error, rel=1e-3)


def test_equivalence_is_tested_in_points_and_relative_to_the_control() -> None:
    found = paired_difference(*sides(3, 400), "e")
    assert found.relative is not None
    assert found.equivalence(0.03) == tost(found.points.estimate, found.points.error, found.freedom, 0.03)
    relative = tost(found.relative.estimate, found.relative.error, found.freedom, 0.1)
    assert found.equivalence(0.1, relative=True) == relative != found.equivalence(0.1)


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.17), (3, 0.10), (5, 0.08)])
def test_runs_that_differ_by_chance_are_rarely_called_an_effect(seeds: int, most: float) -> None:
    """No effect, but every training run has a level of its own: at 5 %, a test should err in 5 % of studies. Two seeds
    are too few for any test; the bootstrap over so few errs about twice as often, which is why it does not decide."""
    rng, trials, n = keys.generator("null", seeds), 400, 200
    errors = by_bootstrap = 0
    for trial in range(trials):
        hardness = rng.normal(0, 1.5, n)
        pair = []
        for _ in range(2):
            levels = rng.normal(0.6, 0.5, (seeds, 1))
            pair.append(list((rng.random((seeds, n)) < 1 / (1 + np.exp(hardness - levels))).astype(float)))
        errors += paired_difference(*pair, trial, resamples=2).p_value < 0.05
        if trial < 100:
            gaps = [a - b for a, b in zip(*pair, strict=True)]
            interval = hierarchical_bootstrap(gaps, trial, resamples=200)
            by_bootstrap += not interval.low <= 0 <= interval.high
    assert errors / trials < most
    assert by_bootstrap / 100 > 1.2 * errors / trials


# -- effect sizes -----------------------------------------------------------------------------------------------------


def test_d_z_is_the_paired_t_over_the_root_of_n() -> None:
    (treatment,), (control,) = sides(1, 300)
    d_z, d_av = cohens_d(Paired([treatment], [control]))
    assert d_z == pytest.approx(stats.ttest_rel(treatment, control).statistic / math.sqrt(300))
    spread = (treatment.std(ddof=1) + control.std(ddof=1)) / 2
    assert d_av == pytest.approx((treatment.mean() - control.mean()) / spread)


def test_cohens_d_averages_items_over_seeds_where_they_are_the_same() -> None:
    treatment, control = sides(3, 80)
    ours, theirs = np.mean(treatment, axis=0), np.mean(control, axis=0)
    assert cohens_d(Paired(treatment, control)) == pytest.approx(cohens_d(Paired([ours], [theirs])))
    joined = Paired([np.concatenate(treatment)], [np.concatenate(control)])
    assert cohens_d(Paired(treatment, control, shared_items=False)) == pytest.approx(cohens_d(joined))
    assert all(map(math.isnan, cohens_d(Paired([np.ones(5)], [np.zeros(5)]))))


# -- edges ------------------------------------------------------------------------------------------------------------


def test_conditions_that_never_differ_have_no_p_and_a_bounded_interval() -> None:
    scores = coin("same", 200)
    found = paired_difference([scores], [scores], "same")
    bound = proportion_confint(0, 200, method="wilson")[1]
    assert (found.points.low, found.points.high) == pytest.approx((-bound, bound))
    assert found.p_value == 1.0 and found.relative is None and found.test == NO_DIFFERENCE
    assert found.equivalence(0.03) < 0.05 < found.equivalence(0.01) and math.isnan(found.equivalence(0.1, True))


def test_a_control_of_zero_has_no_relative_change() -> None:
    for seeds in (1, 3):
        treatment = [coin(("t", s), 100, p=0.2) for s in range(seeds)]
        found = paired_difference(treatment, [np.zeros(100)] * seeds, "zero")
        assert found.relative is None and found.points.estimate > 0
        assert math.isnan(found.equivalence(0.1, relative=True))


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="pairs differ"):
        paired_difference([np.ones(3)], [np.ones(4)], "x")


def test_paired_t_without_variation_is_undefined() -> None:
    assert math.isnan(paired_t(np.array([0.5]), np.array([0.4])))
    assert math.isnan(paired_t(np.array([0.5, 0.6]), np.array([0.4, 0.5])))
