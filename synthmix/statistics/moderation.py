"""Seeds and items as two random factors, and how a study's comparisons lend each other their seeds.

Two or three seeds say little about how much training runs differ: a standard error that rests on them alone is now far
too small, now far too large, and a t-test that trusts it errs in 13 and 7 % of comparisons without an effect instead of
5 % (2 and 3 seeds that differ much; experiments/statistics). A study has many comparisons with as many seeds each,
though, and the share of noise that is due to runs is much the same in all of them. So that share is moderated: drawn
towards its typical value in the study, the more the more alike the comparisons are, as variances of genes are in
microarrays with few replicates (Smyth 2004, "Linear models and empirical Bayes methods", Statistical Applications in
Genetics and Molecular Biology 3). One comparison alone is left as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from synthmix.statistics.equivalence import Spread
from synthmix.statistics.resampling import Array

#: A ratio of 0 (seeds exactly alike) has no logarithm: it counts as this share of the median ratio (as limma has it).
_OFFSET = 1e-5
#: Fewer comparisons than this say nothing about how alike they are.
FEWEST = 3


@dataclass(frozen=True)
class SeedNoise:
    """How much the seeds of a study's comparisons differ, against the noise of items within them.

    Attributes:
        ratio: typical mean square of seeds over that of the rest; 1 where seeds differ no more than items make them.
        freedom: degrees of freedom that this typical value is worth for one comparison; ``inf`` where all are alike.
        pooled: degrees of freedom of all comparisons together, which none can exceed.
    """

    ratio: float
    freedom: float
    pooled: float

    def moderate(self, ratio: float, freedom: float) -> tuple[float, float]:
        """A comparison's own ratio and degrees of freedom, drawn towards the study's."""
        if math.isinf(self.freedom):
            return max(1.0, self.ratio), self.pooled
        total = self.freedom + freedom
        # Seeds cannot differ less than items make them: what lies below 1 is chance.
        return max(1.0, (self.freedom * self.ratio + freedom * ratio) / total), min(total, self.pooled)


@dataclass(frozen=True)
class Crossed:
    """Mean squares of a table ``(seeds, items)`` of values, both factors random, without replication.

    Attributes:
        mean: mean of all values.
        of_seeds, of_items, rest: mean squares of seeds, of items, and of what is left.
    """

    mean: float
    of_seeds: float
    of_items: float
    rest: float
    seeds: int
    items: int

    @property
    def ratio(self) -> float:
        """Mean square of seeds over the rest; nan where the rest is 0."""
        return self.of_seeds / self.rest if self.rest > 0 else math.nan

    def error(self, noise: SeedNoise | None = None) -> tuple[float, float]:
        """Standard error of the mean and its degrees of freedom (Satterthwaite).

        The squared error is ``(MS_seeds + MS_items - MS_rest) / size`` (Searle, Casella and McCulloch 1992, chapter 5).
        Where the rest outweighs a factor, the larger factor alone is taken, so that noise can never make the error
        smaller than it shows itself.

        Args:
            noise: of the study; None: this comparison's own seeds alone.
        """
        of_seeds, freedom = self._moderated(noise)
        size = self.seeds * self.items
        total = of_seeds + self.of_items - self.rest
        if total <= max(of_seeds, self.of_items):
            total = max(of_seeds, self.of_items)
            return math.sqrt(total / size), float(freedom if of_seeds >= self.of_items else self.items - 1)
        of_rest = self.rest**2 / ((self.seeds - 1) * (self.items - 1))
        spread = of_seeds**2 / freedom + self.of_items**2 / (self.items - 1) + of_rest
        return math.sqrt(total / size), total**2 / spread

    def spread(self, noise: SeedNoise | None = None) -> Spread:
        """The variance components behind :meth:`error`; negative estimates count as 0."""
        of_seeds, _ = self._moderated(noise)
        seed = max(0.0, of_seeds - self.rest) / self.items
        return Spread(seed, max(0.0, self.of_items - self.rest) / self.seeds, self.rest)

    def _moderated(self, noise: SeedNoise | None) -> tuple[float, float]:
        """Mean square of seeds and its degrees of freedom."""
        if noise is None or self.rest <= 0:
            return self.of_seeds, float(self.seeds - 1)
        ratio, freedom = noise.moderate(self.ratio, float(self.seeds - 1))
        return ratio * self.rest, freedom


def crossed(values: Array) -> Crossed:
    """The mean squares of a table ``(seeds, items)``.

    Raises:
        ValueError: fewer than two seeds or two items.
    """
    seeds, n = values.shape
    if seeds < 2 or n < 2:
        raise ValueError(f"expected at least two seeds and two items but got {seeds} and {n}")
    rows, columns, mean = values.mean(axis=1), values.mean(axis=0), float(values.mean())
    of_seeds = n * float(((rows - mean) ** 2).sum()) / (seeds - 1)
    of_items = seeds * float(((columns - mean) ** 2).sum()) / (n - 1)
    rest = float(((values - rows[:, None] - columns + mean) ** 2).sum()) / ((seeds - 1) * (n - 1))
    return Crossed(mean, of_seeds, of_items, rest, seeds, n)


def crossed_error(values: Array) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean of a table ``(seeds, items)``; see :meth:`Crossed.error`."""
    return crossed(values).error()


def seed_noise(comparisons: Sequence[Crossed], controls: Sequence[Hashable] | None = None) -> SeedNoise | None:
    """The seeds' share of noise in a study, from all its comparisons; None with fewer than three that vary.

    The ratios are scaled F variables, whose logarithms have known moments; matching them gives the typical ratio and
    how much it is worth (Smyth 2004, section 6.2). Comparisons with one control are correlated by a half, their mean
    squares therefore by a quarter, and k of them are worth ``k / (1 + (k - 1) / 4)``.

    Args:
        controls: names each comparison's control; None: each has its own.
    """
    known = [(c, name) for c, name in zip(comparisons, controls or range(len(comparisons)), strict=True) if c.rest > 0]
    if len(known) < FEWEST:
        return None
    ratios = np.array([c.ratio for c, _ in known])
    freedom = np.array([c.seeds - 1.0 for c, _ in known])
    if not (ratios > 0).any():
        return None
    ratios = np.maximum(ratios, _OFFSET * np.median(ratios[ratios > 0]))
    log = np.log(ratios) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(log.var(ddof=1) - special.polygamma(1, freedom / 2).mean())
    sharing = Counter(name for _, name in known)
    pooled = float(sum(f / (1 + (sharing[name] - 1) / 4) for f, (_, name) in zip(freedom, known, strict=True)))
    if excess <= 0:
        # All alike, then: the pooled mean square is less noisy than the mean logarithm.
        return SeedNoise(float((freedom * ratios).sum() / freedom.sum()), math.inf, pooled)
    worth = 2 * _inverse_trigamma(excess)
    typical = math.exp(float(log.mean()) + float(special.digamma(worth / 2)) - math.log(worth / 2))
    return SeedNoise(typical, worth, pooled)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value."""
    if value < 1e-6:
        return 1 / value
    return float(optimize.brentq(lambda x: float(special.polygamma(1, x)) - value, 1e-8, 1e8))
