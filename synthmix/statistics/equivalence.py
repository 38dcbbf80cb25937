"""Safe, degraded or undecided: equivalence within a margin, and how much more data would decide.

That a difference is not significant does not show that there is none. A share counts as safe only if the loss, and a
gain as well, is shown to be smaller than a margin (two one-sided tests, Schuirmann 1987).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import stats

Verdict = Literal["safe", "degraded", "improved", "undecided"]
#: A loss of so much counts as none: 3 points of a score between 0 and 1, or 10 % of the control's score.
MARGIN_POINTS, MARGIN_RELATIVE = 0.03, 0.1
ALPHA, POWER = 0.05, 0.8


def tost(estimate: float, error: float, freedom: float, margin: float) -> float:
    """p-value of the two one-sided t-tests that a difference lies outside ``(-margin, margin)``; the larger of the two.

    Small values show equivalence; below 0.05 exactly where the 90 % interval lies within the margin.

    Args:
        estimate, error: the difference and its standard error, in the unit of the margin.
        freedom: degrees of freedom, may be ``inf``.

    Raises:
        ValueError: a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"expected a margin above 0 but got {margin}")
    if error == 0:
        return 0.0 if abs(estimate) < margin else 1.0
    return float(stats.t.sf((margin - abs(estimate)) / error, freedom))


def verdict(estimate: float, p_difference: float, p_equivalence: float, alpha: float = ALPHA) -> Verdict:
    """What two p-values, corrected alike, say of a share.

    ``safe`` is what is shown equivalent, also where a small loss inside the margin is shown; ``degraded`` and
    ``improved`` are what is shown different and not equivalent; a nan shows nothing.
    """
    if p_equivalence < alpha:
        return "safe"
    if p_difference < alpha:
        return "degraded" if estimate < 0 else "improved"
    return "undecided"


@dataclass(frozen=True)
class Spread:
    """Where the variance of a mean over seeds and items comes from: ``seed / S + item / n + rest / (S n)``."""

    seed: float
    item: float
    rest: float

    def items_for(self, error: float, seeds: int) -> float:
        """Items a seed at which the standard error is ``error``; ``inf`` where the seeds alone make it larger."""
        left = error**2 - self.seed / seeds
        return (self.item + self.rest / seeds) / left if left > 0 else math.inf

    def seeds_for(self, error: float, items: int) -> float:
        """Seeds at which the standard error is ``error``; ``inf`` where the items alone make it larger."""
        left = error**2 - self.item / items
        return (self.seed + self.rest / items) / left if left > 0 else math.inf


def deciding_error(estimate: float, margin: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The largest standard error at which a share whose true difference is ``estimate`` would be decided.

    Decided is what the difference test (two-sided) or the equivalence test at level ``alpha`` shows with probability
    ``power``, in the normal approximation; whichever needs less. The equivalence test's power counts the side of the
    margin that is nearer, and both sides where the estimate is 0.
    """
    beta = float(stats.norm.ppf(power))
    different = abs(estimate) / (float(stats.norm.isf(alpha / 2)) + beta)
    if abs(estimate) >= margin:
        return different
    both = float(stats.norm.ppf((1 + power) / 2))
    room = margin - abs(estimate)
    near = room / (float(stats.norm.isf(alpha)) + beta)
    centred = margin / (float(stats.norm.isf(alpha)) + both)
    return max(different, min(near, centred))
