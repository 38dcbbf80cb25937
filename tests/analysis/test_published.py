"""The published numbers: as they are printed, found where they lie, and checked when they are read."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from synthmix.analysis.paper import published as module
from synthmix.analysis.paper.published import FAMILIES, Published, load_published, published_files, refit
from synthmix.errors import DataError, UserError

FILE = Path(__file__).parents[2] / "experiments" / "paper" / "published.yaml"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(FILE)


def test_numbers_are_those_of_the_tables(published: Published) -> None:
    assert published.table1.score("Math", 30) == 19.3
    assert published.table1.score("Code", 50) == 10.4
    assert [row.synthetic for row in published.table2.rows] == [5.1, 11.8, 19.3, 24.1]
    assert {row.task: row.rank for row in published.table3.rows}["Code"] == 2
    assert published.table4.ece == [0.08, 0.14, 0.21, 0.28]
    assert published.safe.proportions == {"pythia-410m": 15, "pythia-1.4b": 18, "pythia-6.9b": 23, "pythia-12b": 27}
    assert (published.early_warning.precision, published.early_warning.recall) == (91, 87)
    assert published.budgets.proportions["Code"] == [10, 15]
    assert sum(about.test_items for about in published.tasks.values()) == 1221 + 1319 + 3610 + 11873 + 164


def test_printed_losses_follow_from_printed_scores(published: Published) -> None:
    """Tables 2 and 3 round their own scores, so a slip of the pen here would show."""
    for row in published.table2.rows:
        assert row.points == pytest.approx(row.synthetic - row.baseline, abs=0.051)
        assert row.relative == pytest.approx(100 * (row.synthetic / row.baseline - 1), abs=0.51)
    for third in published.table3.rows:
        assert third.relative == pytest.approx(100 * (third.synthetic / third.baseline - 1), abs=0.51)
        assert third.synthetic == published.table1.score(third.task, published.table3.proportion)


def test_quotes_hold_the_numbers_that_stand_beside_them(published: Published) -> None:
    quotes, warning = published.quotes, published.early_warning
    assert f"{warning.precision:g}% precision and {warning.recall:g}% recall" in quotes["early_warning"].text
    assert f"R² = {published.equation3.r_squared:g}" in quotes["equation3_r_squared"].text
    assert f"{published.equation3.intercept:g}% + {published.equation3.slope:g}%" in quotes["equation3"].text
    for block, name in ((published.slopes.below, "slopes_below"), (published.slopes.above, "slopes_above")):
        assert f"{block[0]:g}-{block[1]:g}" in quotes[name].text
    assert published.quote("accelerates").endswith("(abstract)")


def test_relative_losses(published: Published) -> None:
    assert published.table1.relative("Math") == pytest.approx([0, 0.0166, 0.0539, 0.1992, 0.4108], abs=1e-4)
    assert all(published.table1.relative(task)[0] == 0 for task in FAMILIES)


def test_refit_is_the_least_squares_line(published: Published) -> None:
    law = refit(published)
    sizes = np.log10(np.array([0.41, 1.4, 6.9, 12]))
    slope, intercept = np.polyfit(sizes, [15, 18, 23, 27], 1)
    assert (law.slope.estimate, law.intercept.estimate) == pytest.approx((slope, intercept))
    assert (slope, intercept, law.r_squared) == pytest.approx((7.8, 17.5, 0.965), abs=0.05)
    printed = published.equation3.intercept + published.equation3.slope * math.log10(6.9)
    assert law.predict(6.9e9).estimate - printed > 9, "Eq. 3 as printed is another line"


def test_an_installed_package_has_the_same_file() -> None:
    installed = published_files()[-1]
    assert installed.parent.name == "assets" and installed.read_bytes() == FILE.read_bytes()


def test_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "experiments" / "paper" / "published.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(FILE.read_text(encoding="utf-8").replace("precision: 91", "precision: 12"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_published().early_warning.precision == 12
    own.unlink()
    assert load_published().early_warning.precision == 91


def test_no_file_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "published_files", lambda: [tmp_path / "published.yaml"])
    with pytest.raises(UserError, match="the paper's numbers were not found; looked for .*published.yaml"):
        load_published()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t["table1"].pop("scores"), "table1.scores: .*missing"),
        (lambda t: t.pop("table4"), "table4: .*missing"),
        (lambda t: t["table1"].update(scors=3), "table1.scors: .*Did you mean: 'scores'"),
        (lambda t: t["safe"].update(margin="ten"), "safe.margin: Value 'ten'"),
        (lambda t: t["table1"]["scores"].pop("Math"), "table1.scores lacks Math"),
        (lambda t: t["table1"]["scores"]["Math"].pop(), "table1.scores.Math has 4 values; expected 5"),
        (lambda t: t["table4"]["ece"].append(0.3), "table4.ece has 5 values; expected 4"),
        (lambda t: t["budgets"]["proportions"].update(Mat=[1, 2]), "unknown name 'Mat'. Did you mean 'Math'?"),
        (lambda t: t.update(table1=[1]), "list"),
    ],
)
def test_a_file_that_is_not_as_expected(change: Change, expected: str, tmp_path: Path) -> None:
    tree = copy.deepcopy(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    change(tree)
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(DataError, match=expected) as raised:
        load_published(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(("content", "expected"), [(b"a: [", "not YAML"), (b"- 1", "not list"), (b"\xff", "not YAML")])
def test_a_file_that_is_no_yaml(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        load_published(path)
