"""What is said of a condition against its control: columns of one comparison, then those that need the whole family."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from synthmix.statistics import (
    Difference,
    Interval,
    Spread,
    benjamini_hochberg,
    bonferroni,
    deciding_error,
    holm,
    verdict,
)
from synthmix.statistics.equivalence import ALPHA, MARGIN_POINTS, MARGIN_RELATIVE

#: An interval is three columns: ``score``, ``score_low``, ``score_high``.
ENDS = ("", "_low", "_high")
#: Items or seeds beyond which the answer to "how many would decide it" is of no use to anyone.
MOST = 10_000_000


def named(name: str, interval: Interval | None) -> dict[str, float]:
    """An interval as the columns of a row; nan where there is none."""
    values = (math.nan,) * 3 if interval is None else (interval.estimate, interval.low, interval.high)
    return dict(zip((name + end for end in ENDS), values, strict=True))


def nothing() -> dict[str, Any]:
    """The columns of a condition that is compared with nothing."""
    numbers = (
        "p_value", "p_seeds", "d_z", "d_av", "freedom", "p_equivalence", "p_equivalence_relative", "difference_error",
    )  # fmt: skip
    row: dict[str, Any] = dict.fromkeys(numbers, math.nan)
    row |= {"p_test": "", "mcnemar": "", "n_paired_seeds": 0, "n_paired_items": 0, "n_unpaired_items": 0}
    return row | named("difference", None) | named("relative", None) | named("bootstrap", None)


def compared(found: Difference, margin: float = MARGIN_POINTS, relative: float = MARGIN_RELATIVE) -> dict[str, Any]:
    """The columns of one comparison; ``_spread`` is for :func:`judge_family`."""
    return {
        "p_value": found.p_value, "p_test": found.test, "p_seeds": found.p_seeds, "freedom": found.freedom,
        "d_z": found.d_z, "d_av": found.d_av, "mcnemar": _mcnemar(found.p_mcnemar),
        "difference_error": found.points.error, "p_equivalence": found.equivalence(margin),
        "p_equivalence_relative": found.equivalence(relative, relative=True), "_spread": found.spread,
    } | named("difference", found.points) | named("relative", found.relative) | named("bootstrap", found.bootstrap)  # fmt: skip


def judge_family(frame: pd.DataFrame, margin: float = MARGIN_POINTS) -> pd.DataFrame:
    """Adds what depends on all comparisons of a frame: corrected p-values, verdicts, and what would decide.

    Columns: ``p_bonferroni, p_holm, p_bh``; ``verdict`` (against the margin in points) and ``verdict_relative``, both
    after Holm's correction of the difference tests and, apart, of the equivalence tests; for undecided ones
    ``items_needed`` (with as many seeds) and ``seeds_needed`` (with as many items) for a power of 80 % if the true
    difference is the estimate, at Bonferroni's level; ``inf`` where more of one kind alone never decides.
    """
    p_values = [float(p) for p in frame.p_value]
    frame = frame.assign(p_bonferroni=bonferroni(p_values), p_holm=holm(p_values), p_bh=benjamini_hochberg(p_values))
    for name in ("", "_relative"):
        equivalent = holm([float(p) for p in frame[f"p_equivalence{name}"]])
        judged = zip(frame.difference, frame.p_holm, equivalent, strict=True)
        verdicts = [verdict(d, p, e) if not math.isnan(d) else "" for d, p, e in judged]
        frame[f"p_equivalence{name}_holm"], frame[f"verdict{name}"] = equivalent, verdicts
    family = max(1, sum(not math.isnan(p) for p in p_values))
    spreads = frame["_spread"] if "_spread" in frame else [None] * len(frame)
    needed = [_needed(row, spread, margin, family) for (_, row), spread in zip(frame.iterrows(), spreads, strict=True)]
    frame = frame.assign(items_needed=[n[0] for n in needed], seeds_needed=[n[1] for n in needed])
    return frame.drop(columns="_spread", errors="ignore")


def _needed(row: pd.Series, spread: object, margin: float, family: int) -> tuple[float, float]:
    if row.verdict != "undecided" or not (row.difference_error > 0):
        return math.nan, math.nan
    error = deciding_error(row.difference, margin, ALPHA / family)
    if not isinstance(spread, Spread):  # one seed: the error is that of items alone
        return _whole(row.n_paired_items * (row.difference_error / error) ** 2), math.nan
    return (
        _whole(spread.items_for(error, int(row.n_paired_seeds))),
        _whole(spread.seeds_for(error, int(row.n_paired_items))),
    )


def _whole(number: float) -> float:
    return math.inf if number > MOST else float(np.ceil(number))


def _mcnemar(p_values: tuple[float, ...]) -> str:
    """In how many seeds McNemar's test finds a difference; empty where scores are not 0 or 1."""
    known = [p for p in p_values if not math.isnan(p)]
    return f"{sum(p < ALPHA for p in known)} of {len(known)}" if known else ""
