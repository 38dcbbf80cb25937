"""docs/tables.md names every column that studies write."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pandas as pd
import pytest

import synthmix
from synthmix.analysis import load_study
from synthmix.analysis.record import write_record

REPOSITORY = Path(synthmix.__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "tables.md"
RECORDED = sorted((REPOSITORY / "experiments").glob("**/cells.csv"))
pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="not a checkout: docs/ is not there")


def documented(heading: str) -> list[str]:
    """Names in the first cells of the tables under a heading, as patterns: ``*`` is any text."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def undocumented(columns: list[str], patterns: list[str]) -> list[str]:
    literal = [pattern.replace("[", "[[]") for pattern in patterns]
    return [column for column in columns if not any(fnmatch.fnmatchcase(column, pattern) for pattern in literal)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_column_of_a_recorded_study_is_documented(path: Path) -> None:
    columns = list(pd.read_csv(path, nrows=1))
    assert len(columns) > 50 and undocumented(columns, documented("cells")) == []


def test_every_column_of_a_cell_is_documented(store: Path) -> None:
    study = load_study("sketch", root=store)
    own = ["model", "task", "mode", "proportion", "iteration", "seed", "hash", "parameters"]
    assert undocumented(list(study.cells), documented("cells")) == []
    assert undocumented(list(study.items.columns.drop(own)), documented("items")) == []
    assert undocumented(["test_made_up", "new"], documented("cells")) == ["test_made_up", "new"]
    assert undocumented(["made_up"], documented("items")) == ["made_up"]


def test_the_item_columns_of_the_evaluation_are_documented() -> None:
    """The evaluator's own list of what a row holds."""
    from synthmix.evaluation import evaluate

    listed = str(evaluate.__doc__).partition("Columns:")[2]
    columns = [
        name.replace("<name>", "any")
        for name in re.findall(r"[a-z_]+(?:<name>)?", " ".join(re.findall(r"``(.*?)``", listed, re.S)))
    ]
    assert {"split", "gold_tokens", "group_any", "samples_correct"} <= set(columns) and len(columns) > 20
    assert undocumented(columns, documented("items")) == []


def test_the_document_says_what_a_record_holds(store: Path, tmp_path: Path) -> None:
    record = load_study(write_record(load_study("sketch", root=store), tmp_path / "record"))
    rows = [line.split("|") for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    kept = [name for row in rows if len(row) == 5 and row[3].strip() for name in re.findall(r"`([^`]+)`", row[1])]
    for column in record.item_columns(record.done["name"].iloc[0]):
        assert undocumented([column], kept) == []
