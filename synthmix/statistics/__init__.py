"""Statistics of scored items, from arrays alone: intervals, differences, corrections; nothing here knows of a study.

The unit of replication is the item, within a seed. ``scores`` is always a list with one array a seed. Where all seeds
answer the same items (the usual case: one test set), ``shared_items=True`` draws *the same* items for every seed of a
resample (the pigeonhole bootstrap, Owen 2007), because a hard item is hard for all of them: drawing items apart in each
seed would count one test set as several, and its intervals miss the truth more often than they say. The price: where
seeds hardly differ, these intervals are wider than they need be (coverage above 95 %; the tests measure both). With
``shared_items=False`` items are drawn within each seed apart.

Resamples are keyed (:mod:`synthmix.keys`), so an interval is the same wherever it is computed.
"""

from synthmix.statistics.differences import (
    CROSSED,
    Difference,
    crossed_error,
    mcnemar,
    paired_difference,
    paired_t,
)
from synthmix.statistics.families import bonferroni
from synthmix.statistics.intervals import LEVEL, Interval, ece_interval, hierarchical_bootstrap, wilson
from synthmix.statistics.resampling import RESAMPLES, Array

__all__ = [
    "CROSSED",
    "LEVEL",
    "RESAMPLES",
    "Array",
    "Difference",
    "Interval",
    "bonferroni",
    "crossed_error",
    "ece_interval",
    "hierarchical_bootstrap",
    "mcnemar",
    "paired_difference",
    "paired_t",
    "wilson",
]
