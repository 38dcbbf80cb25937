"""What the forecasts of a study say, in sentences; each is computed, and says what it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from synthmix.analysis.warning.forecasts import WARNING, Forecasts, Judged, p_of, published_skill
from synthmix.analysis.warning.signals import KNOWN, RIVAL
from synthmix.statistics import Interval, bonferroni
from synthmix.statistics.clusters import Estimate, Undefined

ALPHA = 0.05
#: Fewer baselines or losses than this, and the section says that its intervals are wide because of it.
FEW = 10


def sentences(forecasts: Forecasts) -> list[str]:
    """What was found, and what it cannot say."""
    said = [_what(forecasts), _published(forecasts)]
    if 0 < forecasts.always.losses < forecasts.always.n:
        against = [_ALONE] if forecasts.baselines == 1 else [_beyond_chance(forecasts), _rival(forecasts)]
        said += [*against, _estimators(forecasts), _new_losses(forecasts)]
    return [sentence for sentence in (*said, _learned(forecasts), _untold(forecasts)) if sentence]


_ALONE = (
    "With one baseline there are no intervals: nothing says how far these numbers would move with another, so no signal is"
    " held against chance or against another signal."
)


def _what(forecasts: Forecasts) -> str:
    base, table = forecasts.always, forecasts.table
    text = (
        f"{_counted(base.n, 'forecast')} (a signal at iteration t, the score at t + 1) from"
        f" {_counted(table.chain.nunique(), 'chain')} on {_counted(forecasts.baselines, 'baseline')}: a significant"
        f" loss against {forecasts.reference} followed in {base.losses} of them (base rate {_percent(base.base_rate)})."
    )
    if base.losses == 0:
        return (
            f"{text} With no loss there is nothing to foretell: recall and AUROC do not exist, and any alert is false."
        )
    if base.losses == base.n:
        return f"{text} With a loss everywhere no signal can tell anything apart: any alert is right."
    return text


def _published(forecasts: Forecasts) -> str:
    if not forecasts.paper:
        return "No confidence was recorded on validation items, so the paper's rule on the ECE is not judged."
    name, skill = f"validation {forecasts.paper[0].signal.label}", forecasts.paper[0].skill
    stated = published_skill()
    beside = (
        f"the paper reports {100 * stated['precision']:.0f} % and {100 * stated['recall']:.0f} %, without a base"
        " rate and without an interval, so its precision cannot be told from that of an alert that is always on"
    )
    if isinstance(skill.precision, Undefined):
        return (
            f"The {name} rose by more than {100 * WARNING:.0f} % in none of {_counted(skill.n, 'forecast')}, so its"
            f" precision does not exist; {beside}."
        )
    low, high = (skill.lift.low, skill.lift.high) if isinstance(skill.lift, Interval) else (-1.0, 1.0)
    more = "more than" if low > 0 else "less than" if high < 0 else "not distinguishable from"
    recall = "its recall does not exist" if isinstance(skill.recall, Undefined) else f"recall {_percent(skill.recall)}"
    return (
        f"A rise of the {name} by more than {100 * WARNING:.0f} % alerted {_counted(skill.alerts, 'time')}:"
        f" precision {_percent(skill.precision)}, {more} the base rate of {_percent(skill.base_rate)}; {recall};"
        f" {beside}."
    )


def _beyond_chance(forecasts: Forecasts) -> str:
    known = [judged for judged in forecasts.areas if isinstance(judged.area, Interval)]
    corrected = bonferroni([judged.p for judged in known])
    sure = [j for j, p in zip(known, corrected, strict=True) if p < ALPHA and _estimate(j.area) > 0.5]
    against = [j for j, p in zip(known, corrected, strict=True) if p < ALPHA and _estimate(j.area) < 0.5]
    text = f"{len(sure)} of {len(known)} signals rank what is lost above what is not beyond chance (AUROC, p < 0.05 after Bonferroni)"
    text += f": {_names(sure)}." if sure else "."
    if against:
        text += f" Turned round (the signal falls before a loss): {_names(against)}."
    if (rest := len(known) - len(sure) - len(against)) > 0:
        text += f" The other {rest} cannot be told from chance with this many baselines, which does not show that they say nothing."
    return text


def _rival(forecasts: Forecasts) -> str:
    rival = next((judged for judged in forecasts.areas if judged.signal.name == RIVAL), None)
    if rival is None or isinstance(rival.area, Undefined):
        return ""
    others = [j for j in forecasts.areas if isinstance(j.gain, Interval) and j.signal.name not in (RIVAL, KNOWN)]
    corrected = bonferroni([judged.p_gain for judged in others])
    better = [j for j, p in zip(others, corrected, strict=True) if p < ALPHA and _estimate(j.gain) > 0]
    worse = [j for j, p in zip(others, corrected, strict=True) if p < ALPHA and _estimate(j.gain) < 0]
    text = f"The trivial forecast, a validation score that has dropped already, has an AUROC of {_decimal(rival.area)}."
    text += f" Better than it: {_names(better) if better else 'no signal'}"
    text += f"; worse: {_names(worse)}" if worse else ""
    text += f" (paired over baselines, p < 0.05 after Bonferroni over {len(others)})."
    share = next((judged for judged in forecasts.areas if judged.signal.name == KNOWN), None)
    if share is not None and isinstance(share.area, Interval):
        text += (
            f" The synthetic share itself, known before training, has {_decimal(share.area)}: what ranks no better has not"
            " been shown to say more than the plan did."
        )
    return text


def _estimators(forecasts: Forecasts) -> str:
    eces = [j for j in forecasts.areas if j.signal.is_ece and isinstance(j.area, Interval)]
    table = forecasts.table.dropna(subset=[j.signal.name for j in eces]) if eces else forecasts.table.iloc[:0]
    if len(eces) < 2 or table.empty:
        return ""
    alerts = np.stack([table[j.signal.name].to_numpy() > WARNING for j in eces])
    alike = int((alerts.all(axis=0) | ~alerts.any(axis=0)).sum())
    areas = [_estimate(j.area) for j in eces]
    sides = {a.low > 0.5 for j in eces if isinstance(a := j.area, Interval) and (a.low > 0.5 or a.high < 0.5)}
    verdict = "; they point in opposite directions beyond their intervals" if len(sides) > 1 else ""
    spread = "" if forecasts.baselines == 1 else f"; AUROC from {min(areas):.2f} to {max(areas):.2f}"
    return (
        f"ECE under {len(eces)} estimators and binnings ({_names(eces)}): the +{100 * WARNING:.0f} % rule gives the same"
        f" verdict under all in {alike} of {_counted(len(table), 'forecast')}{spread}{verdict}."
    )


def _new_losses(forecasts: Forecasts) -> str:
    table = forecasts.table
    old, fresh = int(((table.lost == 1) & (table.loss == 1)).sum()), table[table.lost == 0]
    text = f"Of {_counted(forecasts.always.losses, 'loss', 'losses')}, {old} had shown at t already, where an alert comes late."
    if fresh.empty:
        return f"{text} No chain was without a loss at t, so nothing is known of warnings in time."
    text += f" Where there was none at t, one followed in {int(fresh.loss.sum())} of {_counted(len(fresh), 'forecast')}"
    known = [j for j in forecasts.areas if isinstance(j.fresh, Interval)]
    sure = [j for j in known if p_of(j.fresh, 0.5) * len(known) < ALPHA and _estimate(j.fresh) > 0.5]
    if forecasts.baselines == 1:
        return f"{text}."
    if not known:
        return f"{text}, so no AUROC exists there."
    return f"{text}; there {len(sure)} of {len(known)} signals are beyond chance{f': {_names(sure, fresh=True)}' if sure else ''}."


def _learned(forecasts: Forecasts) -> str:
    if not forecasts.held_out:
        return "With one seed of one task and model there is nothing to learn a threshold from: none is learned."
    if not forecasts.learned:
        return ""
    text = "Thresholds learned elsewhere (highest F1) are judged on the seed that they have not seen, all its chains together"
    if forecasts.held_out != ("seed",):
        text = (
            "With one seed, learned thresholds (highest F1) are judged on the task and model that they have not seen, which"
            " asks more of them than to hold for another run"
        )
    above = [a for a in forecasts.learned if isinstance(a.skill.lift, Interval) and a.skill.lift.low > 0]
    text += (
        f": {len(above)} of {len(forecasts.learned)} signals have a precision above the base rate beyond its interval"
    )
    text += f" ({'; '.join(a.signal.label for a in above)})" if above else ""
    best = max(forecasts.learned, key=lambda a: -1.0 if isinstance(a.skill.f1, Undefined) else a.skill.f1.estimate)
    if isinstance(best.skill.f1, Interval) and isinstance(forecasts.always.f1, Interval):
        text += (
            f". The highest F1, {_decimal(best.skill.f1)}, is that of {best.signal.label}; an alert that is always on has"
            f" {_decimal(forecasts.always.f1)}"
        )
    return f"{text}."


def _untold(forecasts: Forecasts) -> str:
    base = forecasts.always
    losses = min(base.losses, base.n - base.losses)
    text = "What this cannot tell: "
    if forecasts.baselines < FEW or losses < FEW:
        text += (
            f"with {_counted(forecasts.baselines, 'baseline')}, {base.losses} {'loss' if base.losses == 1 else 'losses'} and"
            f" {base.n - base.losses} without, intervals are wide, and a signal that looks useless may not be; "
        )
    text += (
        "a loss is that of one training run against one other, so part of it is the luck of training (with no effect and no"
        " such luck, up to 5 % of forecasts would count as losses); intervals are over baselines, not over other tasks and"
        " models"
    )
    return f"{text}."


def interventions(action: str) -> list[str]:
    """Where a critical alert changed what came next (``monitoring.action``), it is no longer a forecast."""
    if action == "log":
        return []
    return [
        f"Critical alerts changed the chains of this study (monitoring.action = {action}): an alert that prevented a loss"
        " counts as false here, and chains that it ended are missing."
    ]


# -- words ----------------------------------------------------------------------------------------------------------


def _estimate(found: Estimate) -> float:
    assert isinstance(found, Interval)
    return found.estimate


def _percent(found: Estimate) -> str:
    if isinstance(found, Undefined):
        return f"undefined ({found.reason})"
    low, value, high = (f"{100 * v:.0f}" for v in (found.low, found.estimate, found.high))
    return f"{value} %" if low == "nan" else f"{value} % [{low}, {high}]"


def _decimal(found: Interval) -> str:
    ends = "" if math.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.estimate:.2f}{ends}"


def _names(judged: Sequence[Judged], fresh: bool = False) -> str:
    """Signals with their AUROC (``fresh``: on chains without a loss at t), the highest first."""
    areas = {j.signal.label: _estimate(j.fresh if fresh else j.area) for j in judged}
    return "; ".join(f"{name} ({area:.2f})" for name, area in sorted(areas.items(), key=lambda pair: -pair[1]))


def _counted(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
