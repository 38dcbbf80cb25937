"""Comparisons with the control: what a condition is compared with, corrections, verdicts, and what would decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from synthmix.analysis import Analysis, load_study
from synthmix.analysis.comparisons import judge_family, nothing
from synthmix.analysis.conditions import of
from synthmix.analysis.limits import limits
from synthmix.analysis.tables import score_table
from synthmix.analysis.verdicts import comparisons_table, verdict_sentences, verdicts_table

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def analysis(store: Path) -> Analysis:
    return Analysis(load_study("sketch", root=store), resamples=200, estimators=())


def test_corrections_are_those_of_statsmodels_over_the_whole_family(analysis: Analysis) -> None:
    frame = analysis.conditions[analysis.conditions.p_value.notna()]
    assert len(frame) == analysis.family == 12
    for name, method in (("bonferroni", "bonferroni"), ("holm", "holm"), ("bh", "fdr_bh")):
        expected = multipletests(frame.p_value, method=method)[1]
        assert np.allclose(frame[f"p_{name}"], expected)
    assert (frame.p_bh <= frame.p_holm + 1e-15).all() and (frame.p_holm <= frame.p_bonferroni + 1e-15).all()


def test_effect_sizes_and_seed_test_are_by_the_book(analysis: Analysis) -> None:
    row = of(analysis.conditions, task="nano-math", iteration=2, proportion=0.5).iloc[0]
    items = analysis.study.items
    items = items[(items.split == "test") & (items.task == "nano-math") & (items.iteration == 2)]
    tables = [
        items[items.proportion == p].pivot(index="seed", columns="item", values="score").to_numpy() for p in (0.5, 0.0)
    ]
    ours, theirs = (table.mean(axis=0) for table in tables)
    gaps = ours - theirs
    assert row.d_z == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    assert row.d_av == pytest.approx(gaps.mean() / ((ours.std(ddof=1) + theirs.std(ddof=1)) / 2))
    assert row.p_seeds == pytest.approx(stats.ttest_rel(*(table.mean(axis=1) for table in tables)).pvalue)
    assert row.mcnemar == "2 of 2"
    assert row.bootstrap == pytest.approx(row.difference) and row.bootstrap_low < row.bootstrap < row.bootstrap_high


def test_the_phase_0_model_can_be_the_control_of_every_later_condition(store: Path) -> None:
    study = load_study("sketch", root=store)
    analysis = Analysis(study, resamples=50, estimators=(), control="baseline")
    frame = analysis.conditions
    later = frame[frame.iteration > 0]
    assert set(later.control) == {"found"} and analysis.family == len(later) == 2 * 2 * 4
    base = of(frame, task="nano-facts", iteration=0).iloc[0]
    row = of(frame, task="nano-facts", iteration=2, proportion=0.3).iloc[0]
    assert row.difference == pytest.approx(row.score - base.score)
    assert "the phase 0 model" in score_table(analysis).note


def test_a_loss_is_degraded_and_no_change_with_many_items_is_safe(make_store: Make) -> None:
    root = make_store(
        tasks=("nano-math",), proportions=(0.0, 0.01, 0.02, 0.5), iterations=1, items=3000, seeds=(0, 1, 2)
    )
    analysis = Analysis(load_study("sketch", root=root), resamples=50, estimators=())
    verdicts = analysis.conditions.set_index(["iteration", "proportion"]).verdict
    assert verdicts[1, 0.5] == "degraded" and verdicts[1, 0.01] == "safe"
    said = verdict_sentences(analysis)
    assert "1 are shown degraded" in said[0] and "50 %: 1 degraded" in said[1]
    table = verdicts_table(analysis)
    assert len(table.frame) == 3 and "Holm" in table.note


def test_what_is_undecided_says_what_would_decide(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), proportions=(0.0, 0.02, 0.04, 0.06), iterations=1, items=60)
    frame = Analysis(load_study("sketch", root=root), resamples=50, estimators=()).conditions
    undecided = frame[frame.verdict == "undecided"]
    assert len(undecided) and (undecided.items_needed > 60).all()
    assert (undecided.seeds_needed > 2).all()


def test_a_wider_margin_makes_more_conditions_safe(store: Path) -> None:
    study = load_study("sketch", root=store)
    counts = [
        (Analysis(study, resamples=20, estimators=(), margin=margin).conditions.verdict == "safe").sum()
        for margin in (0.001, 0.03, 0.5)
    ]
    assert counts[0] == 0 and counts[0] <= counts[1] < counts[2] == 12


def test_items_that_differ_between_conditions_are_left_out_and_counted(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), proportions=(0.0, 0.5), iterations=1, seeds=(0,), items=50)
    path = next(root.glob("cells/*replace-50.it1*/items.parquet"))
    frame = pd.read_parquet(path)
    frame.loc[frame.item == "0007", "item"] = "other"
    frame.to_parquet(path, index=False)
    analysis = Analysis(load_study("sketch", root=root), resamples=50, estimators=())
    row = of(analysis.conditions, proportion=0.5).iloc[0]
    assert (row.n_paired_items, row.n_unpaired_items) == (49, 2)
    assert any("do not answer the same items" in said for said in limits(analysis))
    assert "2 over all rows and seeds" in score_table(analysis).note


def test_the_full_table_prints_every_statistic(analysis: Analysis) -> None:
    table = comparisons_table(analysis)
    headers = [column.header for column in table.columns]
    for name in ("d_z", "d_av", "Holm", "Bonferroni", "Benjamini–Hochberg", "p, t over seeds"):
        assert name in headers
    assert "Family: 12 comparisons" in table.note


def test_nothing_tested_has_no_verdict() -> None:
    frame = judge_family(pd.DataFrame([nothing(), nothing()]))
    assert list(frame.verdict) == ["", ""] and frame.p_holm.isna().all() and frame.items_needed.isna().all()
    assert math.isnan(frame.difference.iloc[0])
