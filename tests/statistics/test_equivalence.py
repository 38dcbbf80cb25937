"""Equivalence against statsmodels, verdicts, and whether the planned size has the power that was planned."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import normal_power
from statsmodels.stats.weightstats import ttost_paired

from synthmix import keys
from synthmix.statistics import Spread, crossed, deciding_error, tost, verdict


@pytest.mark.parametrize("shift", [0.0, 0.02, -0.028, 0.05])
def test_tost_equals_statsmodels(shift: float) -> None:
    rng = keys.generator("tost", shift)
    ours, theirs = rng.normal(0.6 + shift, 0.05, 20), rng.normal(0.6, 0.05, 20)
    gap = ours - theirs
    found = tost(gap.mean(), gap.std(ddof=1) / math.sqrt(20), 19, 0.03)
    assert found == pytest.approx(ttost_paired(ours, theirs, -0.03, 0.03)[0], abs=1e-12)


@given(st.floats(-0.1, 0.1), st.floats(0.001, 0.05), st.floats(1, 100))
def test_equivalence_is_shown_exactly_where_the_90_percent_interval_lies_within_the_margin(
    estimate: float, error: float, freedom: float
) -> None:
    half = stats.t.ppf(0.95, freedom) * error
    inside = -0.03 < estimate - half and estimate + half < 0.03
    assert (tost(estimate, error, freedom, 0.03) < 0.05) == inside


def test_without_an_error_the_margin_decides_alone() -> None:
    assert tost(0.02, 0.0, 2, 0.03) == 0.0 and tost(-0.03, 0.0, 2, 0.03) == 1.0
    with pytest.raises(ValueError, match="margin above 0 but got 0"):
        tost(0.0, 0.1, 2, 0)


@pytest.mark.parametrize(
    ("estimate", "p_difference", "p_equivalence", "said"),
    [
        (-0.01, 0.01, 0.01, "safe"),  # a loss is shown, and that it is small
        (-0.01, 0.50, 0.01, "safe"),
        (-0.08, 0.01, 0.99, "degraded"),
        (0.08, 0.01, 0.99, "improved"),
        (-0.02, 0.30, 0.30, "undecided"),
        (-0.08, 0.05, 0.99, "undecided"),
        (-0.08, math.nan, math.nan, "undecided"),
        (-0.08, 0.01, math.nan, "degraded"),
    ],
)
def test_verdicts(estimate: float, p_difference: float, p_equivalence: float, said: str) -> None:
    assert verdict(estimate, p_difference, p_equivalence) == said


def test_a_verdict_takes_another_level() -> None:
    assert verdict(-0.08, 0.03, 1.0, alpha=0.01) == "undecided" and verdict(0.0, 1.0, 0.08, alpha=0.1) == "safe"


# -- planning ---------------------------------------------------------------------------------------------------------

SPREAD = Spread(seed=4e-4, item=0.02, rest=0.3)


def test_the_planned_number_has_the_planned_error() -> None:
    items, seeds = SPREAD.items_for(0.015, 3), SPREAD.seeds_for(0.015, 300)
    assert math.sqrt(4e-4 / 3 + 0.02 / items + 0.3 / 3 / items) == pytest.approx(0.015)
    assert math.sqrt(4e-4 / seeds + 0.02 / 300 + 0.3 / 300 / seeds) == pytest.approx(0.015)


def test_more_of_one_kind_alone_may_never_decide() -> None:
    assert SPREAD.items_for(math.sqrt(4e-4 / 3), 3) == math.inf and SPREAD.items_for(0.0116, 3) < math.inf
    assert SPREAD.seeds_for(0.005, 300) == math.inf and SPREAD.seeds_for(0.005, 1000) < math.inf


def test_a_spread_is_the_error_of_its_own_table() -> None:
    values = keys.generator("spread").normal(size=(4, 80)) + keys.generator("items").normal(size=80)
    values += 0.3 * keys.generator("seeds").normal(size=(4, 1))
    table = crossed(values)
    spread = table.spread()
    assert math.sqrt(spread.seed / 4 + spread.item / 80 + spread.rest / 320) == pytest.approx(table.error()[0])
    assert spread.items_for(table.error()[0], 4) == pytest.approx(80)
    assert spread.seeds_for(table.error()[0], 80) == pytest.approx(4)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 25])
@pytest.mark.parametrize("loss", [-0.03, -0.05, -0.2])
def test_a_loss_beyond_the_margin_is_found_with_the_wanted_power(loss: float, alpha: float) -> None:
    error = deciding_error(loss, 0.03, alpha, power=0.8)
    assert normal_power(abs(loss), 1, alpha, sigma=error) == pytest.approx(0.8, abs=1e-4)


def powers(estimate: float, error: float, alpha: float) -> tuple[float, float]:
    """Of the equivalence test within 3 points, and of the difference test."""
    reach = 0.03 - float(stats.norm.isf(alpha)) * error  # equivalence is shown where the estimate is closer to 0
    shown = stats.norm.cdf([(reach - estimate) / error, (-reach - estimate) / error])
    return float(shown[0] - shown[1]), float(normal_power(abs(estimate), 1, alpha, sigma=error))


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 25])
@pytest.mark.parametrize("estimate", [0.0, 0.004, -0.01, 0.02, -0.029])
def test_within_the_margin_one_of_the_tests_has_the_wanted_power(estimate: float, alpha: float) -> None:
    """The nearer side of the margin stands for both, which costs up to 0.04 of power at small differences."""
    error = deciding_error(estimate, 0.03, alpha, power=0.8)
    assert 0.76 < max(powers(estimate, error, alpha)) < 0.801
    assert max(powers(estimate, 1.1 * error, alpha)) < 0.78


def test_a_smaller_level_or_a_larger_power_asks_for_more() -> None:
    assert deciding_error(-0.05, 0.03, 0.002) < deciding_error(-0.05, 0.03, 0.05)
    assert deciding_error(0.0, 0.03, power=0.9) < deciding_error(0.0, 0.03, power=0.8)
    assert np.isclose(deciding_error(0.05, 0.03), deciding_error(-0.05, 0.03))
