"""Seeds and items as two random factors, and how a study's comparisons lend each other their seeds.

Two or three seeds say little about how much training runs differ: a standard error that rests on them alone is now far
too small, now far too large. A study has many comparisons with as many seeds each, though, and so many more degrees of
freedom. Comparisons with one control (a task's shares) are taken to have one ratio of seeds' noise to the rest, pooled
over them; correlated as they are, they are worth fewer degrees of freedom than they are many. The ratios of such groups
(the tasks) are then drawn towards the study's typical one, as variances of genes are in microarrays with few replicates
(Smyth 2004, "Linear models and empirical Bayes methods", Statistical Applications in Genetics and Molecular Biology 3),
with one change: groups never count as wholly alike. One comparison alone is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import optimize, special

from synthmix.statistics.equivalence import Spread
from synthmix.statistics.resampling import Array

#: Correlation of two differences to one control: its noise is half of theirs.
SHARED_CONTROL = 0.5
#: Groups never count as more alike than this variance of their log ratios says: a factor of two either way. A handful
#: of groups cannot show that they are, and taking them for alike errs in 9 to 18 % of families where they are not.
UNLIKE = 0.5
#: Two seeds may agree to the last item by chance, and a ratio of 0 has no logarithm: it counts as this share of the
#: median ratio. A much smaller one would make a single such group an outlier that says all are unlike.
_LOWEST = 0.02
#: The squared error is never less than this part of what the larger factor alone gives.
LEAST = 0.25


@dataclass(frozen=True)
class SeedNoise:
    """How much seeds differ in a group of comparisons, against the noise of items within them.

    Attributes:
        ratio: mean square of seeds over that of the rest; 1 where seeds differ no more than items make them.
        freedom: degrees of freedom of this ratio.
    """

    ratio: float
    freedom: float


@dataclass(frozen=True)
class Crossed:
    """Mean squares of a table ``(seeds, items)`` of values, both factors random, without replication.

    Attributes:
        mean: mean of all values.
        of_seeds, of_items, rest: mean squares of seeds, of items, and of what is left.
        deviations: ``(seeds,)`` of the seeds' means from the mean.
    """

    mean: float
    of_seeds: float
    of_items: float
    rest: float
    seeds: int
    items: int
    deviations: Array = field(repr=False, compare=False)

    @property
    def ratio(self) -> float:
        """Mean square of seeds over the rest; nan where the rest is 0."""
        return self.of_seeds / self.rest if self.rest > 0 else math.nan

    def error(self, noise: SeedNoise | None = None) -> tuple[float, float]:
        """Standard error of the mean and its degrees of freedom (Satterthwaite).

        The squared error is ``(MS_seeds + MS_items - MS_rest) / size`` (Searle, Casella and McCulloch 1992, chapter 5).
        Where the rest outweighs a factor that is small by chance, or negative: it is a quarter of the larger factor at
        the least, and its few degrees of freedom say how little it is worth. To take the larger factor alone, with all
        of its degrees of freedom, errs in up to half of families without an effect.

        Args:
            noise: of the comparison's group; None: this comparison's own seeds alone.
        """
        of_seeds, freedom = self._moderated(noise)
        total = max(of_seeds + self.of_items - self.rest, LEAST * max(of_seeds, self.of_items))
        if total == 0:
            return 0.0, 1.0
        of_rest = self.rest**2 / ((self.seeds - 1) * (self.items - 1))
        spread = of_seeds**2 / freedom + self.of_items**2 / (self.items - 1) + of_rest
        return math.sqrt(total / (self.seeds * self.items)), max(1.0, total**2 / spread)

    def spread(self, noise: SeedNoise | None = None) -> Spread:
        """The variance components behind :meth:`error`; negative estimates count as 0."""
        of_seeds, _ = self._moderated(noise)
        seed = max(0.0, of_seeds - self.rest) / self.items
        return Spread(seed, max(0.0, self.of_items - self.rest) / self.seeds, self.rest)

    def _moderated(self, noise: SeedNoise | None) -> tuple[float, float]:
        """Mean square of seeds and its degrees of freedom."""
        if noise is None or self.rest <= 0:
            return self.of_seeds, float(self.seeds - 1)
        return noise.ratio * self.rest, noise.freedom


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
    return Crossed(mean, of_seeds, of_items, rest, seeds, n, rows - mean)


def crossed_error(values: Array) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean of a table ``(seeds, items)``; see :meth:`Crossed.error`."""
    return crossed(values).error()


def seed_noise(
    groups: Sequence[Sequence[Crossed]], correlation: float | None = SHARED_CONTROL
) -> list[SeedNoise | None]:
    """The seeds' share of noise in each group of a study's comparisons.

    None for a group in which nothing varies, and for the only comparison of a study.

    Args:
        groups: comparisons with one control each; or the levels of one task each.
        correlation: of the seeds' means within a group; None: estimated from all groups together.
    """
    kept = [[c for c in group if c.rest > 0] for group in groups]
    known = [group for group in kept if group]
    if sum(map(len, known)) < 2:  # nobody to learn from
        return [None] * len(kept)
    correlation = _correlation(known) if correlation is None else correlation
    seeds = [np.array([c.seeds - 1.0 for c in group]) for group in known]
    ratios = np.array([np.average([c.ratio for c in g], weights=s) for g, s in zip(known, seeds, strict=True)])
    freedom = np.array([s.sum() / (1 + (len(s) - 1) * correlation**2) for s in seeds])
    found = iter(_moderated(ratios, freedom))
    return [next(found) if group else None for group in kept]


def typical(ratios: Array, freedom: Array, unlike: float = UNLIKE) -> tuple[float, float]:
    """The typical ratio, and the degrees of freedom that it is worth for one group (Smyth 2004, section 6.2).

    Ratios are scaled F variables, whose logarithms have known moments: the variance of these beyond what chance gives is
    how unlike the groups are.

    Args:
        ratios, freedom: ``(groups,)``, two or more.
        unlike: the least of that variance; with 0 the second value may be ``inf``, and the first is the pooled ratio.
    """
    pooled = float((freedom * ratios).sum() / freedom.sum())
    ratios = np.maximum(ratios, _LOWEST * np.median(ratios[ratios > 0]))
    log = np.log(ratios) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = max(unlike, float(log.var(ddof=1) - special.polygamma(1, freedom / 2).mean()))
    if excess == 0:
        return pooled, math.inf
    worth = 2 * _inverse_trigamma(excess)
    return math.exp(float(log.mean()) + float(special.digamma(worth / 2)) - math.log(worth / 2)), worth


def _moderated(ratios: Array, freedom: Array) -> list[SeedNoise]:
    """Each group's ratio, drawn towards the typical one; no group can have more degrees of freedom than all together."""
    drawn, total = ratios, freedom
    if len(ratios) > 1 and (ratios > 0).any():
        ratio, worth = typical(ratios, freedom)
        drawn = (worth * ratio + freedom * ratios) / (worth + freedom)
        total = np.minimum(worth + freedom, freedom.sum())
    return [SeedNoise(float(r), float(f)) for r, f in zip(drawn, total, strict=True)]


def _correlation(groups: Sequence[Sequence[Crossed]]) -> float:
    """Of seeds' means within a group, in units of the rest's noise; 0 where no group has two."""
    shared = own = 0.0
    for group in groups:
        if len(group) < 2 or len({c.seeds for c in group}) > 1:
            continue
        moved = np.stack([c.deviations * math.sqrt(c.items / c.rest) for c in group])
        squares, pairs = float((moved**2).sum()), len(group) * (len(group) - 1)
        shared += (float((moved.sum(axis=0) ** 2).sum()) - squares) / pairs
        own += squares / len(group)
    return min(1.0, max(0.0, shared / own)) if own else 0.0


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value."""
    if value < 1e-6:
        return 1 / value
    return float(optimize.brentq(lambda x: float(special.polygamma(1, x)) - value, 1e-8, 1e8))
