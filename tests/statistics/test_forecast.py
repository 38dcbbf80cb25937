"""Forecasts against scikit-learn, by hand, and in simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, precision_recall_fscore_support, roc_auc_score, roc_curve

from synthmix import keys
from synthmix.statistics import Interval
from synthmix.statistics.clusters import Undefined
from synthmix.statistics.forecast import (
    alert_skill,
    auroc,
    auroc_difference,
    best_threshold,
    held_out_alerts,
    lead_time,
    p_value,
)


def known(found: object) -> Interval:
    assert isinstance(found, Interval), found
    return found


def world(rng: np.random.Generator, groups: int, effect: float = 1.0) -> tuple[np.ndarray, ...]:
    """Signal, loss, cluster and chain of six forecasts a baseline: three shares, two iterations; the chains of a baseline
    share its noise, and the control's luck."""
    rows = []
    for group in range(groups):
        base, control = rng.normal(0, 0.7), rng.normal(0, 0.6, 4)
        for share in (0.2, 0.3, 0.4):
            own = rng.normal(0, 0.4)
            for t in (1, 2):
                risk = 4 * (share - 0.3) + 0.5 * (t - 1) + own - control[t + 1]
                signal = effect * risk + base + rng.normal(0, 0.7)
                rows.append((signal, float(risk + rng.logistic() > 1.2), group, 10 * group + 10 * share))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


# -- numbers --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 60), st.integers(1, 12))
def test_auroc_equals_sklearn_with_ties(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    signal, loss = rng.integers(0, levels + 1, n).astype(float), (rng.random(n) < 0.4).astype(float)
    assume(0 < loss.sum() < n and np.ptp(signal) > 0)
    found = known(auroc(signal, loss, rng.integers(0, 4, n), resamples=20))
    assert found.estimate == pytest.approx(roc_auc_score(loss, signal), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_precision_recall_and_f1_equal_sklearn(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    alert, loss = ((rng.random(n) < p).astype(float) for p in (0.5, 0.3))
    found = alert_skill(alert, loss, rng.integers(0, 5, n), resamples=20)
    theirs = precision_recall_fscore_support(loss, alert, average="binary", zero_division=np.nan)
    for ours, value in zip((found.precision, found.recall, found.f1), theirs, strict=False):
        if isinstance(ours, Undefined):
            assert math.isnan(value) or not (alert.any() or loss.any())
        else:
            assert ours.estimate == pytest.approx(value)
    assert known(found.base_rate).estimate == loss.mean()
    assert (found.n, found.alerts, found.losses, found.hits) == (n, alert.sum(), loss.sum(), (alert * loss).sum())


def test_infinite_signals_are_ranked_and_nan_is_refused() -> None:
    loss = [0, 0, 1, 1]
    assert known(auroc([0.1, 0.5, 0.4, math.inf], loss, [1, 2, 3, 4])).estimate == 0.75
    assert known(auroc([-math.inf, 0.5, math.inf, math.inf], loss, [1, 2, 3, 4])).estimate == 1.0
    with pytest.raises(ValueError, match="nan"):
        auroc([math.nan, 1, 2, 3], loss, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="0 and 1"):
        auroc([0, 1, 2, 3], [0, 0.5, 1, 1], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="one length"):
        alert_skill([0, 1], [0, 1, 1], [1, 2, 3])


def test_auroc_within_strata_compares_no_pair_across_them() -> None:
    """Two tasks, of which one loses more and has the larger signal: pooled skill, none within."""
    rng = keys.generator("strata")
    task = np.repeat([0, 1], 200)
    loss = (rng.random(400) < np.where(task, 0.8, 0.2)).astype(float)
    signal = rng.random(400) + task
    cluster = np.arange(400) // 4
    pooled, within = (known(auroc(signal, loss, cluster, stratum=s)) for s in (None, task))
    assert pooled.low > 0.65
    assert within.low < 0.5 < within.high
    wins = pairs = 0.0
    for part in (0, 1):
        own, lost = signal[task == part], loss[task == part] == 1
        pairs += lost.sum() * (~lost).sum()
        wins += roc_auc_score(lost, own) * lost.sum() * (~lost).sum()
    assert within.estimate == pytest.approx(wins / pairs)


def test_what_does_not_exist_says_why() -> None:
    cluster = [1, 1, 2, 2]
    silent = alert_skill([0, 0, 0, 0], [0, 1, 0, 1], cluster)
    assert silent.precision == silent.lift == Undefined("there is no alert")
    assert known(silent.recall).estimate == 0 and known(silent.recall).high > 0.5
    calm = alert_skill([0, 1, 0, 0], [0, 0, 0, 0], cluster)
    assert calm.recall == Undefined("there is no loss")
    assert known(calm.precision).estimate == 0 and known(calm.base_rate).high > 0.5
    nothing = alert_skill([0, 0, 0, 0], [0, 0, 0, 0], cluster)
    assert nothing.f1 == Undefined("there is neither an alert nor a loss")
    assert auroc([1, 2, 3, 4], [0, 0, 0, 0], cluster) == Undefined("there is no loss")
    assert auroc([1, 2, 3, 4], [1, 1, 1, 1], cluster) == Undefined("every forecast was followed by a loss")
    assert auroc([2, 2, 2, 2], [0, 1, 0, 1], cluster) == Undefined("the signal is the same in every forecast")
    assert isinstance(auroc([1, 2, 3, 4], [0, 0, 1, 1], cluster, stratum=[0, 0, 1, 1]), Undefined)
    assert isinstance(auroc_difference([2, 2, 2, 2], [1, 2, 3, 4], [0, 1, 0, 1], cluster), Undefined)
    with pytest.raises(ValueError, match="at least one"):
        alert_skill([], [], [])


# -- intervals ------------------------------------------------------------------------------------------------------


def test_error_of_an_auroc_of_independent_forecasts_is_delongs() -> None:
    """Placement values (DeLong, DeLong and Clarke-Pearson 1988)."""
    rng = keys.generator("delong")
    loss = (rng.random(300) < 0.4).astype(float)
    signal = rng.normal(loss, 1.2)
    high, low = signal[loss == 1], signal[loss == 0]
    placed = (high[:, None] > low).astype(float)
    error = math.sqrt(placed.mean(axis=1).var(ddof=1) / len(high) + placed.mean(axis=0).var(ddof=1) / len(low))
    found = known(auroc(signal, loss, np.arange(300), resamples=4000))
    assert found.error == pytest.approx(error, rel=0.05)


def test_perfect_ranking_in_few_clusters_is_not_certainty() -> None:
    loss = np.tile([0.0, 1.0], 5)
    found = known(auroc(loss, loss, np.repeat(np.arange(5), 2)))
    assert found.estimate == found.high == 1.0
    assert 0.4 < found.low < 0.9 and "Newcombe" in found.method
    alerts = alert_skill(loss, loss, np.repeat(np.arange(5), 2))
    assert known(alerts.f1).estimate == 1.0 and known(alerts.f1).low < 0.9
    assert known(alerts.lift).estimate == 0.5 and known(alerts.lift).low < 0.4


def test_a_rival_that_is_the_same_has_no_difference_and_no_interval() -> None:
    signal, loss, cluster, _ = world(keys.generator("rival"), 6)
    same = known(auroc_difference(signal, signal, loss, cluster))
    assert same.estimate == 0 and math.isnan(same.low) and math.isnan(p_value(same))


def test_paired_differences_are_sharper_than_two_intervals() -> None:
    rng = keys.generator("paired")
    signal, loss, cluster, _ = world(rng, 30, 1.5)
    rival = signal + rng.normal(0, 0.2, len(signal))
    gain = known(auroc_difference(signal, rival, loss, cluster))
    apart = [known(auroc(values, loss, cluster)) for values in (signal, rival)]
    assert gain.estimate == pytest.approx(apart[0].estimate - apart[1].estimate)
    assert gain.error < 0.5 * math.hypot(*(found.error for found in apart))


def test_p_value_is_students_t_over_clusters() -> None:
    found = Interval(0.8, 0.5, 1.0, 36, 6, "", 0.1)
    assert p_value(found, 0.5) == pytest.approx(0.0301, abs=1e-4)  # t = 3, 5 degrees of freedom
    assert math.isnan(p_value(Interval(0.8, math.nan, math.nan, 4, 1, "")))


@pytest.mark.parametrize("groups", [3, 6, 20])
def test_intervals_hold_the_truth_with_few_baselines(groups: int) -> None:
    signal, loss, _, _ = world(keys.generator("truth"), 3000)
    alert = signal > 0.8
    truths = {
        "auroc": roc_auc_score(loss, signal), "precision": loss[alert].mean(), "recall": alert[loss == 1].mean(),
        "base": loss.mean(), "lift": loss[alert].mean() - loss.mean(),
    }  # fmt: skip
    hits: dict[str, list[bool]] = {name: [] for name in truths}
    for trial in range(150):
        signal, loss, cluster, _ = world(keys.generator("few", groups, trial), groups)
        skill = alert_skill(signal > 0.8, loss, cluster, trial, resamples=200)
        area = auroc(signal, loss, cluster, trial, resamples=200)
        both = {"precision": skill.precision, "recall": skill.recall, "base": skill.base_rate, "lift": skill.lift}
        for name, found in (both | {"auroc": area}).items():
            if isinstance(found, Interval):
                hits[name].append(found.low <= truths[name] <= found.high)
    # 0.95 less 3.5 binomial standard errors of 150 trials; recall, a ratio of few, is the least exact
    assert {name: np.mean(values) for name, values in hits.items() if np.mean(values) < 0.885} == {}


def test_a_signal_without_skill_is_rarely_called_one() -> None:
    errors = 0
    for trial in range(300):
        signal, loss, cluster, _ = world(keys.generator("skill", trial), 6, 0.0)
        found = auroc(signal, loss, cluster, trial, resamples=200)
        errors += isinstance(found, Interval) and p_value(found, 0.5) < 0.05
    assert errors / 300 < 0.085


# -- thresholds -----------------------------------------------------------------------------------------------------


def every_threshold(signal: np.ndarray, loss: np.ndarray, youden: bool) -> float:
    """The best merit over all ways to cut, one by one."""
    best = -math.inf
    for cut in [-math.inf, *np.unique(signal)]:
        alert = signal > cut
        hits = (alert & (loss == 1)).sum()
        false = (alert & (loss == 0)).sum()
        if youden:
            merit = hits / loss.sum() - false / max(1, (loss == 0).sum())
        else:
            merit = 2 * hits / (alert.sum() + loss.sum())
        best = max(best, merit)
    return best


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 9), st.booleans())
def test_best_threshold_is_the_best_of_all(seed: int, n: int, levels: int, youden: bool) -> None:
    rng = np.random.default_rng(seed)
    signal, loss = rng.integers(0, levels + 1, n).astype(float), (rng.random(n) < 0.5).astype(float)
    assume(loss.any())
    alert = signal > best_threshold(signal, loss, "youden" if youden else "f1")
    hits, false = (alert & (loss == 1)).sum(), (alert & (loss == 0)).sum()
    merit = hits / loss.sum() - false / max(1, (loss == 0).sum()) if youden else 2 * hits / (alert.sum() + loss.sum())
    assert merit == pytest.approx(every_threshold(signal, loss, youden))


def test_best_threshold_equals_sklearns_curves_and_lies_between_values() -> None:
    signal, loss, _, _ = world(keys.generator("curve"), 20)
    precision, recall, _ = precision_recall_curve(loss, signal)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    alert = signal > best_threshold(signal, loss)
    assert known(alert_skill(alert, loss, np.arange(len(loss))).f1).estimate == pytest.approx(f1.max())
    false, hit, _ = roc_curve(loss, signal)
    alert = signal > best_threshold(signal, loss, "youden")
    assert alert[loss == 1].mean() - alert[loss == 0].mean() == pytest.approx((hit - false).max())
    assert best_threshold([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]) == pytest.approx(0.4)
    assert best_threshold([1.0, 2.0, math.inf], [0, 0, 1]) == 2.0
    assert best_threshold([2.0, 1.0], [0, 1]) == -math.inf  # no cut is better than an alert that is always on
    assert best_threshold([1.0, 2.0], [0, 0]) == math.inf


def test_thresholds_are_learned_without_the_group_that_they_judge() -> None:
    signal, loss = np.array([0.1, 0.9, 0.1, 0.9, 5.0, 9.0]), np.array([0, 1, 0, 1, 0, 1.0])
    group = np.array([0, 0, 1, 1, 2, 2])
    held = held_out_alerts(signal, loss, group)
    assert held.thresholds[2] == pytest.approx(0.5)  # from groups 0 and 1 alone
    assert held.alert.tolist() == [False, True, False, True, True, True]
    for name in (0, 1, 2):
        assert held.thresholds[name] == best_threshold(signal[group != name], loss[group != name])
    with pytest.raises(ValueError, match="other groups"):
        held_out_alerts(signal, loss, np.zeros(6))


def test_learned_thresholds_have_no_skill_where_the_signal_has_none() -> None:
    """Chosen and judged on the same forecasts, noise looks skilled; judged on others, it does not."""
    flattered, honest = [], []
    for trial in range(100):
        rng = keys.generator("noise", trial)
        signal, loss, group = rng.normal(size=24), (rng.random(24) < 0.5).astype(float), np.repeat(np.arange(4), 6)
        if not 0 < loss.sum() < 24:
            continue
        for lifts, alert in (
            (flattered, signal > best_threshold(signal, loss, "youden")),
            (honest, held_out_alerts(signal, loss, group, "youden").alert),
        ):
            if alert.any():
                lifts.append(loss[alert].mean() - loss.mean())
    assert np.mean(flattered) > 0.1
    assert abs(np.mean(honest)) < 0.06


# -- lead time ------------------------------------------------------------------------------------------------------


def test_lead_time_by_hand() -> None:
    """Five chains of iterations 1 and 2: warned in time; with the loss; too late; never; and for nothing."""
    chain = np.repeat(["early", "with", "late", "never", "nothing", "quiet"], 2)
    time = np.tile([1, 2], 6)
    alert = [1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    lost = [0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    loss = [0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]
    found = lead_time(chain, time, alert, lost, loss, np.repeat(np.arange(3), 4))
    assert (found.early, found.late, found.missed, found.unmatched, found.quiet) == (1, 2, 1, 1, 1)
    assert known(found.mean).estimate == pytest.approx((2 + 0 - 1) / 3)
    assert known(found.mean).low < 1 / 3 < known(found.mean).high


def test_lead_time_without_alerts_or_losses_is_undefined_and_without_spread_has_no_interval() -> None:
    nothing = lead_time([1, 2], [1, 1], [1, 0], [0, 0], [0, 0], [1, 2])
    assert nothing.mean == Undefined("no chain has both an alert and a loss")
    assert (nothing.unmatched, nothing.quiet) == (1, 1)
    same = lead_time([1, 2], [1, 1], [1, 1], [0, 0], [1, 1], [1, 2])
    assert known(same.mean).estimate == 1 and math.isnan(known(same.mean).low) and same.early == 2


def test_one_cluster_without_a_loss_gives_no_narrow_interval() -> None:
    """Whatever stands on one cluster cannot be varied by drawing clusters: the AUROC's interval comes from their number."""
    cluster = np.repeat(np.arange(6), 6)
    loss = np.ones(36, dtype=int)
    loss[0] = 0
    signal = keys.generator("few").random(36) + loss
    found = auroc(signal, loss, cluster, "few")
    assert isinstance(found, Interval) and found.low < 0.6 and found.method.startswith("Newcombe")
    rival = auroc_difference(signal, signal[::-1].copy(), loss, cluster, "few")
    assert isinstance(rival, Undefined) and "forecasts without a loss stand on 1 of 6" in rival.reason
