"""Tables: exact numbers from the simulated items, and their print."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synthmix.analysis import Analysis, load_study
from synthmix.analysis.conditions import of
from synthmix.analysis.printing import Column, Printed, minus, show
from synthmix.analysis.report import build_report
from synthmix.analysis.sections import effect_section
from synthmix.analysis.tables import (
    baselines_table,
    calibration_table,
    groups_table,
    iterations_table,
    levers_table,
    mixtures_table,
    pools_table,
    score_table,
    timings_table,
    unfinished_table,
)

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def analysis(store: Path) -> Analysis:
    return Analysis(load_study("sketch", root=store), resamples=200)


def test_score_and_paired_difference_are_those_of_the_items(analysis: Analysis) -> None:
    items = analysis.study.items
    items = items[(items.split == "test") & (items.task == "nano-math") & (items.iteration == 2)]
    top, control = (items[items.proportion == p].sort_values(["seed", "item"]).score.to_numpy() for p in (0.5, 0.0))
    row = of(score_table(analysis).frame, task="nano-math", iteration=2, proportion=0.5).iloc[0]
    assert row.score == pytest.approx(top.mean())
    assert row.difference == pytest.approx((top - control).mean())
    assert row.relative == pytest.approx(top.mean() / control.mean() - 1)
    assert row.difference_low < row.difference < row.difference_high < 0
    assert (row.n_items, row.n_seeds, row.n_paired_seeds) == (200, 2, 2)


def test_groups_are_scored_and_compared_by_themselves(make_store: Make) -> None:
    study = load_study("sketch", root=make_store(tasks=("nano-math",), groups=True, iterations=1))
    analysis = Analysis(study, resamples=100)
    table = groups_table(analysis)
    assert set(table.frame["group"]) == {"answerable: yes", "answerable: no"} and set(table.frame["set"]) == {
        "test",
        "hans",
    }
    items = study.items[study.items.iteration == 1].sort_values(["seed", "item"])
    for _, row in table.frame[(table.frame.iteration == 1) & (table.frame.proportion == 0.5)].iterrows():
        name = row["group"].removeprefix("answerable: ")
        mine = items[(items.split == row["set"]) & (items.group_answerable == name)]
        top, control = (mine[mine.proportion == p].score.to_numpy() for p in (0.5, 0.0))
        assert row.score == pytest.approx(top.mean()) and row.difference == pytest.approx((top - control).mean())
        assert row.n_items == (67 if name == "no" else 133)
    whole = of(score_table(analysis).frame, proportion=0.5).iloc[0]
    parts = of(table.frame, proportion=0.5, iteration=1, set="test")
    assert np.average(parts.score, weights=parts.n_items) == pytest.approx(whole.score), "hans is not in the test score"


def test_without_groups_there_is_no_such_table(analysis: Analysis) -> None:
    section = effect_section(analysis)
    assert groups_table(analysis).frame.empty and "groups" not in {table.name for table in section.tables}


def test_family_counts_every_comparison_once_and_is_printed(analysis: Analysis) -> None:
    table = score_table(analysis)
    assert analysis.family == 2 * 2 * 3
    assert "Family: 12 comparisons" in table.note and "0.05 is 0.0042" in table.note
    tested = table.frame[table.frame.p_value.notna()]
    assert np.allclose(tested.p_bonferroni, np.minimum(1, 12 * tested.p_value))
    assert set(table.frame[table.frame.proportion == 0].control) == {"self"}


def test_ece_of_every_estimator_is_that_of_the_cells(analysis: Analysis) -> None:
    frame = calibration_table(analysis).frame
    cells = analysis.study.done.groupby(["task", "mode", "proportion", "iteration"])[
        ["test_ece", "test_ece_sum"]
    ].mean()
    for _, row in frame.iterrows():
        expected = cells.loc[(row.task, row["mode"], row.proportion, row.iteration)]
        assert row.ece == pytest.approx(expected.test_ece)
        assert row.confidence_sum_ece == pytest.approx(expected.test_ece_sum)
        assert row.ece_low <= row.ece <= row.ece_high
    headers = [column.header for column in calibration_table(analysis).columns]
    assert "ECE, mean token" in headers and "ECE, answer span" not in headers
    assert (frame.confidence_mean_ece_low == frame.ece_low).all(), "one estimator, one interval"


def test_iterations_follow_table_4_and_share_the_baseline(analysis: Analysis) -> None:
    frame = iterations_table(analysis, proportions=[0.3]).frame
    chain = frame[frame.task == "nano-math"]
    assert list(chain.iteration) == [0, 1, 2] and set(chain.proportion) == {0.3}
    baseline = of(analysis.conditions, task="nano-math", iteration=0).iloc[0]
    assert chain.iloc[0].score == baseline.score
    assert chain.iloc[2].diversity_diversity == pytest.approx(0.72 - 0.2 * 0.3 * 2)
    assert list(chain.alert) == ["none", "warning", "critical"]
    assert sorted(set(iterations_table(analysis).frame.proportion)) == [0.0, 0.5]


def test_baselines_say_whether_there_is_room(make_store: Make) -> None:
    root = make_store(base=0.97, tasks=("nano-math",), seeds=(0,), iterations=0)
    frame = baselines_table(Analysis(load_study("sketch", root=root), resamples=50)).frame
    assert list(frame.placed) == ["no: too high"]


def test_mixtures_pools_and_timings(analysis: Analysis) -> None:
    row = of(mixtures_table(analysis).frame, task="nano-math", iteration=1, proportion=0.3).iloc[0]
    assert (row.mixture_external, row.mixture_synthetic, row.mixture_proportion_realised) == (280, 120, 0.3)
    pool = of(pools_table(analysis).frame, task="nano-math", iteration=1, proportion=0.3).iloc[0]
    assert (pool.pool_kept, pool.pool_malformed, pool.pool_copies_train, pool.pool_copies_test) == (200, 12, 3, 1)
    assert pool.pool_why == "duplicate question (14)", "over both seeds"
    levers = of(levers_table(analysis).frame, task="nano-math", iteration=1, proportion=0.3).iloc[0]
    assert (levers.pool_quality_wellformed, levers.pool_complexity_length) == (0.94, 27.0)
    time = of(timings_table(analysis).frame, task="nano-math", iteration=1, proportion=0.3).iloc[0]
    assert time.timings_train == pytest.approx(11.3)


def test_a_missing_control_leaves_no_difference_and_says_so(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=1, failed=("replace-0.it1",))
    table = score_table(Analysis(load_study("sketch", root=root), resamples=50))
    assert set(table.frame.control) == {"missing"} and table.frame.difference.isna().all()
    assert "without a difference: 3" in table.note and "Family" not in table.note


def test_only_seeds_that_both_have_are_paired(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0, 1, 2), iterations=1, failed=("replace-0.it1.s2",))
    frame = score_table(Analysis(load_study("sketch", root=root), resamples=50)).frame
    treated = frame[frame.proportion > 0]
    assert set(treated.n_seeds) == {3} and set(treated.n_paired_seeds) == {2}


def test_other_modes_are_compared_with_the_one_control(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=1, modes=("replace", "augment"))
    frame = score_table(Analysis(load_study("sketch", root=root), resamples=50)).frame
    assert len(frame) == 4 + 3 and (frame.control == "found").sum() == 6


def test_unfinished_cells_are_listed_with_their_error(make_store: Make) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=1, failed=("replace-50",), planned=("replace-30",))
    frame = unfinished_table(Analysis(load_study("sketch", root=root))).frame
    assert sorted(frame.status) == ["failed", "planned"]


@pytest.mark.parametrize(
    ("kind", "value", "printed"),
    [
        ("percent", 0.5417, "54.2"), ("points", -0.0481, "−4.8"), ("points", 0.012, "+1.2"), ("points", -1e-9, "0.0"),
        ("share", 0.125, "12.5"), ("count", 1319.0, "1,319"), ("decimal", -0.0567, "−0.057"), ("p", 0.00099, "<0.001"),
        ("p", 0.0421, "0.042"), ("text", "", "–"), ("decimal", math.nan, "–"), ("seconds", 1234.56, "1,234.6"),
    ],
)  # fmt: skip
def test_printing(kind: str, value: object, printed: str) -> None:
    assert show({"x": value}, Column("x", "x", kind)).value == printed  # type: ignore[arg-type]


def test_printing_an_interval() -> None:
    row = {"x": -0.0481, "x_low": -0.071, "x_high": 0.002}
    assert show(row, Column("x", "x", "points interval")) == Printed("−4.8", "[−7.1, +0.2]")
    assert minus("-0.000") == "0.000" and minus("-0.010") == "−0.010"


def test_markdown_and_csv_hold_the_same_numbers(analysis: Analysis, tmp_path: Path) -> None:
    """The CSV, read back and printed with the table's own columns, is the Markdown table."""
    for table in build_report(analysis).tables:
        back = pd.read_csv(table.write_csv(tmp_path), keep_default_na=False, na_values=[""])
        lines = table.markdown().splitlines()
        assert len(lines) == 2 + len(back) and len(back) == len(table.frame)
        for line, row in zip(lines[2:], back.to_dict("records"), strict=True):
            again = [str(show(row, column)) for column in table.columns]
            assert line == "| " + " | ".join(again) + " |"


def test_what_never_varies_is_in_the_note_and_in_the_csv(analysis: Analysis, tmp_path: Path) -> None:
    table = score_table(analysis)
    assert "model" not in [column.key for column in table.columns]
    assert table.note.startswith("Model nano-0.9m, mixing replace, 2 seeds, 200 test items.")
    assert set(pd.read_csv(table.write_csv(tmp_path)).model) == {"nano-0.9m"}


def test_a_group_of_one_item_is_left_out(make_store: Make) -> None:
    """Nothing can be said of it, and the rest of the report must not go down with it."""
    study = load_study("sketch", root=make_store(tasks=("nano-math",), groups=True, iterations=1, items=4))
    groups = groups_table(Analysis(study, resamples=20)).frame
    assert set(groups["group"]) == {"answerable: yes", "answerable: no"}
    study = load_study("sketch", root=make_store(tasks=("nano-math",), groups=True, iterations=1, items=3))
    assert set(groups_table(Analysis(study, resamples=20)).frame["group"]) == {"answerable: yes"}
