"""Mean squares against statsmodels, their moderation against limma and Smyth's equations, components against truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, special

from synthmix import keys
from synthmix.statistics import Crossed, SeedNoise, crossed, crossed_error, seed_noise
from synthmix.statistics.moderation import UNLIKE, typical
from synthmix.statistics.simulate import Loss, Simulation, simulate

Anova = Callable[[np.ndarray], tuple[float, float, float]]


def comparison(ratio: float, freedom: int, rest: float = 1.0) -> Crossed:
    """A comparison with that ratio of mean squares, and seeds - 1."""
    return Crossed(0.0, ratio * rest, 1.2 * rest, rest, freedom + 1, 300, np.zeros(freedom + 1))


# -- one comparison ---------------------------------------------------------------------------------------------------


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance(anova: Anova) -> None:
    values = keys.generator("table").normal(size=(4, 30)) + keys.generator("seeds").normal(size=(4, 1))
    table = crossed(values)
    assert (table.of_seeds, table.of_items, table.rest) == pytest.approx(anova(values))
    assert (table.mean, table.seeds, table.items) == (pytest.approx(values.mean()), 4, 30)
    assert table.ratio == pytest.approx(table.of_seeds / table.rest)


def test_noise_never_makes_the_error_much_smaller_than_a_factor_shows(anova: Anova) -> None:
    values = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])  # neither factor, all rest
    assert crossed_error(values) == (0.0, 1.0)
    values = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    of_seeds, of_items, rest = anova(values)
    assert of_seeds + of_items - rest < max(of_seeds, of_items) / 4
    error, freedom = crossed_error(values)
    assert error == pytest.approx(math.sqrt(max(of_seeds, of_items) / 4 / 8)) and freedom == 1.0
    with pytest.raises(ValueError, match="two seeds"):
        crossed_error(np.ones((1, 4)))
    with pytest.raises(ValueError, match="two items but got 3 and 1"):
        crossed_error(np.ones((3, 1)))


def test_variance_components_are_those_of_the_simulation() -> None:
    """Averaged over studies the estimates are the true ones, which are computed without drawing."""
    task = Simulation((0.6,), (Loss(0.5),), (0.0, 0.4), items=200, seeds=4, seed_sd=0.2, run_sd=0.3, response_sd=0.5)
    tables = [crossed(study[1] - study[0]) for study in (simulate(task, k).scores[0] for k in range(400))]
    truth = task.spread(0, 1)
    seed = np.array([(t.of_seeds - t.rest) / t.items for t in tables])
    item = np.array([(t.of_items - t.rest) / t.seeds for t in tables])
    assert seed.mean() == pytest.approx(truth.seed, abs=4 * seed.std() / 20)
    assert item.mean() == pytest.approx(truth.item, abs=4 * item.std() / 20)
    assert np.mean([t.rest for t in tables]) == pytest.approx(truth.rest, rel=0.01)


# -- a study ----------------------------------------------------------------------------------------------------------

RATIOS = (0.4, 1.9, 0.15, 7.2, 0.9, 3.1, 0.1, 12.5)
#: ``limma::fitFDist(x, df)`` of limma 3.54.1: scale and df2.
LIMMA = [
    ((2,) * 8, 1.20712672149859, 2.19478163464262),
    ((2, 2, 4, 4, 1, 1, 2, 9), 1.39262550480772, 2.68652955386568),
]


@pytest.mark.parametrize(("freedom", "scale", "worth"), LIMMA)
def test_the_typical_ratio_is_limmas(freedom: tuple[int, ...], scale: float, worth: float) -> None:
    found = typical(np.array(RATIOS), np.array(freedom, dtype=float), unlike=0.0)
    assert found == pytest.approx((scale, worth), rel=1e-7)


def test_ratios_that_are_all_alike_are_pooled_as_by_limma() -> None:
    alike = np.array([0.9, 1.1, 1.3, 0.8, 1.0]), np.full(5, 4.0)
    assert typical(*alike, unlike=0.0) == (pytest.approx(1.02), math.inf)
    assert typical(*alike)[1] == pytest.approx(2 * optimize.brentq(lambda x: special.polygamma(1, x) - UNLIKE, 1, 9))


def test_the_typical_ratio_solves_smyths_equations() -> None:
    """Mean and variance of the logarithm of a scaled F variable (Smyth 2004, section 6.2), solved by root finding."""
    freedom, ratios = 3.0, np.array(RATIOS)

    def off(guess: np.ndarray) -> list[float]:
        scale, worth = np.exp(guess)
        mean = (
            math.log(scale) + special.digamma(freedom / 2) - math.log(freedom / 2)
            - special.digamma(worth / 2) + math.log(worth / 2)
        )  # fmt: skip
        spread = special.polygamma(1, freedom / 2) + special.polygamma(1, worth / 2)
        return [mean - np.log(ratios).mean(), float(spread - np.log(ratios).var(ddof=1))]

    solved = optimize.root(off, np.log([1.0, 5.0]), tol=1e-12)
    assert solved.success
    assert typical(ratios, np.full(8, freedom)) == pytest.approx(tuple(np.exp(solved.x)), rel=1e-6)


def test_groups_of_one_are_squeezed_as_by_limma() -> None:
    """var.post and the degrees of freedom of ``squeezeVar``, where groups are unlike enough."""
    scale, worth = LIMMA[0][1:]
    noise = seed_noise([[comparison(r, 2, rest=0.2)] for r in RATIOS])
    for ratio, one in zip(RATIOS, noise, strict=True):
        assert one is not None
        assert one.ratio == pytest.approx((worth * scale + 2 * ratio) / (worth + 2)) and one.freedom == worth + 2


def test_comparisons_with_one_control_are_worth_fewer_degrees_of_freedom() -> None:
    """The pooled mean square of k differences to one run varies as one of k / (1 + (k - 1) / 4) times seeds - 1."""
    rng, seeds, k = keys.generator("shared"), 3, 5
    runs = rng.normal(size=(20_000, k + 1, seeds))
    pooled = (runs[:, 1:] - runs[:, :1]).var(axis=2, ddof=1).mean(axis=1)
    worth = 2 * pooled.mean() ** 2 / pooled.var()
    (noise,) = seed_noise([[comparison(r, seeds - 1) for r in (0.5, 1.0, 1.5, 2.0, 5.0)]])
    assert noise is not None and noise.freedom == pytest.approx(worth, rel=0.05) and noise.ratio == 2.0


def test_the_correlation_of_levels_is_estimated() -> None:
    """Runs that share half of their variance with the other runs of their seed, in 40 tasks of six."""
    rng, n = keys.generator("levels"), 50
    groups = []
    for _ in range(40):
        runs = rng.normal(size=(4, 1)) + rng.normal(size=(4, 6))
        groups.append([crossed(runs[:, k, None] + rng.normal(size=(4, n)) / 100) for k in range(6)])
    alone = seed_noise([groups[0]], correlation=0.5)[0]
    many = seed_noise(groups, correlation=None)
    wide = seed_noise(groups, correlation=0.0)
    assert alone is not None and many[0] is not None and wide[0] is not None
    assert alone.freedom == pytest.approx(3 * 6 / (1 + 5 / 4))
    prior = many[0].freedom - 3 * 6 / (1 + 5 * 0.5**2)
    assert wide[0].freedom - 18 == pytest.approx(prior, rel=0.5) and many[0].freedom < wide[0].freedom


def test_no_group_has_more_degrees_of_freedom_than_all_together() -> None:
    noise = seed_noise([[comparison(1.0, 1)], [comparison(1.1, 1)]])
    assert all(one is not None and one.freedom == 2.0 for one in noise)


def test_two_seeds_that_agree_to_the_last_item_are_no_outlier() -> None:
    ratios = np.array([0.0, 0.7, 1.5, 2.0, 0.9, 1.2])
    ratio, worth = typical(ratios, np.ones(6))
    assert 1 < ratio < 3 and worth > 1  # an offset of 1e-5 gives 0.07 and 0.3


def test_noise_replaces_the_seeds_and_leaves_the_items() -> None:
    table, noise = comparison(3.0, 2, rest=0.2), SeedNoise(ratio=2.0, freedom=6.0)
    total = 2.0 * 0.2 + 0.24 - 0.2
    error, found = table.error(noise)
    assert error == pytest.approx(math.sqrt(total / 900))
    assert found == pytest.approx(total**2 / ((2.0 * 0.2) ** 2 / 6 + 0.24**2 / 299 + 0.2**2 / (2 * 299)))
    assert table.spread(noise).seed == pytest.approx(0.2 / 300)
    assert table.spread(noise).item == table.spread().item == pytest.approx(0.04 / 3)


@pytest.mark.parametrize("groups", [[], [[]], [[comparison(2.0, 2)]], [[], [comparison(2.0, 2)]]])
def test_a_lone_comparison_learns_nothing(groups: list[list[Crossed]]) -> None:
    assert seed_noise(groups) == [None] * len(groups)


def test_seeds_that_never_differ_stay_alike() -> None:
    noise = seed_noise([[comparison(0.0, 2)] * 2] * 3)
    assert all(one is not None and one.ratio == 0.0 for one in noise)


def test_comparisons_without_any_variation_are_left_out() -> None:
    tables = [[comparison(r, 2)] for r in RATIOS]
    still = Crossed(0.0, 0.0, 0.0, 0.0, 3, 300, np.zeros(3))
    assert seed_noise([*tables, [still]]) == [*seed_noise(tables), None]
    assert still.error(SeedNoise(2.0, 4.0))[0] == 0.0
