"""Calibration against netcal, scikit-learn, torchmetrics and a loop written from the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error

from synthmix.metrics import (
    brier_score,
    equal_mass_calibration_error,
    expected_calibration_error,
    overconfidence_gap,
    reliability_bins,
)

# The vector of torchmetrics' own tests.
CONFIDENCE, CORRECT = [0.25, 0.25, 0.55, 0.75, 0.75], [0, 0, 1, 1, 1]
unit = st.floats(0, 1, allow_subnormal=False)
items = st.lists(st.tuples(unit, unit), min_size=1, max_size=60)


def columns(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(pairs, float)
    return table[:, 0], table[:, 1]


def draw(seed: int, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = rng.random(n)
    return confidence, (rng.random(n) < confidence**2).astype(float)


def naive_ece(confidence: np.ndarray, correct: np.ndarray, n_bins: int) -> float:
    """The formula, one bin at a time."""
    total = 0.0
    for m in range(n_bins):
        upper = confidence <= 1 if m == n_bins - 1 else confidence < (m + 1) / n_bins
        inside = (confidence >= m / n_bins) & upper
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize(("norm", "expected"), [("l1", 0.29), ("max", 0.3166667)])
def test_published_vector(norm: str, expected: float) -> None:
    assert expected_calibration_error(CONFIDENCE, CORRECT, 2, norm) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_bins", [1, 7, 10, 15])
def test_equals_netcal(seed: int, n_bins: int) -> None:
    metrics = pytest.importorskip("netcal.metrics")
    confidence, correct = draw(seed)
    ours = expected_calibration_error(confidence, correct, n_bins)
    assert ours == pytest.approx(metrics.ECE(n_bins).measure(confidence, correct.astype(int)), abs=1e-9)
    ours = expected_calibration_error(confidence, correct, n_bins, "max")
    assert ours == pytest.approx(metrics.MCE(n_bins).measure(confidence, correct.astype(int)), abs=1e-9)


@given(items, st.integers(1, 20))
def test_equals_the_formula(pairs: list[tuple[float, float]], n_bins: int) -> None:
    confidence, correct = columns(pairs)
    ours = expected_calibration_error(confidence, correct, n_bins)
    assert ours == pytest.approx(naive_ece(confidence, correct, n_bins), abs=1e-12)


def test_confidence_of_one_falls_in_the_last_bin() -> None:
    # torchmetrics puts the 1.0 into a bin of its own and so gets .525 for this.
    confidence, correct = [0.95, 1.0], [0.0, 1.0]
    assert expected_calibration_error(confidence, correct, 10) == pytest.approx(0.475, abs=1e-12)
    assert reliability_bins(confidence, correct).counts.tolist() == [0] * 9 + [2]


def test_equals_torchmetrics_away_from_its_defect() -> None:
    confidence, correct = draw(3)
    theirs = binary_calibration_error(
        torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct, dtype=torch.int64), n_bins=10
    )
    assert expected_calibration_error(confidence, correct) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("tenth", range(10))
def test_a_decimal_on_a_border_opens_its_bin(tenth: int) -> None:
    counts = reliability_bins([float(f"0.{tenth}")], [1]).counts
    assert np.flatnonzero(counts).tolist() == [tenth]


def test_empty_bins_are_zero_and_not_nan() -> None:
    bins = reliability_bins([0.05, 0.95], [0, 1])
    assert bins.counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert bins.confidence[1:9].tolist() == bins.accuracy[1:9].tolist() == bins.gaps[1:9].tolist() == [0.0] * 8
    assert bins.edges.tolist() == pytest.approx(np.linspace(0, 1, 11).tolist())


@given(items)
def test_bins_keep_every_item(pairs: list[tuple[float, float]]) -> None:
    confidence, correct = columns(pairs)
    bins = reliability_bins(confidence, correct)
    assert bins.counts.sum() == len(pairs)
    assert bins.counts @ bins.confidence == pytest.approx(confidence.sum(), abs=1e-9)
    assert bins.counts @ bins.accuracy == pytest.approx(correct.sum(), abs=1e-9)


@given(items, st.randoms(use_true_random=False))
def test_order_of_items_does_not_matter(pairs: list[tuple[float, float]], random) -> None:  # noqa: ANN001
    shuffled = random.sample(pairs, len(pairs))
    for metric in (expected_calibration_error, equal_mass_calibration_error, overconfidence_gap, brier_score):
        assert metric(*columns(pairs)) == pytest.approx(metric(*columns(shuffled)), abs=1e-12)


@given(items)
def test_bounds(pairs: list[tuple[float, float]]) -> None:
    confidence, correct = columns(pairs)
    gap = abs(overconfidence_gap(confidence, correct))
    largest = expected_calibration_error(confidence, correct, norm="max")
    # Merging bins can only cancel: one bin gives the gap, ten bins at least that, and at most the largest bin's.
    assert gap - 1e-12 <= expected_calibration_error(confidence, correct) <= largest + 1e-12 <= 1 + 2e-12
    assert gap - 1e-12 <= equal_mass_calibration_error(confidence, correct) <= 1 + 1e-12
    assert gap**2 - 1e-12 <= brier_score(confidence, correct) <= 1


@given(items)
def test_one_bin_is_the_overconfidence_gap(pairs: list[tuple[float, float]]) -> None:
    confidence, correct = columns(pairs)
    gap = abs(overconfidence_gap(confidence, correct))
    assert expected_calibration_error(confidence, correct, 1) == pytest.approx(gap, abs=1e-12)
    assert equal_mass_calibration_error(confidence, correct, 1) == pytest.approx(gap, abs=1e-12)


@given(items)
def test_perfect_calibration_is_zero(pairs: list[tuple[float, float]]) -> None:
    confidence, _ = columns(pairs)
    for metric in (expected_calibration_error, equal_mass_calibration_error, overconfidence_gap, brier_score):
        assert metric(confidence, confidence) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_equal_mass_equals_sort_and_split(seed: int) -> None:
    confidence, correct = draw(seed)
    parts = np.array_split(np.argsort(confidence), 10)
    expected = sum(len(part) / 500 * abs(correct[part].mean() - confidence[part].mean()) for part in parts)
    assert equal_mass_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_equal_mass_keeps_ties_together() -> None:
    # Split by position, the four .5s would land in both bins, and the value would depend on their order.
    assert equal_mass_calibration_error([0.5] * 4, [1, 1, 0, 0], n_bins=2) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_brier_equals_scikit_learn(seed: int) -> None:
    confidence, correct = draw(seed)
    assert brier_score(confidence, correct) == pytest.approx(brier_score_loss(correct, confidence), abs=1e-12)


def test_fractional_scores_and_rounding_errors_are_accepted() -> None:
    assert overconfidence_gap([0.9, 0.5], [0.8, 0.25]) == pytest.approx(0.175)
    assert expected_calibration_error([1.0000005, -0.0000005], [1, 0]) == 0.0


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "at least 1"),
        ([0.5], [1, 0], "same length but got 1 and 2"),
        ([0.2, 1.00001], [0, 1], r"`confidence` to lie in \[0, 1\] but got 1.00001 at index 1"),
        ([0.2], [-0.1], "`correct` to lie in"),
        ([float("nan")], [1], "got nan at index 0"),
        ([float("inf")], [1], "got inf at index 0"),
        ([[0.5]], [1], "one dimension"),
    ],
)
def test_bad_input_is_refused(confidence: list, correct: list, message: str) -> None:
    for metric in (expected_calibration_error, equal_mass_calibration_error, overconfidence_gap, brier_score):
        with pytest.raises(ValueError, match=message):
            metric(confidence, correct)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="n_bins"):
        expected_calibration_error(CONFIDENCE, CORRECT, 0)
    with pytest.raises(ValueError, match="n_bins"):
        equal_mass_calibration_error(CONFIDENCE, CORRECT, 0)
    with pytest.raises(ValueError, match="norm"):
        expected_calibration_error(CONFIDENCE, CORRECT, norm="l2")  # type: ignore[arg-type]
