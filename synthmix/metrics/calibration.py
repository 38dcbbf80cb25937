"""Calibration: does a model that says 80 % get 80 % right?

Every function takes two 1-D arrays of the same length N: ``confidence`` in [0, 1], and ``correct``, the score of each
item: 0 or 1, or a fraction such as a token F1. The empty set of items has no calibration, so N = 0 is a ValueError
rather than a nan. The classes of the same names, in :mod:`synthmix.metrics.streaming`, accumulate over batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Norm = Literal["l1", "max"]
#: How far outside [0, 1] a value may lie and still count as a rounding error, which is clipped.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class ReliabilityBins:
    """A reliability diagram as numbers.

    Attributes:
        edges: ``(n_bins + 1,)``, the bin borders.
        counts: ``(n_bins,)`` int64, items a bin; they sum to N.
        confidence: ``(n_bins,)``, mean confidence of a bin's items; 0.0 where the bin is empty.
        accuracy: ``(n_bins,)``, mean score of a bin's items; 0.0 where the bin is empty.
    """

    edges: Array
    counts: NDArray[np.int64]
    confidence: Array
    accuracy: Array

    @property
    def gaps(self) -> Array:
        """``|accuracy - confidence|`` a bin, ``(n_bins,)``; 0.0 where the bin is empty."""
        return np.abs(self.accuracy - self.confidence)

    def error(self, norm: Norm = "l1") -> float:
        """The calibration error of these bins: gaps weighted by count (``l1``), or the largest gap (``max``)."""
        if norm not in ("l1", "max"):
            raise ValueError(f"Expected argument `norm` to be 'l1' or 'max' but got {norm!r}")
        if norm == "max":
            return float(self.gaps.max())
        return float(np.sum(self.counts * self.gaps) / self.counts.sum())


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 10) -> ReliabilityBins:
    """Items sorted into ``n_bins`` bins of equal width.

    Bin m holds confidences in [m / n_bins, (m + 1) / n_bins); the last bin is closed, so a confidence of exactly 1.0
    belongs to it.

    Raises:
        ValueError: no items, different lengths, values that are not numbers in [0, 1] (within 1e-6).

    >>> bins = reliability_bins([0.25, 0.25, 0.55, 0.75, 1.0], [0, 0, 1, 1, 1], n_bins=2)
    >>> bins.counts.tolist(), bins.accuracy.tolist()
    ([2, 3], [0.0, 1.0])
    """
    sums = bin_sums(*check_pair(confidence, correct), n_bins)
    return bins_from_sums(*sums)


def bin_sums(confidence: Array, correct: Array, n_bins: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Count, sum of confidence and sum of score a bin, each ``(n_bins,)``: what batches and ranks can add up."""
    if n_bins < 1:
        raise ValueError(f"Expected argument `n_bins` to be at least 1 but got {n_bins}")
    # k / n_bins rather than linspace: the border of a decimal such as 0.3 is then the double that 0.3 is read as.
    borders = np.arange(1, n_bins) / n_bins
    index = np.searchsorted(borders, confidence, side="right")
    return (
        np.bincount(index, minlength=n_bins).astype(np.int64),
        np.bincount(index, weights=confidence, minlength=n_bins).astype(np.float64),
        np.bincount(index, weights=correct, minlength=n_bins).astype(np.float64),
    )


def bins_from_sums(counts: NDArray[np.int64], confidence_sum: Array, correct_sum: Array) -> ReliabilityBins:
    """The reliability diagram of the sums of :func:`bin_sums`. Raises ValueError if there are no items."""
    if counts.sum() == 0:
        raise ValueError("calibration is undefined without items: got 0 confidences, expected at least 1")
    filled = np.maximum(counts, 1)
    edges = np.arange(len(counts) + 1) / len(counts)
    return ReliabilityBins(edges, counts, confidence_sum / filled, correct_sum / filled)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 10, norm: Norm = "l1") -> float:
    r"""Expected calibration error over bins of equal width (Guo et al. 2017; arXiv 2510.05133 with ten bins).

    .. math:: \text{ECE} = \sum_m \frac{|B_m|}{N} \left| \text{acc}(B_m) - \text{conf}(B_m) \right|

    ``norm='max'`` gives the maximum calibration error, the largest gap of a bin that holds items. Bins and errors are
    those of :func:`reliability_bins`. The value is between 0 and 1.

    >>> round(expected_calibration_error([0.25, 0.25, 0.55, 0.75, 0.75], [0, 0, 1, 1, 1], n_bins=2), 4)
    0.29
    """
    return reliability_bins(confidence, correct, n_bins).error(norm)


def equal_mass_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 10) -> float:
    """ECE over bins that hold (nearly) the same number of items (Nixon et al. 2019, "adaptive calibration error").

    An item's bin is ``floor(n_bins * below / N)`` with ``below`` the number of items of strictly smaller confidence.
    So equal confidences share a bin, and the value does not depend on the order of the items; without ties bins
    differ by at most one item. Errors as in :func:`reliability_bins`.

    >>> round(equal_mass_calibration_error([0.6, 0.7, 0.8, 0.9], [0, 1, 1, 1], n_bins=2), 4)
    0.15
    """
    confidence, correct = check_pair(confidence, correct)
    if n_bins < 1:
        raise ValueError(f"Expected argument `n_bins` to be at least 1 but got {n_bins}")
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    excess = np.bincount(n_bins * below // len(confidence), weights=correct - confidence, minlength=n_bins)
    return float(np.abs(excess).sum() / len(confidence))


def overconfidence_gap(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean confidence minus mean score, between -1 and 1; positive if the model is overconfident (arXiv 2510.05133).

    >>> round(overconfidence_gap([0.9, 0.7], [1, 0]), 4)
    0.3
    """
    confidence, correct = check_pair(confidence, correct)
    return float(confidence.mean() - correct.mean())


def brier_score(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared difference of confidence and score, between 0 (best) and 1 (Brier 1950).

    >>> round(brier_score([0.9, 0.7], [1, 0]), 4)
    0.25
    """
    confidence, correct = check_pair(confidence, correct)
    return float(np.mean((confidence - correct) ** 2))


def check_pair(confidence: ArrayLike, correct: ArrayLike) -> tuple[Array, Array]:
    """Both as float64 arrays ``(N,)`` in [0, 1]. Raises ValueError as :func:`reliability_bins` says."""
    first, second = _unit_interval("confidence", confidence), _unit_interval("correct", correct)
    if len(first) != len(second):
        lengths = f"{len(first)} and {len(second)}"
        raise ValueError(f"Expected arguments `confidence` and `correct` to have the same length but got {lengths}")
    if len(first) == 0:
        raise ValueError("calibration is undefined without items: got 0 confidences, expected at least 1")
    return first, second


def _unit_interval(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"Expected argument `{name}` to have one dimension but got shape {array.shape}")
    # Written so that nan is refused too: it compares false with everything.
    outside = ~((array >= -TOLERANCE) & (array <= 1 + TOLERANCE))
    if outside.any():
        where = int(np.flatnonzero(outside)[0])
        raise ValueError(f"Expected argument `{name}` to lie in [0, 1] but got {array[where]} at index {where}")
    return np.clip(array, 0.0, 1.0)
