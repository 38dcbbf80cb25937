"""Mean squares against statsmodels, their moderation against limma and Smyth's equations, components against truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, special

from synthmix import keys
from synthmix.statistics import Crossed, SeedNoise, crossed, crossed_error, seed_noise
from synthmix.statistics.simulate import Loss, Simulation, simulate

Anova = Callable[[np.ndarray], tuple[float, float, float]]


def comparison(ratio: float, freedom: int, rest: float = 1.0) -> Crossed:
    """A comparison with that ratio of mean squares, and seeds - 1."""
    return Crossed(0.0, ratio * rest, 1.2 * rest, rest, freedom + 1, 300)


# -- one comparison ---------------------------------------------------------------------------------------------------


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance(anova: Anova) -> None:
    values = keys.generator("table").normal(size=(4, 30)) + keys.generator("seeds").normal(size=(4, 1))
    table = crossed(values)
    assert (table.of_seeds, table.of_items, table.rest) == pytest.approx(anova(values))
    assert (table.mean, table.seeds, table.items) == (pytest.approx(values.mean()), 4, 30)
    assert table.ratio == pytest.approx(table.of_seeds / table.rest)


def test_noise_never_makes_the_error_smaller_than_a_factor_shows(anova: Anova) -> None:
    values = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])  # neither factor, all rest
    assert crossed_error(values) == (0.0, 1.0)
    values = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    of_seeds, of_items, rest = anova(values)
    assert of_seeds + of_items - rest < max(of_seeds, of_items)
    assert crossed_error(values)[0] == pytest.approx(math.sqrt(max(of_seeds, of_items) / 8))
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

RATIOS = (0.4, 1.9, 0.15, 7.2, 0.9, 3.1, 0.05, 12.5)
#: ``limma::fitFDist(x, df)`` and ``squeezeVar(x, df)`` of limma 3.54.1: scale, df2, var.post.
LIMMA = [
    (
        (2,) * 8, 0.958792098945646, 1.76489869691232,
        (0.661948999605988, 1.45878318865346, 0.52914330143141, 4.27426398995451,
         0.927560395955144, 2.09625053989143, 0.476021022161579, 7.08974479125556),
    ),
    (
        (2, 2, 4, 4, 1, 1, 2, 9), 1.09033574052623, 2.00885878354083,
        (0.745930622860053, 1.49427327147544, 0.464369463467463, 5.15744031366685,
         1.02707729132037, 1.75825151991312, 0.57131733818313, 10.4180036082247),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("freedom", "scale", "worth", "squeezed"), LIMMA)
def test_ratios_are_squeezed_as_by_limma(
    freedom: tuple[int, ...], scale: float, worth: float, squeezed: tuple[float, ...]
) -> None:
    """But for ratios below 1, which count as 1."""
    noise = seed_noise([comparison(r, f, rest=0.2) for r, f in zip(RATIOS, freedom, strict=True)])
    assert noise is not None and (noise.ratio, noise.freedom) == pytest.approx((scale, worth), rel=1e-7)
    for ratio, f, expected in zip(RATIOS, freedom, squeezed, strict=True):
        assert noise.moderate(ratio, f) == pytest.approx((max(1.0, expected), f + worth), rel=1e-7)


def test_ratios_that_are_all_alike_are_pooled_as_by_limma() -> None:
    noise = seed_noise([comparison(r, 4) for r in (0.9, 1.1, 1.3, 0.8, 1.0)])
    assert noise is not None and (noise.ratio, noise.freedom) == (pytest.approx(1.02), math.inf)
    assert noise.moderate(7.0, 4) == pytest.approx((1.02, 20))


def test_the_typical_ratio_solves_smyths_equations() -> None:
    """Mean and variance of the logarithm of a scaled F variable (Smyth 2004, section 6.2), solved by root finding."""
    freedom, ratios = 3.0, np.array(RATIOS)
    noise = seed_noise([comparison(r, int(freedom)) for r in RATIOS])

    def off(guess: np.ndarray) -> list[float]:
        scale, worth = np.exp(guess)
        mean = (
            math.log(scale) + special.digamma(freedom / 2) - math.log(freedom / 2)
            - special.digamma(worth / 2) + math.log(worth / 2)
        )  # fmt: skip
        spread = special.polygamma(1, freedom / 2) + special.polygamma(1, worth / 2)
        return [mean - np.log(ratios).mean(), float(spread - np.log(ratios).var(ddof=1))]

    solved = optimize.root(off, np.log([1.0, 5.0]), tol=1e-12)
    assert solved.success and noise is not None
    assert (noise.ratio, noise.freedom) == pytest.approx(tuple(np.exp(solved.x)), rel=1e-6)


def test_comparisons_with_one_control_are_worth_fewer_degrees_of_freedom() -> None:
    """The pooled mean square of k differences to one run varies as one of k / (1 + (k - 1) / 4) times seeds - 1."""
    rng, seeds, k = keys.generator("shared"), 3, 5
    runs = rng.normal(size=(20_000, k + 1, seeds))
    pooled = (runs[:, 1:] - runs[:, :1]).var(axis=2, ddof=1).mean(axis=1)
    worth = 2 * pooled.mean() ** 2 / pooled.var()
    noise = seed_noise([comparison(1.0, seeds - 1)] * k, ["one control"] * k)
    assert noise is not None and noise.pooled == pytest.approx(worth, rel=0.05)
    apart = seed_noise([comparison(1.0, seeds - 1)] * k)
    assert apart is not None and apart.pooled == k * (seeds - 1)


def test_no_comparison_has_more_degrees_of_freedom_than_all_together() -> None:
    noise = SeedNoise(ratio=2.0, freedom=50.0, pooled=12.0)
    ratio, freedom = noise.moderate(4.0, 2.0)
    assert (ratio, freedom) == (pytest.approx((50 * 2 + 2 * 4) / 52), 12.0)


def test_noise_replaces_the_seeds_and_leaves_the_items() -> None:
    table, noise = comparison(3.0, 2, rest=0.2), SeedNoise(ratio=2.0, freedom=6.0, pooled=20.0)
    ratio, freedom = noise.moderate(3.0, 2.0)
    total = ratio * 0.2 + 0.24 - 0.2
    error, found = table.error(noise)
    assert error == pytest.approx(math.sqrt(total / 900))
    spread = (ratio * 0.2) ** 2 / freedom + 0.24**2 / 299 + 0.2**2 / (2 * 299)
    assert found == pytest.approx(total**2 / spread)
    assert table.spread(noise).seed == pytest.approx((ratio - 1) * 0.2 / 300)
    assert table.spread(noise).item == table.spread().item == pytest.approx(0.04 / 3)


@pytest.mark.parametrize("tables", [[], [comparison(2.0, 2)] * 2, [comparison(0.0, 2)] * 5])
def test_too_little_says_nothing_of_a_study(tables: list[Crossed]) -> None:
    assert seed_noise(tables) is None


def test_comparisons_without_any_variation_are_left_out() -> None:
    tables = [comparison(r, 2) for r in RATIOS]
    still = Crossed(0.0, 0.0, 0.0, 0.0, 3, 300)
    assert seed_noise([*tables, still]) == seed_noise(tables)
    assert still.error(seed_noise(tables))[0] == 0.0
