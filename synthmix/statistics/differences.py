"""A condition against its control, paired over items.

Several seeds: Student's t with seeds and items as two random factors (:mod:`synthmix.statistics.moderation`), its seeds
moderated by those of the study's other comparisons where there are any. A bootstrap over two or three seeds is too
narrow, since it takes the spread of the seeds at hand for that of all; it is computed beside for who wants it. How
often the intervals hold the truth is measured in experiments/statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from synthmix.statistics.equivalence import Spread, tost
from synthmix.statistics.intervals import LEVEL, Interval, percentiles, student, wilson
from synthmix.statistics.moderation import Crossed, SeedNoise, crossed
from synthmix.statistics.resampling import RESAMPLES, Array, checked, resample

#: How several seeds are tested.
MODERATED = "t, seeds and items random, seeds moderated by the study's"
CROSSED = "t, seeds and items random"
UNSHARED = "t over seeds (items differ between seeds)"
NO_DIFFERENCE = "no item differs"


@dataclass(frozen=True)
class Difference:
    """A condition against its control, paired over items.

    Attributes:
        points: treatment minus control, in the unit of the scores.
        relative: the same as a share of the control's score; None where the control's score is 0.
        bootstrap: the difference again, with the interval of the hierarchical bootstrap.
        p_value: two-sided, of no difference; ``test`` names the test.
        freedom: its degrees of freedom; ``inf`` with one seed.
        p_seeds: paired t-test over the seeds' means; nan with fewer than two seeds or no variation.
        p_mcnemar: McNemar's exact p-value in each seed; nan where scores are not 0 or 1.
        d_z, d_av: Cohen's d over items (see :func:`cohens_d`).
        spread: where the variance comes from; None with one seed or other items in every seed.
    """

    points: Interval
    relative: Interval | None
    bootstrap: Interval
    p_value: float
    test: str
    freedom: float
    p_seeds: float
    p_mcnemar: tuple[float, ...]
    d_z: float
    d_av: float
    spread: Spread | None

    def equivalence(self, margin: float, relative: bool = False) -> float:
        """p-value of :func:`tost` against a margin in points, or in shares of the control's score; nan without one."""
        interval = self.relative if relative else self.points
        if interval is None:
            return math.nan
        error = interval.error
        if self.test == NO_DIFFERENCE:  # Wilson's bound on how often items differ stands for an error
            error = interval.high / float(stats.norm.isf((1 - LEVEL) / 2))
        return tost(interval.estimate, error, self.freedom, margin)


@dataclass(frozen=True)
class Paired:
    """Scores of a treatment and its control, an array a seed each; entry i of seed s is the same item in both.

    Raises:
        ValueError: no items, or other numbers of items on both sides.
    """

    treatment: Sequence[Array]
    control: Sequence[Array]
    shared_items: bool = True

    def __post_init__(self) -> None:
        ours, theirs = checked(self.treatment, self.shared_items), checked(self.control, self.shared_items)
        if [len(row) for row in ours] != [len(row) for row in theirs]:
            raise ValueError(f"pairs differ in size: {[len(r) for r in ours]} and {[len(r) for r in theirs]} items")
        object.__setattr__(self, "treatment", ours)
        object.__setattr__(self, "control", theirs)

    @property
    def items(self) -> int:
        """Items of the smallest seed."""
        return min(map(len, self.treatment))

    @property
    def seeds(self) -> int:
        return len(self.treatment)

    @cached_property
    def means(self) -> Array:
        """``(seeds, 2)``: mean scores of treatment and control."""
        return np.array([[a.mean(), b.mean()] for a, b in zip(self.treatment, self.control, strict=True)])

    @cached_property
    def gaps(self) -> list[Array]:
        """Treatment minus control, an array a seed."""
        return [a - b for a, b in zip(self.treatment, self.control, strict=True)]

    @cached_property
    def crossed(self) -> Crossed | None:
        """Mean squares of the differences; None with one seed, other items in every seed, or no difference at all."""
        if self.seeds < 2 or not self.shared_items or self.items < 2 or not any(gap.any() for gap in self.gaps):
            return None
        return crossed(np.stack(self.gaps))

    @cached_property
    def ratio_gaps(self) -> list[Array] | None:
        """Each item's first-order share in treatment / control - 1; None where the control's mean is 0."""
        ours, theirs = self.means.mean(axis=0)
        if theirs == 0:
            return None
        ratio = ours / theirs
        return [(a - ratio * b) / theirs for a, b in zip(self.treatment, self.control, strict=True)]


def paired_difference(
    treatment: Sequence[Array],
    control: Sequence[Array],
    *key: Any,
    shared_items: bool = True,
    noise: SeedNoise | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """:func:`difference` of two lists of arrays."""
    return difference(Paired(treatment, control, shared_items), *key, noise=noise, resamples=resamples, level=level)


def difference(
    pair: Paired, *key: Any, noise: SeedNoise | None = None, resamples: int = RESAMPLES, level: float = LEVEL
) -> Difference:
    """Treatment minus control with everything that is said of it.

    With one seed, the interval is a bootstrap over items and the p-value McNemar's exact one (0/1 scores) or that of the
    difference over its bootstrap standard error: both are about these two training runs, on other items. With several
    seeds, interval and p-value are Student's t. Two conditions that never disagree get an interval from Wilson's bound
    on the rate of disagreement, instead of one of width 0.

    Args:
        key: names the quantity; the resamples are a function of it.
        noise: of the comparison's group in the study, from :func:`synthmix.statistics.moderation.seed_noise`.
    """
    ours, theirs = pair.means.mean(axis=0)
    estimate, n, seeds = float(ours - theirs), pair.items, pair.seeds
    of_seeds = tuple(_mcnemar_or_nan(a, b) for a, b in zip(pair.treatment, pair.control, strict=True))
    if not any(gap.any() for gap in pair.gaps):
        bound = wilson(0, n, level).high
        same = Interval(0.0, -bound, bound, n, seeds, "Wilson bound, no item differs", 0.0)
        return Difference(same, None, same, 1.0, NO_DIFFERENCE, math.inf, math.nan, of_seeds, 0.0, 0.0, None)
    draws = resample([np.stack(both) for both in zip(pair.treatment, pair.control, strict=True)], key,
                     pair.shared_items, resamples)  # fmt: skip
    bootstrap = percentiles(estimate, draws[:, 0] - draws[:, 1], n, seeds, level)
    effect = cohens_d(pair)
    p_seeds = paired_t(pair.means[:, 0], pair.means[:, 1])
    if seeds == 1:
        p_value, test = _p_value(pair, bootstrap)
        relative = _relative(pair, draws, level)
        return Difference(
            bootstrap, relative, bootstrap, p_value, test, math.inf, p_seeds, of_seeds, *effect, None
        )  # fmt: skip
    error, freedom, test = _error(pair, noise)
    points = student(estimate, error, freedom, n, seeds, test, level)
    p_value = 2 * float(stats.t.sf(abs(estimate) / error, freedom)) if error else (1.0 if estimate == 0 else math.nan)
    relative = _relative_student(pair, noise, level)
    spread = _spread(pair, noise)
    return Difference(points, relative, bootstrap, p_value, test, freedom, p_seeds, of_seeds, *effect, spread)


def cohens_d(pair: Paired) -> tuple[float, float]:
    """Cohen's d over items, their scores averaged over seeds (Lakens 2013): ``(d_z, d_av)``.

    d_z is the mean difference over the standard deviation of the items' differences, d_av over the mean of the two
    conditions' standard deviations; nan where that is 0. With other items in every seed all of them count.
    """
    join = (lambda rows: np.mean(rows, axis=0)) if pair.shared_items else np.concatenate
    ours, theirs = join(pair.treatment), join(pair.control)
    gap = float(np.mean(ours) - np.mean(theirs))
    own, both = (
        float(np.std(ours - theirs, ddof=1)) if len(ours) > 1 else 0.0,
        float((np.std(ours, ddof=1) + np.std(theirs, ddof=1)) / 2) if len(ours) > 1 else 0.0,
    )
    return gap / own if own else math.nan, gap / both if both else math.nan


def paired_t(treatment: Array, control: Array) -> float:
    """Two-sided p-value of the paired t-test over seeds; nan with fewer than two seeds, or where all differ alike."""
    gaps = np.asarray(treatment, dtype=float) - np.asarray(control, dtype=float)
    if len(gaps) < 2 or np.ptp(gaps) < 1e-12:
        return math.nan
    return float(stats.ttest_rel(treatment, control).pvalue)


def mcnemar(treatment: Array, control: Array) -> float:
    """Exact two-sided p-value of McNemar's test on paired 0/1 scores; 1.0 where no pair differs."""
    gained = int(np.sum((treatment == 1) & (control == 0)))
    lost = int(np.sum((treatment == 0) & (control == 1)))
    return 1.0 if gained + lost == 0 else float(stats.binomtest(gained, gained + lost).pvalue)


# -- parts ----------------------------------------------------------------------------------------------------------


def _binary(*scores: Array) -> bool:
    return all(bool(np.isin(row, (0.0, 1.0)).all()) for row in scores)


def _mcnemar_or_nan(treatment: Array, control: Array) -> float:
    return mcnemar(treatment, control) if _binary(treatment, control) else math.nan


def _p_value(pair: Paired, points: Interval) -> tuple[float, str]:
    if _binary(pair.treatment[0], pair.control[0]):
        return mcnemar(pair.treatment[0], pair.control[0]), "McNemar, exact"
    if points.error == 0:
        return (1.0 if points.estimate == 0 else 0.0), "bootstrap z"
    return float(2 * stats.norm.sf(abs(points.estimate) / points.error)), "bootstrap z"


def _relative(pair: Paired, draws: Array, level: float) -> Interval | None:
    ours, theirs = pair.means.mean(axis=0)
    if theirs == 0 or np.any(draws[:, 1] == 0):
        return None
    return percentiles(ours / theirs - 1, draws[:, 0] / draws[:, 1] - 1, pair.items, pair.seeds, level)


def _relative_student(pair: Paired, noise: SeedNoise | None, level: float) -> Interval | None:
    """Interval of treatment / control - 1 by linearisation: the ratio's first-order change with each item."""
    if pair.ratio_gaps is None:
        return None
    ours, theirs = pair.means.mean(axis=0)
    error, freedom, test = _error_of(pair.ratio_gaps, pair.shared_items, noise)
    return student(ours / theirs - 1, error, freedom, pair.items, pair.seeds, test, level)


def _error(pair: Paired, noise: SeedNoise | None) -> tuple[float, float, str]:
    return _error_of(pair.gaps, pair.shared_items, noise)


def _error_of(values: Sequence[Array], shared_items: bool, noise: SeedNoise | None) -> tuple[float, float, str]:
    """Standard error, degrees of freedom and the name of the test, from one array of differences a seed."""
    seeds = len(values)
    if shared_items and min(map(len, values)) > 1:
        return *crossed(np.stack(values)).error(noise), CROSSED if noise is None else MODERATED
    # Other items in every seed: their noise is in the seeds' means already.
    spread = float(np.std([row.mean() for row in values], ddof=1))
    return spread / math.sqrt(seeds), float(seeds - 1), UNSHARED


def _spread(pair: Paired, noise: SeedNoise | None) -> Spread | None:
    return None if pair.crossed is None else pair.crossed.spread(noise)
