"""Damaged files: each costs its cell or is told, none costs the study, and none makes a wrong number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmix.analysis import Analysis, load_study, write_report
from synthmix.analysis.load import StudyData
from synthmix.errors import DataError, UserError

Make = Callable[..., Path]
SMALL: dict[str, Any] = {"tasks": ("nano-math",), "iterations": 1, "proportions": (0.0, 0.5), "items": 60}


@pytest.fixture(scope="module")
def sound(make_store: Make) -> Path:
    """One task, 0 and 50 %, two seeds: six cells."""
    return make_store(**SMALL)


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "runs"))


def folder_of(root: Path, part: str = "replace-50.it1.s0") -> Path:
    (folder,) = root.glob(f"cells/*{part}*")
    return folder


def change_items(root: Path, part: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder_of(root, part) / "items.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def is_set_aside(study: StudyData, folder: Path, reason: str) -> bool:
    """Whether a cell, and only that, is damaged, for a reason that names it and its file."""
    damaged = study.cells[study.cells.status == "damaged"]
    assert list(damaged["name"]) == [folder.name] and folder.name not in set(study.done["name"])
    assert reason in damaged.error.iloc[0] and damaged.error.iloc[0].startswith(f"{folder.name}/")
    assert any(folder.name in note and reason in note for note in study.notes)
    return folder.name[-8:] not in set(study.items["hash"]) and len(study.items) == 5 * 2 * 60


def report_without(root: Path, folder: Path, reason: str, out: Path) -> None:
    """The report is written, and says which cell is not in it and why."""
    text = write_report(load_study("sketch", root=root), out).with_suffix(".md").read_text(encoding="utf-8")
    assert folder.name in text and reason in text and "5 of 6 done" in text


# -- item tables ----------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40 : len(content) // 3] = b"\xff" * (len(content) // 3 - 40)
    path.write_bytes(bytes(content))


def overwrite_the_footer(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-600:-8] = b"\xff" * 592
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "not a whole Parquet file"),
        (overwrite_a_page, "cannot be read"),
        (overwrite_the_footer, "cannot be read"),
        (lambda path: path.write_text("no table at all"), "not a whole Parquet file"),
        (lambda path: path.write_bytes(b""), "not a whole Parquet file (0 bytes)"),
        (Path.unlink, "its item table is missing"),
    ],
    ids=["cut", "page", "footer", "text", "empty", "missing"],
)
def test_a_corrupted_item_table_costs_its_cell(root: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder_of(root) / "items.parquet")
    assert is_set_aside(load_study("sketch", root=root).verify(), folder_of(root), reason)


def test_the_report_goes_on_without_a_corrupted_table(root: Path, tmp_path: Path) -> None:
    overwrite_a_page(folder_of(root) / "items.parquet")
    report_without(root, folder_of(root), "cannot be read", tmp_path / "report")


def test_a_single_flipped_bit_is_found_where_pages_have_checksums(root: Path) -> None:
    """Without them most flipped bits only change a number: nothing can tell."""
    path = folder_of(root) / "items.parquet"
    frame = pd.read_parquet(path)
    frame.to_parquet(path, index=False, write_page_checksum=True)
    assert len(load_study("sketch", root=root).verify().done) == 6
    content = bytearray(path.read_bytes())
    start = content.index(frame.confidence_sum.iloc[:2].to_numpy().tobytes())
    content[start] ^= 1
    path.write_bytes(bytes(content))
    assert is_set_aside(load_study("sketch", root=root).verify(), folder_of(root), "cannot be read")


def test_a_damaged_page_is_set_aside_by_whoever_reads_it(root: Path) -> None:
    """Without ``verify`` the cell counts as done until its items are read, and not after."""
    folder = folder_of(root)
    overwrite_a_page(folder / "items.parquet")
    study = load_study("sketch", root=root)
    assert len(study.done) == 6
    study.read_items(["item", "score", "split"])
    assert is_set_aside(study, folder, "cannot be read")


@given(length=st.integers(0, 20_000))
def test_a_table_cut_anywhere_is_never_read_as_whole(sound: Path, tmp_path_factory: Any, length: int) -> None:
    content = (folder_of(sound) / "items.parquet").read_bytes()
    root = tmp_path_factory.mktemp("cut")
    folder = root / "cells" / folder_of(sound).name
    folder.mkdir(parents=True)
    shutil.copy(folder_of(sound) / "result.json", folder)
    (folder / "items.parquet").write_bytes(content[: length % len(content)])
    cell = json.loads((folder / "result.json").read_text())
    assert list(StudyData("cut", root, {"cells": [cell]}, {}).cells.status) == ["damaged"]


def twice(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[:3]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (twice, "3 items stand more than once ('0000' of test, for one)"),
        (lambda f: f.assign(score=f.score.where(f.index > 3)), "4 rows have no score"),
        (lambda f: f.assign(score=f.score + 0.5), "score is 1.5 for"),
        (lambda f: f.assign(confidence=100 * f.confidence), "expected 0 to 1"),
        (lambda f: f.assign(score=f.score.map(str)), "column score holds text"),
        (lambda f: f.drop(columns="score"), "has no column score"),
        (lambda f: f.iloc[:0], "holds no items"),
    ],
    ids=["twice", "no score", "over 1", "percent", "text", "no column", "no rows"],
)
def test_a_table_that_cannot_be_right_costs_its_cell(
    root: Path, change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    change_items(root, "replace-50.it1.s0", change)
    assert is_set_aside(load_study("sketch", root=root).verify(), folder_of(root), reason)


def test_a_column_of_another_kind_costs_the_cell_that_differs(root: Path) -> None:
    """Joined with the others it would be text for all of them."""
    change_items(root, "replace-50.it1.s0", lambda f: f.assign(tokens="nine"))
    study = load_study("sketch", root=root)
    assert study.items.tokens.dtype == np.int64
    assert is_set_aside(study, folder_of(root), "column tokens holds text")


def test_confidences_that_do_not_exist_are_no_damage(root: Path) -> None:
    change_items(root, "replace-50.it1.s0", lambda f: f.assign(confidence_answer=[None] * len(f)))
    study = load_study("sketch", root=root).verify()
    assert study.notes == [] and len(study.done) == 6
    assert study.items.confidence_answer.dtype == np.float64 and study.items.confidence_answer.isna().all()


# -- items that differ between conditions ---------------------------------------------------------------------------


def test_comparisons_rest_on_common_items_and_say_how_many(root: Path) -> None:
    """50 % lost the items that were right: over all items it would look worse than over those that both have."""

    def without_the_right_ones(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame.split != "test") | (frame.score < 1) | (frame.item > "0019")]

    for seed in (0, 1):
        change_items(root, f"replace-50.it1.s{seed}", without_the_right_ones)
    study = load_study("sketch", root=root).verify()
    assert "nano-math: cells were not evaluated on the same items of test (4 cells on 60" in study.notes[0]
    assert len(study.done) == 6, "nothing is damaged"
    row = Analysis(study, resamples=50).conditions.set_index(["mode", "proportion"]).loc[("replace", 0.5)]
    gaps = []
    for seed in (0, 1):
        ours, theirs = (pd.read_parquet(folder_of(root, f"replace-{p}.it1.s{seed}") / "items.parquet") for p in (50, 0))
        both = ours[ours.split == "test"].merge(theirs[theirs.split == "test"], on="item")
        gaps.append((both.score_x - both.score_y).mean())
        assert len(both) < 60
    assert row.difference == pytest.approx(np.mean(gaps))


def test_other_questions_under_the_same_ids_are_not_compared(root: Path) -> None:
    change_items(root, "replace-50.it1.s0", lambda f: f.assign(gold=f.gold.where(f.index % 4 > 0, "other")))
    study = load_study("sketch", root=root).verify()
    assert is_set_aside(study, folder_of(root), "30 of 120 items have another right answer")


def test_items_in_another_order_are_the_same_items(root: Path) -> None:
    before = Analysis(load_study("sketch", root=root), resamples=50).conditions
    change_items(root, "replace-50.it1.s0", lambda f: f.sample(frac=1.0, random_state=1))
    study = load_study("sketch", root=root).verify()
    assert study.notes == []
    pd.testing.assert_frame_equal(Analysis(study, resamples=50).conditions, before)


def test_conditions_without_a_common_item_are_not_compared(root: Path) -> None:
    for seed in (0, 1):
        change_items(root, f"replace-50.it1.s{seed}", lambda f: f.assign(item="x" + f.item))
    study = load_study("sketch", root=root).verify()
    row = Analysis(study, resamples=50).conditions.set_index(["mode", "proportion"]).loc[("replace", 0.5)]
    assert row.control == "missing" and np.isnan(row.difference)
    assert any("0 are common to all" in note for note in study.notes)


# -- results, logs and texts ----------------------------------------------------------------------------------------


def test_a_result_that_is_cut_costs_its_cell(root: Path, tmp_path: Path) -> None:
    folder = folder_of(root)
    cut(folder / "result.json")
    assert is_set_aside(load_study("sketch", root=root), folder, "result.json: not JSON")
    report_without(root, folder, "result.json: not JSON", tmp_path / "report")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"hash": "0000aaaa"}', "holds the result of cell 0000aaaa; expected"),
        (b"[1, 2]", "expected an object with the cell's results but found list"),
        (b'{"test": 0.7}', "test is float; expected an object"),
        (b'{"test": "\xff"}', "not JSON"),
    ],
)
def test_a_result_that_is_none_costs_its_cell(root: Path, content: bytes, reason: str) -> None:
    (folder_of(root) / "result.json").write_bytes(content)
    assert is_set_aside(load_study("sketch", root=root), folder_of(root), reason)


def test_a_failure_that_is_cut_is_a_failure_all_the_same(root: Path) -> None:
    folder = folder_of(root)
    (folder / "result.json").unlink()
    (folder / "failure.json").write_text('{"error": "no sp')
    row = load_study("sketch", root=root).cells.set_index("name").loc[folder.name]
    assert row.status == "failed" and "failure.json: not JSON" in row.error


def test_a_log_cut_in_the_middle_of_a_line_gives_its_whole_lines_and_says_so(root: Path) -> None:
    folder = folder_of(root)
    (folder / "metrics.jsonl").write_text(
        '{"step": 9, "train/loss": 2.5}\n{"step": 19, "train/loss": 2.25}\n{"step": 2'
    )
    study = load_study("sketch", root=root)
    assert list(study.metrics(folder.name)["train/loss"]) == [2.5, 2.25]
    assert study.done["name"].isin([folder.name]).any(), "the cell's results are whole"
    assert study.notes == [f"{folder.name}/metrics.jsonl ends in the middle of a line: only whole lines are read."]


def test_a_line_of_a_log_that_is_no_json_is_passed_over_and_said(root: Path) -> None:
    folder = folder_of(root)
    (folder / "metrics.jsonl").write_bytes(b'{"step": 9}\n\xff\xfe{"st\n5\n{"step": 29}\n')
    study = load_study("sketch", root=root)
    assert list(study.metrics(folder.name).step) == [9, 29]
    assert [note.split(": ")[1] for note in study.notes] == [
        "line 2 is no JSON object and was passed over.",
        "line 3 is no JSON object and was passed over.",
    ]


def test_a_log_that_is_being_written_is_no_damage(root: Path) -> None:
    folder = folder_of(root)
    (folder / "result.json").unlink()
    (folder / "metrics.jsonl").write_text('{"step": 9}\n{"st')
    study = load_study("sketch", root=root)
    assert len(study.metrics(folder.name)) == 1 and study.notes == []


def test_examples_that_are_cut_are_left_out(root: Path, tmp_path: Path) -> None:
    for path in root.glob("cells/*/examples.json"):
        cut(path)
    study = load_study("sketch", root=root).verify()
    assert study.notes[0].startswith("nano-0.9m.nano-math") and "examples.json: not JSON" in study.notes[0]
    assert study.notes[-1] == "And 1 more of this kind." and len(study.done) == 6
    text = write_report(study, tmp_path / "report").with_suffix(".md").read_text(encoding="utf-8")
    assert "Written by the model of" in text and "From the training set of" not in text


# -- the study's own files ------------------------------------------------------------------------------------------


def test_a_study_without_a_finished_cell_says_so(root: Path, tmp_path: Path) -> None:
    for path in root.glob("cells/*/result.json"):
        path.unlink()
    study = load_study("sketch", root=root).verify()
    assert study.done.empty and study.items.empty and study.notes == []
    text = write_report(study, tmp_path / "report").with_suffix(".md").read_text(encoding="utf-8")
    assert "No cell has finished, so there is no result." in text


def test_a_study_whose_cells_are_all_damaged_says_so(root: Path, tmp_path: Path) -> None:
    for path in root.glob("cells/*/items.parquet"):
        cut(path)
    study = load_study("sketch", root=root)
    assert set(study.cells.status) == {"damaged"}
    assert len(study.notes) == 6 and study.notes[-1] == "And 1 more of this kind."
    text = write_report(study, tmp_path / "report").with_suffix(".md").read_text(encoding="utf-8")
    assert "No cell has finished" in text and text.count("not a whole Parquet file") >= 6


def edit_plan(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "studies" / "sketch" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(change(plan) or plan))


def test_an_older_plan_without_parents_and_levels_loads(root: Path) -> None:
    def older(plan: dict[str, Any]) -> None:
        for cell in plan["cells"]:
            del cell["parent"], cell["level"], cell["parameters"]
        del plan["code"], plan["created"]

    edit_plan(root, older)
    study = load_study("sketch", root=root)
    assert len(study.done) == 6 and list(study.cells.level) == list(study.cells.iteration)
    assert set(study.cells.parameters) == {900_000}, "the cells' own results tell"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda plan: [cell.pop("hash") for cell in plan["cells"]] and None,
            r"cells\[0\] has no hash; expected name, ",
        ),
        (lambda plan: plan["cells"][2].update(seed="two"), r"cells\[2\] has seed = 'two'; expected a whole number"),
        (lambda plan: plan["cells"][1].update(proportion=None), r"cells\[1\] has proportion = None; expected a number"),
        (lambda plan: plan["cells"].append("cell"), r"cells\[6\] is str; expected an object"),
        (lambda plan: plan["cells"].append(plan["cells"][0]), r"cell \w+ is planned 2 times; expected once"),
        (lambda plan: {"study": "sketch"}, "expected an object with a list of 'cells'"),
        (lambda plan: [1], "expected an object with a list of 'cells'"),
    ],
    ids=["no hash", "seed", "proportion", "text", "twice", "no cells", "list"],
)
def test_a_plan_of_another_version_is_named_with_what_it_lacks(
    root: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    edit_plan(root, change)
    with pytest.raises(DataError, match=rf"studies/sketch/plan\.json: {reason}"):
        load_study("sketch", root=root)


def test_a_plan_or_settings_that_are_cut_are_named(root: Path) -> None:
    settings = root / "studies" / "sketch" / "study.yaml"
    settings.write_text("name: [sketch")
    with pytest.raises(DataError, match=r"study\.yaml: not YAML"):
        load_study("sketch", root=root)
    settings.write_text("- sketch")
    with pytest.raises(DataError, match=r"study\.yaml: expected settings \(key: value\) but found list"):
        load_study("sketch", root=root)
    cut(root / "studies" / "sketch" / "plan.json")
    with pytest.raises(UserError, match=r"plan\.json: not JSON"):
        load_study("sketch", root=root)
