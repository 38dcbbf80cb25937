"""What a synthetic-data budget rests on: a safe proportion with its interval, and the sentences that go with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from synthmix.analysis.printing import minus
from synthmix.analysis.shapes.chains import brackets

#: Model sizes whose ratio differs from 1 by less count as the same (410M is 405,334,016 parameters).
SAME_SIZE = 0.05


@dataclass(frozen=True)
class Evidence:
    """How much synthetic data, from one source; shares between 0 and 1.

    Attributes:
        share: estimate of the safe proportion.
        low, high: its 95 % interval; ``high`` is None where none can be told within the measured shares.
        plan: what to plan with: the low end, of the nearest measured size where this one is larger than all.
        above: the loss does not reach the margin at ``share`` or below it; nothing larger was measured.
        below: the loss reaches the margin at the smallest measured share already; ``share`` is that one.
        supported: whether the evidence gives a share at all at this size.
        source: ``published`` or ``study``.
        facts, warnings, limits: sentences: where the numbers come from, what to beware of, what they do not cover.
    """

    share: float
    low: float
    high: float | None
    plan: float
    above: bool
    below: bool
    supported: bool
    source: str
    facts: Sequence[str]
    warnings: Sequence[str]
    limits: Sequence[str]


def told(high: float, last: float) -> float | None:
    """An upper end, where it lies below the largest share that was measured."""
    return high if high < last else None


def within(share: float, last: float) -> float:
    """A share of a training set, no larger than the largest that was measured."""
    return float(min(max(share, 0.0), last))


def whole(share: float) -> str:
    """A share in whole percent: ``23 %``."""
    return f"{_digits(share)} %"


def ends(low: float, high: float | None) -> str:
    """An interval in whole percent: ``[18, 30]``; an end that cannot be told is a dash."""
    return brackets(low, math.inf if high is None else high, _digits)


def _digits(share: float) -> str:
    return minus(f"{100 * share:.0f}")


def count(parameters: float) -> str:
    """A number of parameters in words: ``410M``, ``6.9B``, ``281,152``."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if parameters >= 0.9995 * size:
            return f"{parameters / size:.3g}{unit}"
    return f"{parameters:,.0f}"
