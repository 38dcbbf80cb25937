"""Laws over model size against statsmodels, and the paper's four points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import r2_score

from synthmix import keys
from synthmix.statistics.scaling import fit_law, r_squared

#: Section 4 of arXiv 2510.05133: parameters and safe proportions in percent.
SIZES, SAFE = (410e6, 1.4e9, 6.9e9, 12e9), (15.0, 18.0, 23.0, 27.0)


def test_the_papers_points_give_another_law_than_its_equation() -> None:
    found = fit_law("log", SIZES, SAFE)
    assert (round(found.intercept.estimate, 1), round(found.slope.estimate, 1)) == (17.5, 7.8)
    assert round(found.r_squared, 3) == 0.965 and found.freedom == 2
    printed = [12 + 3.5 * math.log10(size / 1e9) for size in SIZES]
    assert round(r_squared(SAFE, printed), 2) == -1.83
    # Four points leave a wide interval: the printed intercept lies outside of it, the printed slope just inside.
    assert found.intercept.low > 12 and found.slope.low < 3.5 < found.slope.high


@pytest.mark.parametrize("law", ["log", "power"])
def test_intervals_are_those_of_statsmodels(law: str) -> None:
    log = np.log10 if law == "log" else np.log
    x, y = log(np.array(SIZES) / 1e9), np.array(SAFE) if law == "log" else np.log(SAFE)
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    found = fit_law(law, SIZES, SAFE)  # type: ignore[arg-type]
    for ours, estimate, (low, high), error in zip(
        (found.intercept, found.slope), fit.params, fit.conf_int(), fit.bse, strict=True
    ):
        assert (ours.estimate, ours.low, ours.high, ours.error) == pytest.approx((estimate, low, high, error))
    assert found.r_squared_fitted == pytest.approx(fit.rsquared)
    new = log(np.array([70.0]))
    frame = fit.get_prediction(np.array([[1.0, float(new[0])]])).summary_frame(alpha=0.05).iloc[0]
    expected = frame[["mean", "obs_ci_lower", "obs_ci_upper"]].to_numpy(dtype=float)
    told = found.predict(70e9)
    assert (told.estimate, told.low, told.high) == pytest.approx(np.exp(expected) if law == "power" else expected)


def test_a_prediction_outside_the_sizes_is_an_extrapolation() -> None:
    found = fit_law("log", SIZES, SAFE)
    assert found.predict(70e9).extrapolated and found.predict(1e8).extrapolated
    inside = found.predict(3e9)
    assert not inside.extrapolated and inside.low < inside.estimate < inside.high
    outside = found.predict(1e12)
    assert outside.high - outside.low > 1.5 * (inside.high - inside.low)
    with pytest.raises(ValueError, match="above 0"):
        found.predict(0)


def test_a_power_law_is_recovered_and_its_interval_holds_the_exponent() -> None:
    exact = fit_law("power", [1e6, 1e7, 1e8], [0.4, 0.4 * 10**-0.2, 0.4 * 10**-0.4])
    assert exact.slope.estimate == pytest.approx(-0.2) and exact.r_squared == pytest.approx(1)
    assert exact.scale == pytest.approx(0.4 * 10**-0.6)
    sizes, hits = np.geomspace(1e6, 1e9, 4), 0
    for trial in range(400):
        noise = keys.generator("power", trial).normal(0, 0.2, 4)
        found = fit_law("power", sizes, np.exp(-0.2 * np.log(sizes / 1e9) + noise))
        hits += found.slope.low <= -0.2 <= found.slope.high
    assert 0.92 <= hits / 400 <= 0.98


def test_three_sizes_have_one_degree_of_freedom_and_wide_intervals() -> None:
    found = fit_law("log", SIZES[:3], SAFE[:3])
    assert found.freedom == 1
    width = (found.slope.high - found.slope.low) / found.slope.error / 2
    assert width == pytest.approx(stats.t.ppf(0.975, 1))


def test_two_sizes_claim_nothing() -> None:
    for sizes in (SIZES[:2], [1e9, 1e9, 2e9]):
        with pytest.raises(ValueError, match="3 different sizes"):
            fit_law("log", sizes, SAFE[: len(sizes)])


def test_what_has_no_logarithm_is_refused() -> None:
    with pytest.raises(ValueError, match="values above 0"):
        fit_law("power", SIZES, [0.2, 0.1, 0.0, 0.1])
    with pytest.raises(ValueError, match="sizes above 0"):
        fit_law("log", [0.0, 1e9, 2e9], [1.0, 2.0, 3.0])


def test_r_squared_is_that_of_scikit_learn() -> None:
    observed, predicted = [0.1, 0.4, 0.3, 0.9], [0.2, 0.3, 0.3, 0.7]
    assert r_squared(observed, predicted) == pytest.approx(r2_score(observed, predicted))
    assert math.isnan(r_squared([1.0, 1.0], [1.0, 2.0]))
