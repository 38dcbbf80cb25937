"""Blind spots: studies whose gaps are known, and the interval against Welch's, ``crossed_error`` and simulation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from synthmix.analysis import Analysis, StudyData, load_study
from synthmix.analysis.blindspots import COLUMNS, MEASURES, _ends, _side, blind_spot_tables, blind_spots, contrast
from synthmix.analysis.conditions import CONDITION, of
from synthmix.analysis.printing import show
from synthmix.statistics import crossed_error, wilson

#: Three heuristics, each with a subcase of either label; 20 items a subcase, 90 test items.
SUBCASES = [(h, f"{h[0]}{half[0]}_x", half) for h in ("overlap", "sub", "tree") for half in ("entailment", "non-entailment")]  # fmt: skip
EACH, TESTED = 20, 90
Truth = Callable[[dict[str, Any], str], float]


def rows(split: str, gold: Sequence[str], right: np.ndarray, wrong: Sequence[str], **groups: Any) -> pd.DataFrame:
    """Item rows of one split, as the evaluator writes them; wrong answers are those of ``wrong``."""
    return pd.DataFrame(
        {
            "split": split, "item": [f"{split}-{i}" for i in range(len(gold))], "gold": gold,
            "prediction": np.where(right, gold, wrong), "score": np.asarray(right, dtype=float), "group_label": gold,
            **{f"group_{name}": values for name, values in groups.items()},
        }
    )  # fmt: skip


def items_of(cell: dict[str, Any], truth: Truth) -> pd.DataFrame:
    """Exactly the share ``truth(cell, half)`` of every subcase is right, whichever items the seed chooses first; of the
    test set always two thirds of each label, wrong answers going round: entailment, neutral, contradiction."""
    rng = np.random.default_rng([cell["seed"], cell["iteration"], round(100 * cell["proportion"])])
    labels = ["entailment", "neutral", "contradiction"]
    gold = [labels[i % 3] for i in range(TESTED)]
    other = [labels[(i + 1) % 3] for i in range(TESTED)]
    tested = rows("test", gold, np.arange(TESTED) // 3 % 3 > 0, other)
    halves = [half for _, _, half in SUBCASES for _ in range(EACH)]
    right = np.concatenate([rng.permutation(EACH) < round(EACH * truth(cell, half)) for _, _, half in SUBCASES])
    flipped = ["non-entailment" if half == "entailment" else "entailment" for half in halves]
    named = {
        "heuristic": [name for name, _, _ in SUBCASES for _ in range(EACH)],
        "subcase": [name for _, name, _ in SUBCASES for _ in range(EACH)],
    }
    return pd.concat([tested, rows("hans", halves, right, flipped, **named)], ignore_index=True)


def study_of(
    root: Path, truth: Truth, seeds: Sequence[int] = (0, 1, 2), proportions: Sequence[float] = (0.0, 0.5), it: int = 2
) -> StudyData:
    """A store with one model on ``nli``: a baseline and two iterations."""
    cells = []
    grid = [("baseline", 0.0, 0)] + [("replace", p, i) for i in range(1, it + 1) for p in proportions]
    for mode, p, iteration in grid:
        for seed in seeds:
            name = f"{mode}-{100 * p:g}.it{iteration}.s{seed}"
            cell = {"name": name, "hash": f"#{name}", "model": "m", "task": "nli", "mode": mode, "proportion": p}
            cell |= {"iteration": iteration, "seed": seed, "parameters": 10, "parent": None, "level": iteration}
            cells.append(cell)
            folder = root / "cells" / name
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"metric": "accuracy", "family": "NLI"}))
            items_of(cell, truth).to_parquet(folder / "items.parquet", index=False)
    return StudyData("sketch", root, {"cells": cells}, {})


def widening(cell: dict[str, Any], half: str) -> float:
    """Entailed items stay at 90 %; the others fall from 60 % by 20 points an iteration at 50 % synthetic data."""
    return 0.9 if half == "entailment" else 0.6 - 0.4 * cell["proportion"] * cell["iteration"]


def noisy(cell: dict[str, Any], half: str) -> float:
    rng = np.random.default_rng([cell["seed"], cell["iteration"], len(half)])
    return float(rng.uniform(0.2, 0.9))


def one(frame: pd.DataFrame, **wanted: Any) -> pd.Series:
    found = of(frame, **wanted)
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    return study_of(tmp_path_factory.mktemp("store"), widening)


@pytest.fixture(scope="module")
def frame(study: StudyData) -> pd.DataFrame:
    return blind_spots(study)


# -- a study whose gap widens by a known amount ---------------------------------------------------------------------


@pytest.mark.parametrize(("half", "change"), [("all", 0.2), ("entailment", 0.0), ("non-entailment", 0.4)])
def test_the_gap_widens_by_what_was_built_in(frame: pd.DataFrame, half: str, change: float) -> None:
    row = one(frame, level="all", half=half, iteration=2, proportion=0.5)
    blind = {"all": 0.55, "entailment": 0.9, "non-entailment": 0.2}[half]
    assert (row.blind_spot, row.general) == (pytest.approx(blind), pytest.approx(2 / 3))
    assert row.gap == pytest.approx(2 / 3 - blind) and row.change == pytest.approx(change)
    assert row.change_low < change < row.change_high
    assert (row.change_low > 0) == (half != "entailment"), "the interval tells a change from none"
    assert (row.n_seeds, row.n_paired_seeds, row.control) == (3, 3, "found")
    assert row.n_general == {"all": 90, "entailment": 30, "non-entailment": 60}[half]
    assert row.n_blind_spot == {"all": 120, "entailment": 60, "non-entailment": 60}[half]


def test_the_change_is_that_of_the_same_iteration(frame: pd.DataFrame) -> None:
    changes = of(frame, level="all", half="non-entailment", proportion=0.5).set_index("iteration").change
    assert list(changes) == pytest.approx([0.2, 0.4])


def test_every_condition_has_every_group(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == [*COLUMNS, *(m + end for m in MEASURES for end in ("", "_low", "_high"))]
    assert (frame.groupby(CONDITION, sort=False).size() == 3 + 3 * 3 + 6).all()
    assert [tuple(key) for key in frame[CONDITION].drop_duplicates().to_numpy()] == [
        ("m", "nli", "baseline", 0.0, 0),
        *(("m", "nli", "replace", p, it) for it in (1, 2) for p in (0.0, 0.5)),
    ]
    assert set(of(frame, iteration=0).control) == {"none"} and set(of(frame, proportion=0.0).control) == {
        "none",
        "self",
    }
    assert of(frame, proportion=0.0).change.isna().all()
    assert (of(frame, level="subcase").half != "all").all(), "a subcase has one label"


def test_two_way_counts_neutral_and_contradiction_as_one(frame: pd.DataFrame) -> None:
    """Of the wrong test answers, those from neutral to contradiction are right when there are two answers: a third."""
    row = one(frame, level="all", half="all", iteration=0)
    assert row.general_two_way == pytest.approx(2 / 3 + 1 / 9)
    assert row.gap_two_way == pytest.approx(row.general_two_way - row.blind_spot)
    entailed = one(frame, level="all", half="entailment", iteration=0)
    assert entailed.general_two_way == entailed.general, "entailment is scored alike"
    assert one(frame, level="all", half="non-entailment", iteration=0).general_two_way == pytest.approx(2 / 3 + 1 / 6)


def test_an_item_without_an_answer_is_wrong_two_way_too(tmp_path: Path) -> None:
    study = study_of(tmp_path, widening, seeds=(0,), it=0)
    path = tmp_path / "cells" / "baseline-0.it0.s0" / "items.parquet"
    items = pd.read_parquet(path)
    items.loc[items.split == "test", ["prediction", "score"]] = [None, 0.0]
    items.to_parquet(path, index=False)
    assert set(blind_spots(study).general_two_way) == {0.0}


def test_rows_are_those_of_a_plain_group_by(tmp_path: Path) -> None:
    """Every level and gap again, from the joined item table."""
    study = study_of(tmp_path, noisy, seeds=(0, 1), it=1)
    items = study.items
    half = items.gold.where(items.gold == "entailment", "non-entailment")
    for _, row in blind_spots(study).iterrows():
        mine = np.ones(len(items), dtype=bool)
        for column in CONDITION:
            mine &= (items[column] == row[column]).to_numpy()
        if row.half != "all":
            mine &= (half == row.half).to_numpy()
        blind = mine & (items.split == "hans").to_numpy()
        for column in ("heuristic", "subcase"):
            if row[column]:
                blind &= (items[f"group_{column}"] == row[column]).to_numpy()
        general = items[mine & (items.split == "test").to_numpy()].score.mean()
        assert row.general == pytest.approx(general) and row.blind_spot == pytest.approx(items[blind].score.mean())
        assert row.gap == pytest.approx(general - items[blind].score.mean())
        assert row.gap_low <= row.gap <= row.gap_high


def test_change_is_the_difference_of_gaps(tmp_path: Path) -> None:
    frame = blind_spots(study_of(tmp_path, noisy, seeds=(0, 1), it=1))
    for _, row in of(frame, proportion=0.5).iterrows():
        same = {name: row[name] for name in ("iteration", "level", "heuristic", "subcase", "half")}
        control = one(frame, proportion=0.0, **same)
        assert row.change == pytest.approx(row.gap - control.gap)
        assert row.change_two_way == pytest.approx(row.gap_two_way - control.gap_two_way)


# -- studies that lack something ------------------------------------------------------------------------------------


def test_a_study_without_hans_has_no_rows(store: Path) -> None:
    study = load_study("sketch", root=store)
    frame = blind_spots(study)
    assert frame.empty and "change_two_way_low" in frame and blind_spot_tables(Analysis(study)) == []


def test_a_study_without_a_finished_cell_has_no_rows(tmp_path: Path) -> None:
    assert blind_spots(StudyData("none", tmp_path, {"cells": []}, {})).empty


def test_only_the_task_with_a_probe_has_rows(tmp_path: Path) -> None:
    study = study_of(tmp_path, widening, seeds=(0,))
    alone = blind_spots(study)
    cell = dict(study.plan["cells"][0], name="other", hash="#other", task="gsm8k")
    (tmp_path / "cells" / "other").mkdir()
    (tmp_path / "cells" / "other" / "result.json").write_text("{}")
    items = rows("test", ["1", "2"], np.array([True, False]), ["0", "0"]).drop(columns="group_label")
    items.to_parquet(tmp_path / "cells" / "other" / "items.parquet", index=False)
    both = StudyData("both", tmp_path, {"cells": [*study.plan["cells"], cell]}, {})
    pd.testing.assert_frame_equal(blind_spots(both), alone)


def test_one_seed_has_welchs_interval(tmp_path: Path) -> None:
    study = study_of(tmp_path, widening, seeds=(0,))
    row = one(blind_spots(study), level="all", half="all", iteration=1, proportion=0.5)
    items = of(study.items, iteration=1, proportion=0.5)
    scores = [of(items, split=split).score for split in ("test", "hans")]
    welch = stats.ttest_ind(*scores, equal_var=False).confidence_interval(0.95)
    assert row.n_seeds == 1 and (row.gap_low, row.gap_high) == pytest.approx((welch.low, welch.high))
    assert row.change_low < row.change < row.change_high


def test_without_a_control_there_is_no_change(tmp_path: Path) -> None:
    frame = blind_spots(study_of(tmp_path, widening, seeds=(0, 1), proportions=(0.5,)))
    treated = of(frame, proportion=0.5)
    assert set(treated.control) == {"missing"} and set(treated.n_paired_seeds) == {0}
    assert treated.change.isna().all() and treated.gap.notna().all()


def test_only_seeds_that_both_have_are_paired(tmp_path: Path) -> None:
    study = study_of(tmp_path, widening)
    (tmp_path / "cells" / "replace-0.it2.s1" / "result.json").unlink()
    treated = of(blind_spots(study), proportion=0.5, iteration=2)
    assert set(treated.n_seeds) == {3} and set(treated.n_paired_seeds) == {2}


def test_items_that_one_seed_did_not_answer_do_not_count(tmp_path: Path) -> None:
    study = study_of(tmp_path, widening)
    path = tmp_path / "cells" / "replace-50.it1.s2" / "items.parquet"
    items = pd.read_parquet(path)
    gone = ["hans-0", "hans-1", "test-0"]
    items[~items.item.isin(gone)].to_parquet(path, index=False)
    row = one(blind_spots(study), level="all", half="all", iteration=1, proportion=0.5)
    kept = of(study.items, iteration=1, proportion=0.5)
    kept = kept[~kept.item.isin(gone)]
    assert (row.n_general, row.n_blind_spot) == (TESTED - 1, 6 * EACH - 2)
    assert row.gap == pytest.approx(of(kept, split="test").score.mean() - of(kept, split="hans").score.mean())


def test_a_group_of_one_item_has_no_row(tmp_path: Path) -> None:
    study = study_of(tmp_path, widening, seeds=(0,), it=0)
    path = tmp_path / "cells" / "baseline-0.it0.s0" / "items.parquet"
    items = pd.read_parquet(path)
    items[(items.group_subcase != "oe_x") | (items.item == "hans-0")].to_parquet(path, index=False)
    found = blind_spots(study)
    assert "oe_x" not in set(found.subcase) and "on_x" in set(found.subcase)


# -- the interval ---------------------------------------------------------------------------------------------------


def test_one_seed_is_welch() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(1, 40)), rng.normal(0.3, 3.0, size=(1, 15))
    found = contrast([first, second], [1.0, -1.0])
    welch = stats.ttest_ind(first[0], second[0], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high))
    assert not found.covers_runs and "one seed" in found.method


binary = st.tuples(st.integers(2, 4), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0]))
)


@given(binary.filter(lambda table: table.min() < table.max()))
def test_one_tables_error_is_crossed_error(table: np.ndarray) -> None:
    assert contrast([table], [1.0]).error == pytest.approx(crossed_error(table)[0], abs=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0])
def test_one_tables_interval_is_that_of_crossed_error(scale: float) -> None:
    """Whether seeds or items differ more, and whether noise outweighs both; without ties, unlike 0/1 scores."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        seeds, n = rng.integers(2, 6), rng.integers(2, 30)
        table = rng.normal(size=(seeds, n)) + scale * (rng.normal(size=(seeds, 1)) + rng.normal(size=n))
        found, (error, freedom) = contrast([table], [1.0]), crossed_error(table)
        half = stats.t.ppf(0.975, freedom) * error
        assert (found.low, found.high) == pytest.approx((table.mean() - half, table.mean() + half))


@given(binary)
def test_signs_only_turn_it_round(table: np.ndarray) -> None:
    there, back = contrast([table], [1.0]), contrast([table], [-1.0])
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))


@pytest.mark.parametrize("seeds", [1, 3])
def test_all_alike_is_no_certainty(seeds: int) -> None:
    """A subcase where every answer is wrong: 20 items do not show that none can be right."""
    found = contrast([np.zeros((seeds, 20))], [1.0])
    assert found.estimate == 0.0 and found.high >= wilson(0, 20).high * 0.99 and found.low == -found.high


def test_no_interval_leaves_what_scores_can_be() -> None:
    """Two items that differ have a t quantile of 12.7; a gap is between -1 and 1 all the same."""
    few = contrast([np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])], [1.0, -1.0])
    assert few.high > 1, "what is bounded here is wider by itself"
    for name, most in (("gap", 1.0), ("change", 2.0)):
        sides = [_side(np.array([[0.0, 1.0]])), _side(np.array([[1.0, 0.0]]))]
        assert _ends(name, *sides, most) == {name: 0.0, f"{name}_low": -most, f"{name}_high": most}


def simulate(seeds: int, spread: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores on 100 and 150 items; items differ in hardness, runs in how good they are on the second set.
    The mean chances are 0.7 and 0.5, so the true gap is 0.2."""
    chances = [mean + rng.uniform(-0.25, 0.25, size=n) for mean, n in ((0.7, 100), (0.5, 150))]
    run = rng.normal(scale=spread, size=(seeds, 1))
    first = rng.uniform(size=(seeds, 100)) < chances[0]
    second = rng.uniform(size=(seeds, 150)) < chances[1] + run
    return first.astype(float), second.astype(float)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.05), (5, 0.05)])
def test_intervals_hold_the_true_gap_as_often_as_they_say(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(5)
    found = [contrast(simulate(seeds, spread, rng), [1.0, -1.0]) for _ in range(600)]
    coverage = np.mean([interval.low <= 0.2 <= interval.high for interval in found])
    assert 0.925 <= coverage <= 0.985, coverage


def test_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    widths = [
        np.mean([(i := contrast(simulate(3, spread, rng), [1.0, -1.0])).high - i.low for _ in range(50)])
        for spread in (0.0, 0.15)
    ]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("tables", [[np.zeros((2, 5)), np.zeros((3, 5))], [np.zeros((2, 1))], [np.zeros((2, 0))]])
def test_tables_that_do_not_fit(tables: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least two items"):
        contrast(tables, [1.0] * len(tables))


# -- the report's tables --------------------------------------------------------------------------------------------


def test_tables_say_the_known_numbers(study: StudyData) -> None:
    whole, heuristics, subcases = blind_spot_tables(Analysis(study))
    assert [t.name for t in (whole, heuristics, subcases)] == [
        "blind_spots", "blind_spots_heuristics", "blind_spots_subcases",
    ]  # fmt: skip
    assert whole.note.startswith("Model m, 3 seeds.") or whole.note.startswith("Model m, mixing replace, 3 seeds.")
    at = [c.key for c in whole.columns]
    line = dict(zip(at, whole.printed()[-1], strict=True))
    assert (line["half"].value, line["blind_spot"].value, line["general"].value) == ("non-entailment", "20.0", "66.7")
    assert (line["gap"].value, line["change"].value) == ("+46.7", "+40.0")
    assert len(whole.frame) == 5 * 3 and len(heuristics.frame) == 5 * 9
    assert set(zip(subcases.frame.iteration, subcases.frame.proportion, strict=True)) == {(2, 0.0), (2, 0.5)}
    assert len(subcases.frame) == 2 * 6


def test_their_csv_holds_the_printed_numbers(study: StudyData, tmp_path: Path) -> None:
    for table in blind_spot_tables(Analysis(study)):
        back = pd.read_csv(table.write_csv(tmp_path), keep_default_na=False, na_values=[""])
        again = [[str(show(row, column)) for column in table.columns] for row in back.to_dict("records")]
        assert again == [[str(cell) for cell in line] for line in table.printed()]
        assert not any(math.isnan(gap) for gap in back.gap)
