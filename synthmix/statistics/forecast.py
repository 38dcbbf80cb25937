"""A signal judged as a forecast: does an alert at iteration t foretell a loss at t + 1?

A forecast is one row: the signal of a chain at t (higher is worse), and whether a loss followed at t + 1. Forecasts are
not independent: those of a chain follow each other, and chains that start from one baseline share it, so all intervals
resample clusters of forecasts, given by the caller (:mod:`synthmix.statistics.clusters`). What does not exist (the
precision of no alerts) is :class:`Undefined`, with the reason.

Alerts from a threshold that was chosen on the same forecasts flatter it: :func:`held_out_alerts` learns it elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from synthmix.statistics.clusters import SHARE, WILSON, Clusters, Estimate, Undefined, divided, newcombe
from synthmix.statistics.intervals import LEVEL, Interval
from synthmix.statistics.resampling import RESAMPLES, Array

Criterion = Literal["f1", "youden"]
Bools = NDArray[np.bool_]
_DIFFERENCE = (-1.0, 1.0)
#: Losses, or forecasts without one, on fewer clusters than this cannot be varied by drawing clusters.
FEWEST = 3


@dataclass(frozen=True)
class AlertSkill:
    """How good alerts are. In each interval ``n_items`` counts forecasts and ``n_seeds`` clusters.

    Attributes:
        n, alerts, losses, hits: forecasts, those with an alert, those with a loss, those with both.
        base_rate: losses / n: the precision of an alert at random, and of one that is always on.
        precision: hits / alerts.
        recall: hits / losses.
        f1: harmonic mean of the two.
        lift: precision - base rate; what an alert says above 0.
    """

    n: int
    alerts: int
    losses: int
    hits: int
    base_rate: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    lift: Estimate


@dataclass(frozen=True)
class LeadTime:
    """First alert against first loss, chain by chain.

    Attributes:
        mean: first loss - first alert, in iterations, over the chains that have both; 0 or less: the alert came with the
            loss or after it. Chains without either are censored, and only counted:
        early, late: chains whose alert came before the loss, and not before it.
        missed: a loss and no alert.
        unmatched: an alert and no loss, as far as the chain goes.
        quiet: neither.
    """

    mean: Estimate
    early: int
    late: int
    missed: int
    unmatched: int
    quiet: int


@dataclass(frozen=True)
class HeldOut:
    """Alerts ``(n,)`` of thresholds that were learned without the group that they judge, and each group's threshold
    (alert above it; -inf: always, inf: never)."""

    alert: Bools
    thresholds: dict[Any, float]


def alert_skill(
    alert: ArrayLike, loss: ArrayLike, cluster: ArrayLike, *key: Any, resamples: int = RESAMPLES, level: float = LEVEL
) -> AlertSkill:
    """Precision, recall, F1 and base rate of alerts, each with its interval.

    Args:
        alert, loss: ``(n,)``, 0 or 1.
        cluster: ``(n,)``, what is resampled together.
        key: names the quantity; the resamples are a function of it.

    Raises:
        ValueError: no forecasts, different lengths, other values than 0 and 1.
    """
    warned, lost = _zero_one("alert", alert), _zero_one("loss", loss)
    _check_lengths(warned, lost)
    draw = Clusters.of(cluster, len(lost), key, resamples, level)
    n, alerts, losses, hits = (draw.sums(x) for x in (np.ones(len(lost)), warned, lost, warned * lost))
    base = draw.proportion(losses, n, "")
    precision = draw.proportion(hits, alerts, "there is no alert")
    recall = draw.proportion(hits, losses, "there is no loss")
    f1 = draw.proportion(hits, alerts + losses - hits, "there is neither an alert nor a loss", _f1_of_overlap)
    return AlertSkill(
        len(lost), int(alerts.sum()), int(losses.sum()), int(hits.sum()),
        base, precision, recall, f1, _lift(draw, hits, alerts, losses, n, (precision, base)),
    )  # fmt: skip


def auroc(
    signal: ArrayLike,
    loss: ArrayLike,
    cluster: ArrayLike,
    *key: Any,
    stratum: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """How often a forecast that a loss followed has the higher signal than one that none followed; ties count half.

    This is the area under the ROC curve (Mann and Whitney 1947); 0.5 says that the signal cannot tell the two apart.

    Args:
        signal: ``(n,)``, higher is worse; infinite values are allowed, nan is not.
        stratum: ``(n,)``; if given, only pairs within one stratum are compared (tasks differ in how often they lose and
            in the scale of a signal, which a pooled AUROC counts as skill).

    Raises:
        ValueError: as :func:`alert_skill`; a signal that is nan.
    """
    pairs = _Pairs.of(signal, loss, cluster, key, stratum, resamples, level)
    return pairs if isinstance(pairs, Undefined) else pairs.interval()


def auroc_difference(
    signal: ArrayLike,
    rival: ArrayLike,
    loss: ArrayLike,
    cluster: ArrayLike,
    *key: Any,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """AUROC of ``signal`` minus that of ``rival``, on the same forecasts: both in the same resamples of clusters."""
    ours, theirs = (_Pairs.of(values, loss, cluster, key, None, resamples, level) for values in (signal, rival))
    for pairs in (ours, theirs):
        if isinstance(pairs, Undefined):
            return pairs
    assert isinstance(ours, _Pairs) and isinstance(theirs, _Pairs)
    if ours.one_sided:
        which, k = ("losses", ours.lossy) if ours.lossy <= ours.other else ("forecasts without a loss", ours.other)
        return Undefined(f"the {which} stand on {k} of {ours.clusters.count} clusters")
    draws = ours.draws() - theirs.draws()
    return _without_width(ours.clusters.interval(ours.estimate - theirs.estimate, draws, _DIFFERENCE))


def p_value(found: Interval, against: float = 0.0) -> float:
    """Two-sided p-value that the truth is ``against``: Student's t on the interval's error, with one degree of freedom
    less than clusters; nan where there is no error (one cluster, or nothing that varies)."""
    if not found.error > 0 or found.n_seeds < 2:
        return math.nan
    return float(2 * stats.t.sf(abs(found.estimate - against) / found.error, found.n_seeds - 1))


def lead_time(
    chain: ArrayLike,
    time: ArrayLike,
    alert: ArrayLike,
    lost: ArrayLike,
    loss: ArrayLike,
    cluster: ArrayLike,
    *key: Any,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> LeadTime:
    """Iterations from the first alert of a chain to its first loss.

    Args:
        chain, time: ``(n,)``, the chain of a forecast, and its iteration t.
        alert: ``(n,)``, 0 or 1, at t.
        lost, loss: ``(n,)``, 0 or 1: a loss at t, a loss at t + 1.
        cluster: ``(n,)``; all forecasts of a chain belong to one cluster.

    Raises:
        ValueError: as :func:`alert_skill`.
    """
    chains, index = np.unique(np.asarray(chain), return_inverse=True)
    when = np.asarray(time, dtype=np.float64)
    warned, now, then = (_zero_one(*p) for p in (("alert", alert), ("lost", lost), ("loss", loss)))
    _check_lengths(when, warned, now, then, np.asarray(chain), np.asarray(cluster))
    first_alert = _first(index, np.where(warned == 1, when, math.inf), len(chains))
    losses = np.where(now == 1, when, np.where(then == 1, when + 1, math.inf))
    first_loss = _first(index, losses, len(chains))
    warns, loses = np.isfinite(first_alert), np.isfinite(first_loss)
    both = warns & loses
    lead = np.where(both, first_loss, 0) - np.where(both, first_alert, 0)
    of_chain = np.asarray(cluster)[np.unique(index, return_index=True)[1]]
    draw = Clusters.of(of_chain, len(chains), key, resamples, level)
    counts = (both & (lead > 0), both & (lead <= 0), ~warns & loses, warns & ~loses, ~warns & ~loses)
    return LeadTime(_mean_lead(draw, lead, both), *(int(np.sum(c)) for c in counts))


def best_threshold(signal: ArrayLike, loss: ArrayLike, criterion: Criterion = "f1") -> float:
    """The threshold whose alerts (signal above it) have the highest F1, or Youden's J (recall - false alarm rate).

    Candidates lie half-way between neighbouring values, and at -inf (always alert) and inf (never). Of several that are
    as good the highest is taken: fewer alerts. Without a loss nothing can be learned, and it is inf.
    """
    values, lost = _signal(signal), _zero_one("loss", loss)
    _check_lengths(values, lost)
    if not lost.any():
        return math.inf
    levels, index = np.unique(values, return_inverse=True)
    # Alerts and hits at each threshold, from never (highest) to always.
    alerts = np.concatenate([[0], np.cumsum(np.bincount(index)[::-1])])
    hits = np.concatenate([[0], np.cumsum(np.bincount(index, weights=lost)[::-1])])
    if criterion == "f1":
        merit = 2 * hits / (alerts + lost.sum())
    else:
        merit = hits / lost.sum() - (alerts - hits) / max(1, len(lost) - lost.sum())
    best = int(np.argmax(merit > merit.max() - 1e-12))
    if best in (0, len(levels)):
        return math.inf if best == 0 else -math.inf
    below, above = levels[len(levels) - best - 1], levels[len(levels) - best]
    middle = (below + above) / 2
    return float(middle if math.isfinite(middle) else below)


def held_out_alerts(signal: ArrayLike, loss: ArrayLike, group: ArrayLike, criterion: Criterion = "f1") -> HeldOut:
    """Alerts for each group by the threshold that :func:`best_threshold` finds on all the others.

    Args:
        group: ``(n,)``; forecasts that share a baseline or a seed belong to one group, so that no threshold has seen it.

    Raises:
        ValueError: fewer than two groups.
    """
    values, lost, groups = _signal(signal), _zero_one("loss", loss), np.asarray(group)
    _check_lengths(values, lost, groups)
    names = np.unique(groups)
    if len(names) < 2:
        raise ValueError(f"a threshold is learned on other groups than it is judged on: got {len(names)} group")
    alert, thresholds = np.zeros(len(values), dtype=bool), {}
    for name in names:
        own = groups == name
        thresholds[name.item()] = best_threshold(values[~own], lost[~own], criterion)
        alert[own] = values[own] > thresholds[name.item()]
    return HeldOut(alert, thresholds)


# -- pairs of forecasts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a forecast with a loss and one without, summed by pair of clusters.

    Attributes:
        wins: ``(clusters, clusters)``: pairs in which the first, with a loss, has the higher signal; ties count half.
        pairs: pairs there are.
        lossy, other: clusters that hold a forecast with a loss, and one without.
    """

    clusters: Clusters
    wins: Array
    pairs: Array
    lossy: int
    other: int

    @classmethod
    def of(
        cls, signal: ArrayLike, loss: ArrayLike, cluster: ArrayLike, key: tuple[Any, ...],
        stratum: ArrayLike | None, resamples: int, level: float,
    ) -> _Pairs | Undefined:  # fmt: skip
        values, lost = _signal(signal), _zero_one("loss", loss)
        _check_lengths(values, lost)
        clusters = Clusters.of(cluster, len(lost), key, resamples, level)
        part = np.zeros(len(lost)) if stratum is None else np.unique(np.asarray(stratum), return_inverse=True)[1]
        if not lost.any() or lost.all():
            return Undefined("there is no loss" if not lost.any() else "every forecast was followed by a loss")
        if values.min() == values.max():
            return Undefined("the signal is the same in every forecast")
        yes, no = lost == 1, lost == 0
        same = (part[yes][:, None] == part[no]).astype(np.float64)
        if not same.any():
            return Undefined("no stratum holds forecasts with a loss and without one")
        high, low = values[yes][:, None], values[no]
        wins = same * ((high > low) + 0.5 * (high == low))
        one_hot = np.eye(clusters.count)[clusters.index]
        left, right = one_hot[yes], one_hot[no]
        held = [int(np.sum(side.any(axis=0))) for side in (left, right)]
        return cls(clusters, left.T @ wins @ right, left.T @ same @ right, *held)

    @property
    def estimate(self) -> float:
        return float(self.wins.sum() / self.pairs.sum())

    @property
    def one_sided(self) -> bool:
        """Whether losses, or forecasts without one, stand on so few clusters that resamples cannot vary them."""
        return min(self.lossy, self.other) < FEWEST

    def draws(self) -> Array:
        weights = self.clusters.weights
        wins, pairs = (((weights @ table) * weights).sum(axis=1) for table in (self.wins, self.pairs))
        return divided(wins, pairs)

    def interval(self) -> Interval:
        found = self.clusters.interval(self.estimate, self.draws(), SHARE, "without a pair to compare")
        if self.clusters.count < 2 or (found.error > 1e-12 and not self.one_sided):
            return found
        low, high = newcombe(self.estimate, self.lossy, self.other, self.clusters.level)
        return self.clusters.bounded(found, low, high, "Newcombe, clusters")


# -- parts ----------------------------------------------------------------------------------------------------------


def _lift(
    draw: Clusters, hits: Array, alerts: Array, losses: Array, n: Array, skill: tuple[Estimate, Estimate]
) -> Estimate:
    """Precision - base rate, given their intervals."""
    precision, base = skill
    if isinstance(precision, Undefined) or isinstance(base, Undefined):
        return Undefined("there is no alert")
    estimate = precision.estimate - base.estimate
    draws = draw.ratio(hits, alerts) - draw.ratio(losses, n)
    found = draw.interval(estimate, draws, _DIFFERENCE, "in which there is no alert")
    if precision.method != WILSON:
        return found
    # All alerts alike: their own error does not show in the resamples (Zou and Donner 2008, without the covariance).
    low = estimate - math.hypot(precision.estimate - precision.low, base.high - base.estimate)
    high = estimate + math.hypot(precision.high - precision.estimate, base.estimate - base.low)
    return draw.bounded(found, low, high, WILSON)


def _mean_lead(draw: Clusters, lead: Array, both: Bools) -> Estimate:
    if not both.any():
        return Undefined("no chain has both an alert and a loss")
    draws = draw.ratio(draw.sums(lead * both), draw.sums(both))
    limits = (-math.inf, math.inf)
    return _without_width(draw.interval(float(lead[both].mean()), draws, limits, "without such a chain"))


def _without_width(found: Interval) -> Interval:
    """An interval from resamples that are all alike has no ends: they would claim certainty."""
    if found.error > 1e-12 or math.isnan(found.error):
        return found
    return replace(found, low=math.nan, high=math.nan, method="no interval: all alike")


def _f1_of_overlap(share: Array) -> Array:
    """F1 from hits / (alerts or losses): 2 J / (1 + J)."""
    return 2 * share / (1 + share)


def _first(index: NDArray[np.int64], when: Array, n: int) -> Array:
    found = np.full(n, math.inf)
    np.minimum.at(found, index, when)
    return found


def _zero_one(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isin(array, (0.0, 1.0)).all():
        raise ValueError(f"Expected argument `{name}` to hold only 0 and 1, in one dimension")
    return array


def _signal(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError("Expected argument `signal` to have one dimension and no nan")
    return array


def _check_lengths(*arrays: NDArray[Any]) -> None:
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"Expected arrays of one length but got {[len(array) for array in arrays]}")
