"""The simulator's truth against other integrals and large draws, its draws against their model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import expit

from synthmix.metrics import expected_calibration_error
from synthmix.statistics import crossed
from synthmix.statistics.simulate import Loss, Simulation, simulate

NOISY = Simulation(
    control=(0.6, 0.2), losses=(Loss(slope=0.8, start=0.2), Loss(jump=0.1)), shares=(0.0, 0.2, 0.5),
    response_sd=0.5, seed_sd=0.3, run_sd=(0.2, 0.3, 0.6), partial=0.4, sharpness=1.6, shift=0.2,
)  # fmt: skip


# -- effect curves ----------------------------------------------------------------------------------------------------


def test_curves_are_flat_linear_or_broken() -> None:
    shares = (0.0, 0.1, 0.2, 0.4)
    assert Loss().at(shares).tolist() == [0, 0, 0, 0]
    assert Loss(slope=0.5).at(shares) == pytest.approx([0, 0.05, 0.1, 0.2])
    assert Loss(slope=0.5, start=0.2).at(shares) == pytest.approx([0, 0, 0, 0.1])
    assert Loss(jump=0.1, slope=0.5, start=0.2).at(shares) == pytest.approx([0, 0.1, 0.1, 0.2])


@pytest.mark.parametrize("loss", [Loss(0.5), Loss(0.6, 0.2), Loss(1.0, 0.1, 0.03)])
def test_the_safe_proportion_is_where_the_curve_reaches_the_margin(loss: Loss) -> None:
    share = loss.safe_proportion(0.1)
    assert loss.at([share])[0] == pytest.approx(0.1) and loss.at([share - 1e-6])[0] < 0.1
    assert Loss().safe_proportion() == Loss(slope=-0.2).safe_proportion() == math.inf
    assert Loss(jump=0.2).safe_proportion(0.1) == 0.0


# -- truth ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 0.98), st.floats(0.1, 3.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_mean_over_items_and_runs_is_the_wanted_level(level: float, items: float, seed: float, run: float) -> None:
    """By adaptive quadrature, which knows nothing of Gauss and Hermite."""
    task = Simulation((level,), shares=(0.0,), item_sd=items, seed_sd=seed, run_sd=run)
    at, sd = float(task.theta[0, 0]), math.hypot(items, task.response_sd, seed, run)
    mean, _ = integrate.quad(lambda z: float(expit(at + sd * z)) * stats.norm.pdf(z), -10, 10, epsabs=1e-11, limit=200)
    assert mean == pytest.approx(level, abs=1e-7)


def test_levels_differences_and_relative_losses_are_those_of_the_curve() -> None:
    assert NOISY.levels == pytest.approx(np.array([[0.6, 0.6, 0.6 * 0.76], [0.2, 0.18, 0.18]]))
    assert NOISY.differences[0] == pytest.approx([0, 0, -0.144]) and NOISY.differences[1, 1] == pytest.approx(-0.02)
    assert NOISY.relative == pytest.approx(np.array([[0, 0, -0.24], [0, -0.1, -0.1]]))


def test_a_single_loss_holds_for_all_tasks() -> None:
    both = Simulation((0.6, 0.3), (Loss(0.5),), (0.0, 0.4))
    assert both.relative == pytest.approx(np.array([[0, -0.2], [0, -0.2]]))


@pytest.mark.parametrize("share", [1, 2])
def test_variance_components_are_those_of_many_tables(share: int) -> None:
    """Estimates from mean squares, averaged over drawn studies, within four standard errors of the truth."""
    studies = [simulate(replace(NOISY, seeds=8), k).scores[0] for k in range(150)]
    for truth, tables in (
        (NOISY.spread(0, share), [crossed(scores[share] - scores[0]) for scores in studies]),
        (NOISY.level_spread(0, share), [crossed(scores[share]) for scores in studies]),
    ):
        seed = np.array([(t.of_seeds - t.rest) / t.items for t in tables])
        item = np.array([(t.of_items - t.rest) / t.seeds for t in tables])
        rest = np.array([t.rest for t in tables])
        for found, true in ((seed, truth.seed), (item, truth.item), (rest, truth.rest)):
            error = found.std(ddof=1) / math.sqrt(150)
            assert found.mean() == pytest.approx(true, abs=4 * error) and error < true / 4


def test_components_add_up_to_the_variance_of_a_score() -> None:
    task = replace(NOISY, partial=0.0)
    spread = task.level_spread(0, 2)
    level = float(task.levels[0, 2])
    assert spread.seed + spread.item + spread.rest == pytest.approx(level * (1 - level), abs=1e-9)


def test_without_noise_of_runs_seeds_have_no_variance() -> None:
    quiet = Simulation(seed_sd=0.0, run_sd=0.0)
    assert quiet.spread(0, 3).seed == pytest.approx(0, abs=1e-12) and quiet.spread(0, 3).item > 0
    alike = Simulation(response_sd=0.0)  # no effect and no reaction: an item's difference is 0 in the mean
    assert alike.spread(0, 3).item == pytest.approx(0, abs=1e-12) and alike.spread(0, 3).seed > 0


def test_a_calibrated_model_has_no_calibration_error() -> None:
    assert Simulation().ece(0, 0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bins", [5, 10])
def test_the_calibration_error_is_that_of_very_many_items(bins: int) -> None:
    many = replace(NOISY, items=10_000, seeds=40)
    drawn = simulate(many, "calibration")
    pairs = zip(drawn.confidence[0, 2], drawn.scores[0, 2], strict=True)
    found = [expected_calibration_error(confidence, score, n_bins=bins) for confidence, score in pairs]
    assert np.mean(found) == pytest.approx(many.ece(0, 2, bins), abs=4 * np.std(found) / math.sqrt(40) + 0.001)


# -- draws ------------------------------------------------------------------------------------------------------------


def test_a_draw_is_a_function_of_settings_and_key() -> None:
    first, again = simulate(NOISY, "a"), simulate(replace(NOISY), "a")
    assert np.array_equal(first.scores, again.scores) and np.array_equal(first.confidence, again.confidence)
    assert not np.array_equal(first.scores, simulate(NOISY, "b").scores)
    assert first.scores.shape == first.confidence.shape == (2, 3, 3, 300)


def test_scores_are_0_or_1_but_for_partial_credit() -> None:
    assert set(np.unique(simulate(replace(NOISY, partial=0.0), 1).scores)) == {0.0, 1.0}
    scores = simulate(replace(NOISY, items=4000), 1).scores
    assert np.mean((scores > 0) & (scores < 1)) == pytest.approx(0.4, abs=0.01)
    assert scores.min() >= 0 and scores.max() <= 1


def test_confidence_is_the_chance_to_be_right_where_it_is_calibrated() -> None:
    drawn = simulate(Simulation(items=20_000), "calibrated")
    confidence, scores = drawn.confidence.ravel(), drawn.scores.ravel()
    for low in np.arange(0, 1, 0.1):
        inside = (confidence >= low) & (confidence < low + 0.1)
        error = math.sqrt(0.25 / inside.sum())
        assert scores[inside].mean() == pytest.approx(confidence[inside].mean(), abs=4 * error)


def test_a_hard_item_is_hard_in_every_run_and_a_strong_seed_strong_at_every_share() -> None:
    drawn = simulate(Simulation(items=400, seeds=400, seed_sd=0.5, run_sd=0.1, response_sd=0.1), "factors").scores[0]
    items, seeds = drawn.mean(axis=1), drawn.mean(axis=2)
    assert np.corrcoef(items).min() > 0.97 and np.corrcoef(seeds).min() > 0.85


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shares": (0.1, 0.2)}, "increasing shares from 0"),
        ({"shares": (0.0, 0.2, 0.2)}, "increasing shares from 0"),
        ({"control": ()}, "one for each of 0 tasks"),
        ({"losses": (Loss(), Loss())}, "one for each of 1 tasks"),
        ({"run_sd": (0.1, 0.2)}, "each of 6 shares"),
        ({"control": (1.0,)}, "levels between 0 and 1"),
        ({"losses": (Loss(2.5),)}, "levels between 0 and 1"),
        ({"losses": (Loss(-2.0),)}, "levels between 0 and 1"),
        ({"items": 0}, "above 0"),
        ({"item_sd": 0.0}, "above 0"),
        ({"partial": 1.5}, "partial from 0 to 1"),
        ({"seed_sd": -0.1}, "0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Simulation(**wrong)  # type: ignore[arg-type]
