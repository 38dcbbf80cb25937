"""What a test set of n items can tell: standard errors, tests and sample sizes from published means alone.

A mean m of n item scores between 0 and 1 has at most the standard error sqrt(m (1 - m) / n), which is exact for scores
of 0 and 1 (accuracy, pass@1) and an upper bound for F1. Nothing published says how many items two runs answer
differently, so every paired figure names the discordance it assumes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from synthmix.analysis.budget.published import DISCORDANCE
from synthmix.statistics.equivalence import POWER, deciding_error


def binomial_error(mean: float, n: int) -> float:
    """Standard error of a mean of n scores of 0 and 1."""
    return math.sqrt(mean * (1 - mean) / n)


def unpaired_error(first: float, second: float, n: int) -> float:
    """Standard error of the difference of two runs' means, as if each had answered n items of its own."""
    return math.hypot(binomial_error(first, n), binomial_error(second, n))


def paired_error(difference: float, n: int, discordance: float = DISCORDANCE) -> float:
    """Standard error of a difference between two runs on the same n items: sqrt((d - difference²) / n).

    ``discordance`` is at least the difference itself: so many items must have changed.
    """
    return math.sqrt((max(discordance, abs(difference)) - difference**2) / n)


def two_sided_p(difference: float, error: float) -> float:
    """Two-sided p-value of no difference, normal approximation."""
    return float(2 * stats.norm.sf(abs(difference) / error))


def detectable(error: float, alpha: float, power: float = POWER) -> float:
    """Smallest true difference that a two-sided test at ``alpha`` finds with ``power``."""
    return error * float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))


def items_for_difference(difference: float, alpha: float, discordance: float, power: float = POWER) -> int:
    """Paired items that McNemar's test needs to find a difference (Connor 1987)."""
    spread = max(discordance, abs(difference))
    z_alpha, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)
    root = (z_alpha * math.sqrt(spread) + z_power * math.sqrt(spread - difference**2)) / abs(difference)
    return math.ceil(root**2)


def items_for_equivalence(spread: float, margin: float) -> int:
    """Items that the two one-sided tests need to show equivalence with 80 % power where the true difference is 0.

    Args:
        spread: variance of an item's difference: the discordance of a pair, or 2 m (1 - m) for unpaired runs.
    """
    return math.ceil(spread / deciding_error(0.0, margin) ** 2)


@dataclass(frozen=True)
class Granularity:
    """Whether a printed mean can be a mean of n scores of 0 and 1 (the GRIM test, Brown and Heathers 2017)."""

    printed: float
    below: float
    above: float
    possible: bool


def granularity(printed: float, n: int, decimals: int = 1) -> Granularity:
    """The two nearest means that n scores of 0 and 1 can have, in percent, and whether either rounds to ``printed``."""
    count = printed / 100 * n
    below, above = (100 * side / n for side in (math.floor(count), math.ceil(count)))
    # half a unit of the last digit, and a hair: whichever way a tie was rounded, it counts as possible
    half = 0.5 * 10**-decimals + 1e-9
    return Granularity(printed, below, above, printed - below <= half or above - printed <= half)
