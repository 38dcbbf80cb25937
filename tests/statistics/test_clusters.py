"""Intervals over clusters against Wilson's, and in simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from synthmix import keys
from synthmix.statistics import LEVEL, Interval
from synthmix.statistics.clusters import Clusters, Undefined, newcombe


def clusters(names: object, *key: object, resamples: int = 1000) -> Clusters:
    return Clusters.of(names, len(names), key, resamples, LEVEL)  # type: ignore[arg-type]


def proportion(values: np.ndarray, names: object, *key: object, resamples: int = 1000) -> Interval:
    drawn = clusters(names, *key, resamples=resamples)
    found = drawn.proportion(drawn.sums(values), drawn.sums(np.ones(len(values))), "there is none")
    assert isinstance(found, Interval)
    return found


def test_single_clusters_agree_with_wilson() -> None:
    values = (keys.generator("single").random(300) < 0.4).astype(float)
    found = proportion(values, np.arange(300), "single")
    low, high = proportion_confint(values.sum(), 300, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    assert found.estimate == values.mean() and (found.n_items, found.n_seeds) == (300, 300)


def test_rows_that_repeat_their_cluster_add_nothing() -> None:
    values = (keys.generator("repeated").random(12) < 0.5).astype(float)
    once = proportion(values, np.arange(12), "same")
    often = proportion(np.repeat(values, 5), np.repeat(np.arange(12), 5), "same")
    assert (often.low, often.high, often.error) == pytest.approx((once.low, once.high, once.error))


def test_the_error_is_that_of_the_cluster_means() -> None:
    """Clusters of one size: the standard error of their mean, by the book, as far as the resamples tell it."""
    values = keys.generator("means").random((8, 5))
    found = proportion(values.ravel(), np.repeat(np.arange(8), 5), "means", resamples=20_000)
    assert found.error == pytest.approx(values.mean(axis=1).std(ddof=1) / math.sqrt(8), rel=0.02)
    half = stats.t.ppf(0.975, 7) * found.error
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_that_are_all_alike_get_wilsons_interval_over_clusters(value: float) -> None:
    found = proportion(np.full(12, value), np.repeat(np.arange(4), 3))
    assert (found.low, found.high) == pytest.approx(proportion_confint(4 * value, 4, method="wilson"))
    assert found.method == "Wilson, clusters"


def test_one_cluster_has_no_interval_and_no_observation_no_clusters() -> None:
    found = proportion(np.array([1.0, 0.0]), [3, 3])
    assert found.estimate == 0.5 and math.isnan(found.low) and math.isnan(found.error)
    with pytest.raises(ValueError, match="at least one"):
        clusters([])
    with pytest.raises(ValueError, match="2 for 3"):
        Clusters.of([1, 2], 3, (), 10, LEVEL)


def test_a_ratio_without_a_denominator_is_undefined_and_resamples_without_one_are_counted() -> None:
    drawn = clusters(np.arange(5), "gaps")
    assert drawn.proportion(np.zeros(5), np.zeros(5), "there is no alert") == Undefined("there is no alert")
    found = drawn.proportion(np.array([1.0, 0, 0, 0, 0]), np.array([1.0, 1, 0, 0, 0]), "there is no alert")
    assert isinstance(found, Interval)
    share = float(found.method.split("without the ")[1].split(" %")[0])
    assert share == pytest.approx(100 * (3 / 5) ** 5, abs=2.5)


@pytest.mark.parametrize("groups", [3, 6, 12])
def test_coverage_with_few_clusters(groups: int) -> None:
    """Six dependent observations a cluster, each cluster with a level of its own; the truth is 0.4."""
    rng, hits, trials = keys.generator("coverage", groups), 0, 400
    for trial in range(trials):
        levels = rng.beta(2, 3, groups)
        values = (rng.random((groups, 6)) < levels[:, None]).astype(float)
        found = proportion(values.ravel(), np.repeat(np.arange(groups), 6), trial, resamples=200)
        hits += found.low <= 0.4 <= found.high
    assert 0.91 <= hits / trials <= 0.995


@pytest.mark.parametrize(("area", "positives", "negatives"), [(0.8, 30, 40), (0.5, 5, 9), (1.0, 6, 6), (0.0, 2, 7)])
def test_newcombe_ends_are_one_normal_deviate_away(area: float, positives: int, negatives: int) -> None:
    """By Hanley and McNeil's variance at the end itself, their n - 1 replaced by (m + n) / 2 - 1."""
    for end in newcombe(area, positives, negatives, LEVEL):
        if end in (0.0, 1.0):
            assert end == area
            continue
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        rest = (positives + negatives) / 2 - 1
        variance = end * (1 - end) + rest * (q1 - end**2) + rest * (q2 - end**2)
        assert abs(end - area) == pytest.approx(1.959964 * math.sqrt(variance / positives / negatives), rel=1e-5)
