"""What was known at iteration t, and what happened at t + 1: one row a forecast.

Signals come from the validation items and the pool of the cell at t, never from the test set, and are changes against
the phase 0 baseline of the same seed; higher is worse. The outcome is a significant loss on the test items at t + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from synthmix.analysis.conditions import CONTROL_MODE, ESTIMATORS, Analysis
from synthmix.metrics import equal_mass_calibration_error, expected_calibration_error
from synthmix.statistics.calibration import debiased_ece
from synthmix.statistics.resampling import Array

#: Level of the one-sided test behind a loss.
ALPHA = 0.05
CHAIN = ["model", "task", "mode", "proportion", "seed"]
BASELINE = ["model", "task", "seed"]
COLUMNS = (*CHAIN, "iteration", "hash", "chain", "baseline", "lost", "loss", "change", "p_loss")


@dataclass(frozen=True)
class Signal:
    """One candidate for an early warning.

    Attributes:
        name: column of :func:`signal_table`.
        column: what is measured: a column of ``study.cells``, or one that is computed from the validation items.
        change: ``relative`` (rise over phase 0, as a share of it), ``rise``, ``drop``, or ``level``: the value itself.
    """

    name: str
    label: str
    column: str
    change: Literal["relative", "rise", "drop", "level"]

    @property
    def is_ece(self) -> bool:
        return self.column.startswith("ece")


def _label(estimator: str) -> str:
    return "ECE" if estimator == "confidence" else f"ECE, {estimator.removeprefix('confidence_').replace('_', ' ')}"


def _column(estimator: str) -> str:
    return estimator.replace("confidence", "ece")


#: The trivial forecast: the score has dropped on the validation items already.
RIVAL = "score"
#: What is known before anything is trained.
KNOWN = "share"
SIGNALS = (
    *(Signal(_column(e), _label(e), _column(e), "relative") for e in ESTIMATORS),
    Signal("ece_debiased", "ECE, debiased", "ece_debiased", "relative"),
    Signal("ece_equal_mass", "ECE, equal-mass bins", "ece_equal_mass", "relative"),
    Signal("overconfidence", "overconfidence gap", "validation_overconfidence", "rise"),
    Signal("brier", "Brier score", "validation_brier", "rise"),
    Signal(RIVAL, "validation score, drop", "validation_score", "drop"),
    Signal("diversity", "1 − self-BLEU, drop", "diversity_diversity", "drop"),
    Signal("distinct", "distinct-2, drop", "diversity_distinct_2", "drop"),
    Signal("tail", "tail mass, drop", "diversity_tail_mass", "drop"),
    Signal("malformed", "well-formed texts, drop", "pool_wellformed_rate", "drop"),
    Signal("invalid", "invalid answers", "validation_invalid_rate", "rise"),
    Signal("perplexity", "gold perplexity", "validation_perplexity", "relative"),
    Signal(KNOWN, "synthetic share itself", "proportion", "level"),
)


def signal_table(analysis: Analysis) -> pd.DataFrame:
    """One row a forecast: a cell with synthetic data at iteration t >= 1, whose chain has a finished cell at t + 1.

    Returns:
        ``model, task, mode, proportion, seed, iteration`` (t) and ``hash`` of the cell; ``chain`` and ``baseline``
        (numbers: forecasts of one chain, and of one phase 0 model); ``lost, loss`` (0 or 1: a significant loss at t, at
        t + 1); ``change`` (of the score at t + 1, below 0 for a loss) with ``p_loss``; then a column for each of
        :data:`SIGNALS`, nan where it was not measured. A chain without the finished cell that it is compared with has
        no rows.

    A loss is a lower score than that of the 0 % chain at the same iteration (where ``analysis.control`` is ``baseline``:
    than that of the chain's own phase 0), same seed and same items, with p < 0.05: McNemar's exact test for scores of 0 and 1, else a paired t-test
    over items, both one-sided. It is a statement on one training run against one other, on other items; that the two
    runs differ by the luck of training is part of it.
    """
    done = analysis.study.done
    outcomes = _outcomes(analysis, done)
    rows = done[(done.iteration >= 1) & (done.proportion > 0)].merge(outcomes, on="hash")
    ahead = rows[[*CHAIN, "iteration", "p_loss", "change"]].assign(iteration=rows.iteration - 1)
    now = rows.drop(columns="change").rename(columns={"p_loss": "p_now"})
    table = now.merge(ahead, on=[*CHAIN, "iteration"])
    if table.empty:
        return pd.DataFrame(columns=[*COLUMNS, *(signal.name for signal in SIGNALS)])
    table["lost"], table["loss"] = ((table[p] < ALPHA).astype(float) for p in ("p_now", "p_loss"))
    table["chain"], table["baseline"] = (table.groupby(columns, sort=True).ngroup() for columns in (CHAIN, BASELINE))
    table = table.sort_values([*CHAIN, "iteration"], ignore_index=True)
    return pd.concat([table[list(COLUMNS)], _changes(analysis, done, table)], axis=1)


def estimators_of(table: pd.DataFrame) -> tuple[list[Signal], list[Signal]]:
    """The signals that were measured, and those ECEs among them that are left out: the same as the headline's."""
    measured = [signal for signal in SIGNALS if table[signal.name].notna().any()]
    ten_bin = {_column(estimator) for estimator in ESTIMATORS[1:]}
    same = [s for s in measured if s.name in ten_bin and np.allclose(table[s.name], table["ece"], equal_nan=True)]
    return [signal for signal in measured if signal not in same], same


def loss_test(ours: Array, theirs: Array) -> tuple[float, float]:
    """Mean of ``ours - theirs`` over items ``(n,)``, and the one-sided p-value that it is not below 0.

    McNemar's exact test where all scores are 0 or 1, else a paired t-test; 1.0 with fewer than two items, or where no
    item differs.
    """
    gaps = ours - theirs
    if len(gaps) < 2 or not gaps.any():
        return (float(gaps.mean()) if len(gaps) else math.nan), 1.0
    if np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all():
        lost, differing = int(np.sum(gaps < 0)), int(np.sum(gaps != 0))
        return float(gaps.mean()), float(stats.binom.sf(lost - 1, differing, 0.5))
    if np.ptp(gaps) == 0:
        return float(gaps[0]), float(gaps[0] > 0)
    return float(gaps.mean()), float(stats.ttest_1samp(gaps, 0.0, alternative="less").pvalue)


# -- outcomes -------------------------------------------------------------------------------------------------------


def _outcomes(analysis: Analysis, done: pd.DataFrame) -> pd.DataFrame:
    """``hash, change, p_loss`` of every cell with synthetic data whose reference is finished."""
    places = zip(done.model, done.task, done.seed, done.iteration, done["mode"], done.proportion, strict=True)
    by_place = dict(zip(places, done["hash"], strict=True))
    rows = []
    for _, cell in done[(done.iteration >= 1) & (done.proportion > 0)].iterrows():
        arm = (cell.iteration, CONTROL_MODE, 0.0) if analysis.control == "chain" else (0, "baseline", 0.0)
        own, other = str(cell["hash"]), str(by_place.get((cell.model, cell.task, cell.seed, *arm)))
        if own in analysis.items and other in analysis.items:
            change, p = loss_test(*_paired(analysis.items[own], analysis.items[other]))
            rows.append({"hash": cell["hash"], "change": change, "p_loss": p})
    found = pd.DataFrame(rows, columns=["hash", "change", "p_loss"])
    return found[found.change.notna()]


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Array, Array]:
    if len(ours) == len(theirs) and np.array_equal(ours.item, theirs.item):
        return ours.score.to_numpy(dtype=np.float64), theirs.score.to_numpy(dtype=np.float64)
    both = ours[["item", "score"]].merge(theirs[["item", "score"]], on="item", suffixes=("", "_other"))
    return both.score.to_numpy(dtype=np.float64), both.score_other.to_numpy(dtype=np.float64)


# -- signals --------------------------------------------------------------------------------------------------------


def _changes(analysis: Analysis, done: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A column for each signal, in the order of ``table``."""
    start = done[done.iteration == 0]
    of_row = table[BASELINE].merge(start[[*BASELINE, "hash"]], on=BASELINE, how="left")["hash"]
    measured = done.set_index("hash").join(_calibration(analysis, {*table["hash"], *of_row.dropna()}))
    columns: dict[str, Any] = {}
    for signal in SIGNALS:
        values = measured[signal.column] if signal.column in measured else pd.Series(math.nan, measured.index)
        values = pd.to_numeric(values)
        now = values.reindex(table["hash"]).to_numpy(dtype=np.float64)
        columns[signal.name] = _change(signal, now, values.reindex(of_row).to_numpy(dtype=np.float64))
    return pd.DataFrame(columns)


def _change(signal: Signal, now: Array, before: Array) -> Array:
    if signal.change == "level":
        return now
    if signal.change != "relative":
        return now - before if signal.change == "rise" else before - now
    # Over a baseline of 0 (a debiased ECE can be) any rise is infinite: above every threshold, as the rule has it.
    over_zero = np.where(np.isnan(now) | np.isnan(before), math.nan, np.where(now > 0, math.inf, 0.0))
    return np.divide(now - before, before, out=over_zero, where=before > 0)


def _calibration(analysis: Analysis, wanted: set[str]) -> pd.DataFrame:
    """The validation ECEs of some cells, by hash."""
    names = ("item", "score", *ESTIMATORS)
    frame = analysis.study.read_items(("split", *names), split="validation")
    frame = frame[frame["hash"].isin(wanted)] if len(frame) else frame
    rows = {str(name): dict(_eces(cell, analysis.bins)) for name, cell in frame.groupby("hash", observed=True)}
    return pd.DataFrame.from_dict(rows, orient="index", dtype=np.float64)


def _eces(items: pd.DataFrame, bins: int) -> Iterator[tuple[str, float]]:
    score = items.score.to_numpy(dtype=np.float64)
    for estimator in ESTIMATORS:
        confidence = (
            items[estimator].to_numpy(dtype=np.float64) if estimator in items else np.full(len(items), math.nan)
        )
        known = ~np.isnan(confidence)
        if not known.any():
            continue
        yield _column(estimator), expected_calibration_error(confidence[known], score[known], bins)
        if estimator == "confidence":
            yield "ece_debiased", debiased_ece(confidence[known], score[known], bins)
            yield "ece_equal_mass", equal_mass_calibration_error(confidence[known], score[known], bins)
