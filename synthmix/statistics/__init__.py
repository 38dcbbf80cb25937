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
    MODERATED,
    Difference,
    Paired,
    cohens_d,
    difference,
    mcnemar,
    paired_difference,
    paired_t,
)
from synthmix.statistics.equivalence import (
    MARGIN_POINTS,
    MARGIN_RELATIVE,
    Spread,
    deciding_error,
    tost,
    verdict,
)
from synthmix.statistics.families import (
    benjamini_hochberg,
    bonferroni,
    holm,
)
from synthmix.statistics.intervals import (
    LEVEL,
    Interval,
    ece_interval,
    hierarchical_bootstrap,
    mean_interval,
    wilson,
)
from synthmix.statistics.moderation import (
    Crossed,
    SeedNoise,
    crossed,
    crossed_error,
    seed_noise,
)
from synthmix.statistics.resampling import (
    RESAMPLES,
    Array,
)

__all__ = [
    "Array",
    "CROSSED",
    "Crossed",
    "Difference",
    "Interval",
    "LEVEL",
    "MARGIN_POINTS",
    "MARGIN_RELATIVE",
    "MODERATED",
    "Paired",
    "RESAMPLES",
    "SeedNoise",
    "Spread",
    "benjamini_hochberg",
    "bonferroni",
    "cohens_d",
    "crossed",
    "crossed_error",
    "deciding_error",
    "difference",
    "ece_interval",
    "hierarchical_bootstrap",
    "holm",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "paired_t",
    "seed_noise",
    "tost",
    "verdict",
    "wilson",
]
