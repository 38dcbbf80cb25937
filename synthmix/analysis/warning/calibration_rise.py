"""Is the rise of the ECE real? The highest share of every chain against phase 0, and against the 0 % chain, by a
permutation test on the same items; three estimates of the ECE beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from synthmix.analysis.conditions import CONDITION, CONTROL_MODE, Analysis
from synthmix.analysis.printing import CELL, ITEMS, SEEDS, Column, Table, make_table
from synthmix.metrics import equal_mass_calibration_error, expected_calibration_error
from synthmix.statistics import bonferroni
from synthmix.statistics.calibration import Answers, Rise, debiased_ece, ece_rise

_COLUMNS = (
    *CELL, Column("ten_bin", "ECE", "decimal"), Column("debiased", "debiased", "decimal"),
    Column("equal_mass", "equal-mass", "decimal"), Column("debiased_start", "debiased, phase 0", "decimal"),
    Column("rise", "rise, debiased", "decimal"), Column("p", "p of the rise", "p"),
    Column("p_bonferroni", "p, Bonferroni", "p"), Column("rise_control", "above the 0 % chain", "decimal"),
    Column("p_control", "p, against the 0 % chain", "p"), ITEMS, SEEDS,
)  # fmt: skip
Hashes = dict[tuple[Any, ...], dict[int, str]]


def calibration_rise_table(analysis: Analysis) -> Table:
    """One row an iteration, at the highest share of every model, task and mode; empty where none has a baseline.

    The frame has all three estimates at phase 0 as well: ``ten_bin_start, debiased_start, equal_mass_start``.
    """
    rows = [row for key, later, hashes in _highest(analysis) if (row := _row(analysis, key, later, hashes)) is not None]
    corrected = bonferroni([row["p"] for row in rows])
    frame = pd.DataFrame([row | {"p_bonferroni": p} for row, p in zip(rows, corrected, strict=True)])
    note = (
        f"Headline confidence on the test items, {analysis.bins} bins, mean over seeds. The ten-bin ECE lies above the"
        " truth at few items; debiased takes off what noise adds. p: one-sided permutation test on the debiased ECE, the"
        f" answers of both models to an item exchanged; Bonferroni over {len(rows)} rows. A rise over phase 0 can come from"
        " training on, which the 0 % chain does as well: the last columns compare with it. The test is about these runs on"
        " other items, not about other runs; it also answers to a change from under- to overconfidence of the same size."
    )
    return make_table("calibration_rise", "Is the rise of the ECE real?", frame, _COLUMNS, note)


def _highest(analysis: Analysis) -> list[tuple[tuple[Any, ...], dict[int, str], Hashes]]:
    """Conditions at the highest share of their chain: key, hash by seed, and those of all conditions."""
    done = analysis.study.done
    done = done[done["hash"].isin(list(analysis.items))]
    hashes: Hashes = {
        tuple(key): dict(zip(cells.seed, cells["hash"].astype(str), strict=True))
        for key, cells in done.groupby(CONDITION)
    }
    top: dict[tuple[Any, ...], float] = {}
    for model, task, mode, share, iteration in hashes:
        if share > 0 and iteration >= 1:
            top[model, task, mode] = max(share, top.get((model, task, mode), 0.0))
    return [(key, cells, hashes) for key, cells in sorted(hashes.items()) if top.get(key[:3]) == key[3] and key[4] >= 1]


def _row(analysis: Analysis, key: tuple[Any, ...], later: dict[int, str], hashes: Hashes) -> dict[str, Any] | None:
    model, task, _, _, iteration = key
    start = _compared(analysis, later, hashes.get((model, task, "baseline", 0.0, 0), {}), ("phase 0", *map(str, key)))
    if start is None:
        return None
    (before, now), rise = start
    row = dict(zip(CONDITION, key, strict=True)) | {"n_items": rise.n_items, "n_seeds": rise.n_seeds}
    row |= _levels(now, "", analysis.bins) | _levels(before, "_start", analysis.bins)
    row |= {"rise": rise.estimate, "p": rise.p_greater, "rise_control": math.nan, "p_control": math.nan}
    control = hashes.get((model, task, CONTROL_MODE, 0.0, iteration), {})
    if (beside := _compared(analysis, later, control, ("control", *map(str, key)))) is not None:
        row |= {"rise_control": beside[1].estimate, "p_control": beside[1].p_greater}
    return row


def _compared(
    analysis: Analysis, later: dict[int, str], other: dict[int, str], key: Sequence[str]
) -> tuple[tuple[list[Answers], list[Answers]], Rise] | None:
    """Answers of both sides on the seeds and items that both have, and the test; None where there are none."""
    pairs = [
        _answers(analysis.items[other[seed]], analysis.items[h]) for seed, h in sorted(later.items()) if seed in other
    ]
    pairs = [pair for pair in pairs if len(pair)]
    if not pairs:
        return None
    before, now = ([_columns(pair, suffix) for pair in pairs] for suffix in ("_before", ""))
    shared = all(np.array_equal(pair.item, pairs[0].item) for pair in pairs)
    return (before, now), ece_rise(before, now, *key, bins=analysis.bins, shared_items=shared)


def _answers(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """``item`` with confidence and score of both, where both have a confidence."""
    if "confidence" not in before or "confidence" not in now:
        return pd.DataFrame()
    wanted = ["item", "confidence", "score"]
    if len(now) == len(before) and np.array_equal(now.item, before.item):
        return now[wanted].assign(confidence_before=before.confidence, score_before=before.score).dropna()
    return now[wanted].merge(before[wanted], on="item", suffixes=("", "_before")).dropna()


def _columns(pair: pd.DataFrame, suffix: str) -> Answers:
    confidence, score = (pair[f"{name}{suffix}"].to_numpy(dtype=np.float64) for name in ("confidence", "score"))
    return confidence, score


def _levels(answers: Sequence[Answers], suffix: str, bins: int) -> dict[str, float]:
    measures: dict[str, Callable[..., float]] = {
        "ten_bin": expected_calibration_error, "debiased": debiased_ece, "equal_mass": equal_mass_calibration_error,
    }  # fmt: skip
    return {f"{name}{suffix}": float(np.mean([measure(c, s, bins) for c, s in answers])) for name, measure in measures.items()}  # fmt: skip
