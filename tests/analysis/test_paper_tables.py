"""The paper's tables beside a study: its layout, its stars, its nearest shares, and what may be said of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from synthmix.analysis.conditions import Analysis, of
from synthmix.analysis.load import load_study
from synthmix.analysis.paper.beside import Beside, chains_of, choose, common_share, losses, starred
from synthmix.analysis.paper.published import FAMILIES
from synthmix.analysis.paper.tables import possible_ranks, published_section, table1, table2, table3, table4
from synthmix.analysis.printing import Table
from synthmix.analysis.section import Section

MakeStore = Callable[..., Path]
RESAMPLES = 50

#: Each simulates a study; together they take half a minute.
pytestmark = pytest.mark.slow


def analysis_of(root: Path, **settings: object) -> Analysis:
    return Analysis(load_study("sketch", root), RESAMPLES, estimators=("confidence",), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def analysis(make_store: MakeStore) -> Analysis:
    """Three tasks, two sizes, four shares (no 30 %), three iterations, two seeds."""
    return analysis_of(
        make_store(
            tasks=("nano-math", "nano-facts", "nano-code"), models=("nano-0.9m", "nano-3m"),
            proportions=(0.0, 0.2, 0.4, 0.5), iterations=3, items=120,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def section(analysis: Analysis) -> Section:
    made = published_section(analysis)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def beside(analysis: Analysis) -> Beside:
    found = choose(analysis)
    assert found is not None
    return found


def named(section: Section, name: str) -> Table:
    return next(table for table in section.tables if table.name == name)


def row(table: Table, *words: str) -> dict[str, object]:
    """The one row whose printed cells hold every word."""
    found = [
        dict(zip([c.header for c in table.columns], map(str, cells), strict=True))
        for cells in table.printed()
        if all(any(word in str(cell) for cell in cells) for word in words)
    ]
    assert len(found) == 1, (words, found)
    return dict(found[0])


# -- what is chosen -------------------------------------------------------------------------------------------------


def test_the_larger_of_equal_models_stands_beside(beside: Beside) -> None:
    assert (beside.model, beside.mode, list(beside.others)) == ("nano-3m", "replace", [])
    assert set(beside.chosen.model) == {"nano-3m"} and set(beside.frame.model) == {"nano-0.9m", "nano-3m"}


def test_coverage_comes_before_size(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math", "nano-code"), models=("nano-0.9m", "nano-3m"), iterations=1,
                      planned=("nano-3m.nano-code",), items=60)  # fmt: skip
    found = choose(analysis_of(root))
    assert found is not None and found.model == "nano-0.9m"


def test_replace_comes_before_other_modes(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math",), modes=("accumulate", "replace"), iterations=1, items=60)
    found = choose(analysis_of(root))
    assert found is not None and found.mode == "replace" and set(found.frame["mode"]) == {"baseline", "replace"}


def test_another_mode_where_there_is_no_replace(make_store: MakeStore) -> None:
    """The control chain is always written as ``replace``; what is chosen is the mode that has synthetic data."""
    root = make_store(
        tasks=("nano-math",), modes=("replace", "accumulate"), iterations=1, items=60,
        planned=("replace-10", "replace-30", "replace-50"),
    )  # fmt: skip
    found = choose(analysis_of(root))
    assert found is not None and found.mode == "accumulate"
    assert len(of(found.chosen, proportion=0.0, iteration=1)) == 1, "the control came along"


@pytest.mark.parametrize("planned", [("it1", "it2"), ("-10.", "-30.", "-50."), ("it",)])
def test_nothing_to_set_beside(make_store: MakeStore, planned: tuple[str, ...]) -> None:
    """Baselines alone, controls alone, nothing at all."""
    assert published_section(analysis_of(make_store(tasks=("nano-math",), planned=planned, items=60))) is None


def test_tasks_of_other_families_are_named_and_left_out(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math", "nano-facts"), iterations=1, items=60)
    for path in (root / "cells").glob("*nano-facts*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"family": "Dialogue"}))
    made = published_section(analysis_of(root))
    assert made is not None
    assert "left out here: nano-facts" in made.sentences[0]
    assert not any("nano-facts" in str(cell) for table in made.tables for cells in table.printed() for cell in cells)


# -- table 1 --------------------------------------------------------------------------------------------------------


def test_table1_has_the_papers_rows_and_columns(section: Section) -> None:
    table = named(section, "paper_table_1")
    headers = [column.header for column in table.columns]
    assert headers == ["task", "model, task", "0 %", "10 %", "20 %", "30 %", "40 %", "50 %"]
    assert list(dict.fromkeys(table.frame.family)) == list(FAMILIES)
    math_row = row(table, "published: GSM8K")
    assert [math_row[h] for h in headers[2:]] == ["24.1", "23.7", "22.8", "19.3*", "–", "14.2*"]


def test_table1_prints_the_studys_own_scores_with_intervals(section: Section, analysis: Analysis) -> None:
    table = named(section, "paper_table_1")
    condition = of(analysis.conditions, model="nano-3m", task="nano-code", iteration=1, proportion=0.4).iloc[0]
    printed = str(row(table, "nano-3m, nano-code")["40 %"]).replace("*", "")
    assert printed == f"{100 * condition.score:.1f} [{100 * condition.score_low:.1f}, {100 * condition.score_high:.1f}]"
    assert row(table, "nano-3m, nano-code")["10 %"] == "–", "a share that the study does not have"


def test_stars_are_corrected_over_the_table_alone(beside: Beside, analysis: Analysis) -> None:
    own = starred(beside)
    tested = own[own.proportion > 0]
    assert len(tested) == 9 and analysis.family > 9
    assert list(tested.starred) == [bool(p * 9 < 0.05) for p in tested.p_value]
    assert 0 < tested.starred.sum(), "an effect as large as the simulated one is seen"
    assert "9 comparisons of this table" in table1(beside).note


def test_no_share_is_a_comparison_with_itself(make_store: MakeStore) -> None:
    """Against phase 0, the 0 % chain has a p-value too; the column of 0 % is no comparison of the paper's."""
    root = make_store(tasks=("nano-math",), iterations=1, items=60)
    found = choose(analysis_of(root, control="baseline"))
    assert found is not None
    assert not starred(found).starred[starred(found).proportion == 0].any()
    assert "different from phase 0" in table1(found).note and "3 comparisons" in table1(found).note


def test_csv_has_full_precision(section: Section, analysis: Analysis, tmp_path: Path) -> None:
    written = pd.read_csv(named(section, "paper_table_1").write_csv(tmp_path))
    own = written[written.source == "nano-3m, nano-math"].iloc[0]
    condition = of(analysis.conditions, model="nano-3m", task="nano-math", iteration=1, proportion=0.5).iloc[0]
    assert own.score_50 == pytest.approx(condition.score, abs=1e-12)
    assert own.score_50_low == pytest.approx(condition.score_low, abs=1e-12)
    published = written[written.source.str.startswith("published: HumanEval")].iloc[0]
    assert published.score_30 == 0.147 and bool(published.significant_30) and math.isnan(published.score_30_low)


# -- tables 2 and 3 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([[0.2, 0.4], [0.2, 0.4]], 0.2),  # as near as each other: the smaller
        ([[0.1, 0.3, 0.5], [0.1]], 0.3),  # half have it
        ([[0.1, 0.3, 0.5], [0.1], [0.1]], 0.1),  # one of three does not stand for them
        ([[0.1], [0.2], [0.5]], 0.2),  # no share in common: the nearest that any has
    ],
)
def test_one_share_for_all(shares: list[list[float]], expected: float) -> None:
    rows = [("m", f"t{i}", p) for i, own in enumerate(shares) for p in (0.0, *own)]
    assert common_share(pd.DataFrame(rows, columns=["model", "task", "proportion"])) == expected


def test_a_task_without_that_share_is_left_out_and_named(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math", "nano-code"), iterations=1, items=60, planned=("nano-code.replace-30",))
    found = choose(analysis_of(root))
    assert found is not None
    table, (rows, without) = table3(found), losses(found.chosen)
    assert table is not None and without == ["nano-0.9m, nano-code"]
    assert "left out: nano-0.9m, nano-code" in table.note and "nano-0.9m, nano-code" not in set(table.frame.source)
    assert set(rows.proportion) == {0.3}


def test_table2_compares_sizes_on_math(beside: Beside, analysis: Analysis) -> None:
    table = table2(beside)
    assert table is not None
    assert list(table.frame.source[-2:]) == ["nano-0.9m, nano-math", "nano-3m, nano-math"]
    first = row(table, "Pythia-410M")
    assert (first["relative, %"], first["absolute, points"], first["parameters"]) == ("−38.0", "−3.1", "410,000,000")
    own = of(analysis.conditions, model="nano-0.9m", task="nano-math", iteration=1)
    control, treated = (of(own, proportion=p).iloc[0] for p in (0.0, 0.2))
    printed = table.frame[table.frame.source == "nano-0.9m, nano-math"].iloc[0]
    assert printed.relative == pytest.approx(treated.score / control.score - 1)
    assert printed.baseline == pytest.approx(control.score) and printed.proportion == 0.2


def test_table2_needs_the_math_task(make_store: MakeStore) -> None:
    found = choose(analysis_of(make_store(tasks=("nano-facts",), iterations=1, items=60)))
    assert found is not None and table2(found) is None


def test_table3_ranks_by_relative_loss(beside: Beside) -> None:
    table = table3(beside)
    assert table is not None
    own = table.frame[~table.frame.source.str.startswith("published")]
    assert list(own.relative) == sorted(own.relative)
    assert [text.split()[0] for text in own["rank"]] == ["1", "2", "3"]
    assert row(table, "HumanEval")["sensitivity rank"] == "2", "as printed, though code loses most"


def test_only_disjoint_intervals_order_tasks() -> None:
    losses = pd.DataFrame(
        {"relative_low": [-0.30, -0.22, -0.05, math.nan], "relative_high": [-0.20, -0.10, -0.01, math.nan]}
    )
    assert possible_ranks(losses) == [(1, 3), (1, 3), (3, 4), (1, 4)]


# -- table 4 and figure 1 -------------------------------------------------------------------------------------------


def test_table4_in_the_papers_layout(beside: Beside, analysis: Analysis, tmp_path: Path) -> None:
    table = table4(beside)
    assert table is not None
    assert [c.header for c in table.columns][2:] == ["iter 0 (baseline)", "iter 1", "iter 2", "iter 3"]
    ece = row(table, "published", "ECE")
    assert [ece[f"iter {i}"] for i in (1, 2, 3)] == ["0.14", "0.21", "0.28"]
    written = pd.read_csv(table.write_csv(tmp_path))
    own = written[(written.source == "nano-3m, nano-math, 20 %") & (written.metric == "ECE")].iloc[0]
    condition = of(analysis.conditions, model="nano-3m", task="nano-math", iteration=2, proportion=0.2).iloc[0]
    assert (own.value_2, own.value_2_high) == pytest.approx((condition.ece, condition.ece_high), abs=1e-12)


def test_chains_begin_at_phase_0_and_have_one_share(beside: Beside) -> None:
    for _, chain in chains_of(beside):
        assert list(chain.iteration) == [0, 1, 2, 3]
        assert list(chain.proportion) == [0.0, 0.2, 0.2, 0.2]


def test_one_iteration_has_no_table4_and_no_figure(make_store: MakeStore) -> None:
    made = published_section(analysis_of(make_store(tasks=("nano-math",), iterations=1, items=60)))
    assert made is not None
    assert [table.name for table in made.tables] == [f"paper_table_{i}" for i in (1, 2, 3)]
    assert not made.figures and not any("Table 4" in sentence for sentence in made.sentences)


def test_figure1_sets_the_published_chain_first(section: Section) -> None:
    (figure,) = section.figures
    titles = [panel.title for panel in figure.panels]
    assert titles[:2] == [f"published, GSM8K, 30 %: {what}" for what in ("score", "ECE")]
    assert len(titles) == 2 * (1 + 3) and len(set(panel.name for panel in figure.panels)) == len(titles)
    assert "Pythia-6.9B" in figure.caption and "levels do not" in figure.caption and "2 seeds" in figure.caption


# -- sentences ------------------------------------------------------------------------------------------------------


def test_sentences_count_what_the_tables_hold(section: Section, beside: Beside) -> None:
    own = starred(beside)
    low, high = own[own.proportion == 0.2], own[own.proportion >= 0.3]
    assert (
        f"up to 20 % synthetic data {low.starred.sum()} of 3 comparisons with the control differ after Bonferroni"
        f" (published: 0 of 10), from 30 % on {high.starred.sum()} of 6 (published: 10 of 10)" in section.sentences[1]
    )
    assert "the published relative loss falls from 38 % to 16 % with size" in section.sentences[2]
    assert "Of 3 pairs of tasks" in section.sentences[3]
    assert "the ECE changes by +75 % from iteration 0 to 1 and accuracy by −1.2 %" in section.sentences[4]


def test_an_order_of_sizes_is_claimed_only_where_intervals_are_apart(section: Section) -> None:
    assert "their intervals overlap, so an order of sizes is not shown" in section.sentences[2]


def test_without_a_control_nothing_is_compared(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math",), iterations=1, items=60, planned=("replace-0.it1",))
    made = published_section(analysis_of(root))
    assert made is not None
    assert "nothing of it can be compared" in made.sentences[1]
    assert [table.name for table in made.tables] == ["paper_table_1", "paper_table_2"]
    assert row(made.tables[0], "nano-0.9m, nano-math")["0 %"] == "–"


def test_one_seed_is_said_under_the_figure(make_store: MakeStore) -> None:
    made = published_section(analysis_of(make_store(tasks=("nano-math",), seeds=(0,), items=60)))
    assert made is not None and "One seed only" in made.figures[0].caption


def test_nothing_is_not_a_number(section: Section) -> None:
    texts = [str(cell) for table in section.tables for cells in table.printed() for cell in cells]
    assert not [text for text in texts + list(section.sentences) if "nan" in text.split() or "None" in text]
    assert np.isfinite(named(section, "paper_table_2").frame.relative).all()
