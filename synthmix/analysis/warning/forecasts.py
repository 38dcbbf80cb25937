"""Every signal of a study judged as a forecast of a loss at the next iteration: without a threshold, by the paper's
thresholds, and by thresholds learned on other chains.

Intervals resample phase 0 baselines: all chains of one seed start from one model and are compared with one control.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from synthmix.analysis.paper.published import load_published
from synthmix.analysis.warning.signals import RIVAL, Signal, estimators_of
from synthmix.statistics import RESAMPLES
from synthmix.statistics.clusters import Estimate, Undefined
from synthmix.statistics.forecast import (
    AlertSkill,
    LeadTime,
    alert_skill,
    auroc,
    auroc_difference,
    held_out_alerts,
    lead_time,
    p_value,
)

#: Relative rises of the ECE that warn and are critical (arXiv 2510.05133, section 4.4).
WARNING, CRITICAL = 0.5, 1.0


def published_skill() -> dict[str, float]:
    """Precision and recall that the paper states for the first of these rules."""
    stated = load_published().early_warning
    return {"precision": stated.precision / 100, "recall": stated.recall / 100}


@dataclass(frozen=True)
class Judged:
    """One signal, judged on the forecasts for which it was measured.

    Attributes:
        n: forecasts.
        area: AUROC; ``within`` compares only forecasts of one task and model; ``fresh`` only those of chains without a
            loss at t.
        gain: AUROC minus that of the rival.
        p: of an AUROC of 0.5, and ``p_gain`` of no gain, uncorrected; nan where there is none.
    """

    signal: Signal
    n: int
    area: Estimate
    within: Estimate
    fresh: Estimate
    gain: Estimate
    p: float
    p_gain: float


@dataclass(frozen=True)
class Alerts:
    """Alerts of one signal and rule (its threshold, or the range of thresholds, in words), judged."""

    signal: Signal
    rule: str
    skill: AlertSkill
    lead: LeadTime


@dataclass(frozen=True)
class Forecasts:
    """All forecasts of a study, judged once.

    Attributes:
        table: what :func:`synthmix.analysis.signals.signal_table` returns, with at least one row.
        resamples: of clusters, behind every interval.
        control: what a loss is against, one of :data:`synthmix.analysis.conditions.CONTROLS`.
    """

    table: pd.DataFrame
    resamples: int = RESAMPLES
    control: str = "chain"

    @property
    def reference(self) -> str:
        """What a loss is against, in words."""
        return "the 0 % chain" if self.control == "chain" else "the chain's own phase 0"

    @property
    def baselines(self) -> int:
        """Phase 0 models behind the forecasts: the sample size of every interval."""
        return int(self.table.baseline.nunique())

    @cached_property
    def signals(self) -> list[Signal]:
        return estimators_of(self.table)[0]

    @cached_property
    def eces(self) -> list[Signal]:
        return [signal for signal in self.signals if signal.is_ece]

    @cached_property
    def same(self) -> list[Signal]:
        """ECEs that are not judged, because they are the headline's under another name."""
        return estimators_of(self.table)[1]

    @cached_property
    def areas(self) -> list[Judged]:
        return [self._area(signal) for signal in self.signals]

    @cached_property
    def paper(self) -> list[Alerts]:
        """Alerts of every ECE by the paper's two thresholds, as they are."""
        return [
            self._alerts(signal, f"+{100 * level:.0f} %", rows, rows[signal.name].to_numpy() > level)
            for signal in self.eces
            for rows in [self.known(signal)]
            for level in (WARNING, CRITICAL)
        ]

    @cached_property
    def held_out(self) -> tuple[str, ...]:
        """Columns whose values are left out together when a threshold is learned; empty where there is no other."""
        for columns in (("seed",), ("model", "task")):
            if len(self.table[list(columns)].drop_duplicates()) > 1:
                return columns
        return ()

    @cached_property
    def always(self) -> AlertSkill:
        """What an alert that is always on achieves: its precision is the base rate."""
        rows = self.table
        return alert_skill(np.ones(len(rows)), rows.loss, rows.baseline, "alerts", resamples=self.resamples)

    @cached_property
    def learned(self) -> list[Alerts]:
        """Alerts of every signal that varies, by the threshold with the highest F1 on the groups that it does not judge."""
        found = []
        for judged in self.areas if self.held_out else ():
            if isinstance(judged.area, Undefined):
                continue
            signal, rows = judged.signal, self.known(judged.signal)
            groups = rows.groupby(list(self.held_out), sort=True).ngroup().to_numpy()
            if len(np.unique(groups)) > 1:
                held = held_out_alerts(rows[signal.name], rows.loss, groups)
                found.append(self._alerts(signal, _thresholds(held.thresholds.values()), rows, held.alert))
        return found

    def known(self, signal: Signal) -> pd.DataFrame:
        """The forecasts for which a signal was measured."""
        return self.table[self.table[signal.name].notna()]

    def _area(self, signal: Signal) -> Judged:
        rows, name = self.known(signal), signal.name
        strata = rows.groupby(["model", "task"], sort=True).ngroup()
        fresh = rows[rows.lost == 0]
        area = auroc(rows[name], rows.loss, rows.baseline, "area", resamples=self.resamples)
        within = auroc(rows[name], rows.loss, rows.baseline, "area", stratum=strata, resamples=self.resamples)
        new: Estimate = Undefined("every chain had lost already")
        if len(fresh):
            new = auroc(fresh[name], fresh.loss, fresh.baseline, "fresh", resamples=self.resamples)
        gain = self._gain(signal)
        return Judged(signal, len(rows), area, within, new, gain, p_of(area, 0.5), p_of(gain, 0.0))

    def _gain(self, signal: Signal) -> Estimate:
        rows = self.known(signal)
        rows = rows[rows[RIVAL].notna()]
        if signal.name == RIVAL or rows.empty:
            return Undefined("it is the rival itself" if len(rows) else "there is no validation score")
        return auroc_difference(
            rows[signal.name], rows[RIVAL], rows.loss, rows.baseline, "gain", resamples=self.resamples
        )

    def _alerts(self, signal: Signal, rule: str, rows: pd.DataFrame, alert: ArrayLike) -> Alerts:
        warned = np.asarray(alert, dtype=np.float64)
        skill = alert_skill(warned, rows.loss, rows.baseline, "alerts", resamples=self.resamples)
        lead = lead_time(
            rows.chain, rows.iteration, warned, rows.lost, rows.loss, rows.baseline, "lead", resamples=self.resamples
        )
        return Alerts(signal, rule, skill, lead)


def p_of(found: Estimate, against: float) -> float:
    """Two-sided p-value of ``against``, uncorrected; nan where the number or its error does not exist."""
    return math.nan if isinstance(found, Undefined) else p_value(found, against)


def _thresholds(found: Iterable[float]) -> str:
    """The thresholds of all held-out groups in words."""
    values = list(found)
    words = {"inf": "∞", "-inf": "−∞"}
    ends = [words.get(text := f"{value:.3g}", text.replace("-", "−")) for value in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
