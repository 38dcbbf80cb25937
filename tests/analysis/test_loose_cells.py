"""Cells without a plan, of one store or of several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from synthmix.analysis import Analysis, load_study
from synthmix.analysis.loose_cells import load_cells
from synthmix.errors import UserError

Make = Callable[..., Path]


def describe(root: Path, study: str, **settings: Any) -> None:
    """``config.yaml`` of every cell, in the form that a cell writes it."""
    for folder in root.glob("cells/*"):
        plan = json.loads(next(root.glob("studies/*/plan.json")).read_text())
        (cell,) = [cell for cell in plan["cells"] if cell["name"] == folder.name]
        config = {"cell": cell, "model": {"name": cell["model"]}, "study": {"name": study} | settings}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture
def root(make_store: Make) -> Path:
    """Six cells of a study on arithmetic, with their settings."""
    root = make_store(tasks=("nano-math",), iterations=1, proportions=(0.0, 0.5), items=40)
    describe(root, "sketch", evaluation={"bins": 10, "p_true": False}, generation={"filter": "none"})
    return root


@pytest.fixture
def other(make_store: Make) -> Path:
    """Six cells of another study on facts, with other settings."""
    root = make_store(name="facts", tasks=("nano-facts",), iterations=1, proportions=(0.0, 0.5), items=40)
    describe(root, "facts", evaluation={"bins": 10, "p_true": True}, generation={"filter": "none"})
    return root


def test_cells_of_a_store_without_its_plan_are_the_study(root: Path) -> None:
    study = load_study("sketch", root=root)
    before = Analysis(study, resamples=50).conditions
    shutil.rmtree(root / "studies")
    for place in (root, root / "cells", str(root / "cells" / "*"), sorted((root / "cells").iterdir())):
        loose = load_cells(place)
        pd.testing.assert_frame_equal(loose.cells[study.cells.columns], study.cells)
        assert set(loose.cells.study) == {"sketch"} and loose.notes == []
    pd.testing.assert_frame_equal(Analysis(loose, resamples=50).conditions[before.columns], before)
    assert loose.config == {
        "name": "sketch",
        "evaluation": {"bins": 10, "p_true": False},
        "generation": {"filter": "none"},
    }


def test_cells_of_several_studies_are_one_table(root: Path, other: Path) -> None:
    both = load_cells([root, other / "cells" / "*baseline*"], name="both")
    assert both.name == "both" and len(both.done) == 6 + 2
    assert both.cells.groupby("study").task.unique().map(list).to_dict() == {
        "facts": ["nano-facts"],
        "sketch": ["nano-math"],
    }
    assert len(both.items) == 8 * 2 * 40 and len(both.verify().done) == 8
    assert both.config == {"evaluation": {"bins": 10}, "generation": {"filter": "none"}}, "what they share"
    assert both.notes == ["The cells were not all computed with the same settings: evaluation.p_true (False, True)."]


def test_a_cell_found_twice_is_one_and_the_finished_one(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    for path in sorted(root.glob("cells/*/result.json"))[:3]:
        path.unlink()
    study = load_cells([root, copy, root])
    assert len(study.cells) == 6 and len(study.done) == 6
    assert len(load_cells(root).done) == 3, "the other three are begun and not finished"


def test_the_same_point_with_other_settings_is_refused_with_the_difference(make_store: Make, root: Path) -> None:
    filtered = make_store(name="filtered", tasks=("nano-math",), iterations=1, proportions=(0.0, 0.5), items=40)
    describe(filtered, "filtered", evaluation={"bins": 10, "p_true": False}, generation={"filter": "verified"})
    with pytest.raises(
        UserError, match=r"with other settings \(generation\.filter: none and verified\); load them apart"
    ):
        load_cells([root, filtered])
    describe(filtered, "filtered", evaluation={"bins": 10, "p_true": False}, generation={"filter": "none"})
    with pytest.raises(UserError, match=r"the code or the data changed"):
        load_cells([root, filtered])


def test_damaged_cells_are_set_aside_and_unknown_ones_named(root: Path) -> None:
    first, second, *_ = sorted((root / "cells").iterdir())
    (first / "result.json").write_text('{"name": ')
    (second / "result.json").write_text("{")
    (second / "config.yaml").write_text("cell: [")
    study = load_cells(root)
    assert study.cells.set_index("name").status[first.name] == "damaged", "config.yaml says which it is"
    assert second.name not in set(study.cells["name"]) and len(study.done) == 4
    assert any(note.startswith(f"Left out: {second.name}: neither result.json nor config.yaml") for note in study.notes)


def test_a_failed_cell_says_what_it_said(root: Path) -> None:
    folder = next(root.glob("cells/*replace-50*"))
    (folder / "result.json").unlink()
    (folder / "failure.json").write_text('{"error": "StoreError: no space"}')
    row = load_cells(root).cells.set_index("name").loc[folder.name]
    assert (row.status, row.error, row.proportion) == ("failed", "StoreError: no space", 0.5)


def test_a_place_without_cells_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: there is no such folder; expected cells' folders, a store"):
        load_cells([root, tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no cell there"):
        load_cells(tmp_path)
