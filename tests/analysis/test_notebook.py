"""What the notebooks show: on a page, as text, and of studies that lack most of it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from synthmix.analysis.drawing import Figure, Panel
from synthmix.analysis.notebook import NOTHING, line_figure, open_study, readable, show
from synthmix.analysis.printing import ITEMS, TASK, Column, Table
from synthmix.analysis.section import Section
from synthmix.analysis.svg import look
from synthmix.errors import UserError

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.py"))
SCORES = pd.DataFrame(
    {"task": ["a<b", "c"], "score": [0.5, 0.25], "score_low": [0.4, 0.2], "score_high": [0.6, 0.3], "n_items": 800}
)
TABLE = Table(
    "scores", "Scores", SCORES, [TASK, Column("score", "score, %", "percent interval"), ITEMS], "A note & more."
)
FIGURE = Figure("drawn", "A figure", "It shows < this.", [Panel("one", "left", "<svg><style>svg{}</style><g/></svg>")], [("0 %", look(0))])  # fmt: skip
SECTION = Section("part", "A part", ["First.", "Second > first."], [FIGURE], [TABLE])


class Tags(HTMLParser):
    """Tags that are open, and the text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("path", "rect", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if "style" in self.open else data


class TestShow:
    def test_page_has_everything_and_closes_every_tag(self) -> None:
        page = Tags(show(SECTION)._repr_html_())
        assert page.open == []
        for text in (
            "First.",
            "Second > first.",
            "A figure",
            "left",
            "It shows < this.",
            "a<b",
            "50.0 [40.0, 60.0]",
            "800",
        ):
            assert text in page.text
        assert "A note & more." in page.text and NOTHING not in page.text

    def test_drawings_take_the_colours_of_the_notebook(self) -> None:
        html = show(FIGURE)._repr_html_()
        assert html.count("<style>") == 1 and "svg{}" not in html
        assert "prefers-color-scheme" not in html and '[data-jp-theme-light="false"]' in html

    @pytest.mark.parametrize(
        "only, kept", [("sentences", "First."), ("figures", "It shows < this."), ("tables", "A note & more.")]
    )
    def test_only_some(self, only: str, kept: str) -> None:
        shown = str(show(SECTION, only=only))  # type: ignore[arg-type]
        others = {"First.", "It shows < this.", "A note & more."} - {kept}
        assert kept in shown and not any(text in shown for text in others)

    def test_long_tables_are_folded(self) -> None:
        long = Table("long", "Long", pd.concat([SCORES] * 13, ignore_index=True), TABLE.columns)
        assert "<summary>26 rows</summary>" in show(long)._repr_html_()
        assert "<summary>" not in show(TABLE)._repr_html_()

    @pytest.mark.parametrize(
        "part", [None, [], "", Section("x", "X", []), Table("t", "T", SCORES.iloc[:0], TABLE.columns)]
    )
    def test_says_that_there_is_nothing(self, part: object) -> None:
        shown = show(part)  # type: ignore[arg-type]
        assert str(shown) == f"- {NOTHING}" and NOTHING in shown._repr_html_()

    def test_parts_without_data_do_not_hide_others(self) -> None:
        assert str(show(None, "A sentence.", None)) == "- A sentence."

    def test_as_text(self) -> None:
        text = str(show(SECTION))
        assert text.startswith("- First.\n- Second > first.\n\nFigure: A figure (left)")
        assert "| c | 25.0 [20.0, 30.0] | 800 |" in text


def test_readable_table_has_headers_with_units() -> None:
    frame = readable(TABLE)
    assert list(frame.columns) == ["task", "score, %", "items"]
    assert frame["score, %"].tolist() == ["50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]"]


class TestLineFigure:
    frame = pd.DataFrame(
        {"task": ["a", "a", "b", "b"], "proportion": [0.0, 0.5, 0.0, 0.5], "iteration": [1, 1, 1, 2], "ece": [0.1, 0.2, 0.3, 0.4]}
    )  # fmt: skip

    def test_panels_lines_and_labels(self) -> None:
        figure = line_figure(
            self.frame, "proportion", "ece", title="T", caption="C", lines=["iteration"], labels=("share", "")
        )
        assert figure is not None
        assert [panel.title for panel in figure.panels] == ["a", "b"]
        assert [name for name, _ in figure.legend] == ["iteration 1", "iteration 2"]
        assert all(">share</text>" in panel.svg and ">ece</text>" in panel.svg for panel in figure.panels)

    def test_bars_where_there_are_intervals(self) -> None:
        wide = self.frame.assign(ece_low=self.frame.ece - 0.1, ece_high=self.frame.ece + 0.1)
        plain, barred = (
            line_figure(f, "proportion", "ece", title="T", caption="C", lines=["iteration"]) for f in (self.frame, wide)
        )
        assert plain is not None and barred is not None
        assert "LineCollection" in barred.panels[0].svg and len(barred.panels[0].svg) > len(plain.panels[0].svg)

    def test_any_column_tells_lines_apart(self) -> None:
        figure = line_figure(
            self.frame.assign(kind=["x", "y", "x", "y"]), "iteration", "ece", title="T", caption="C", lines=["kind"], panels=["kind"]
        )  # fmt: skip
        assert figure is not None and [panel.title for panel in figure.panels] == ["x", "y"]

    @pytest.mark.parametrize("frame", [frame.iloc[:0], frame.assign(ece=float("nan")), frame.drop(columns="ece")])
    def test_none_without_values(self, frame: pd.DataFrame) -> None:
        assert line_figure(frame, "proportion", "ece", title="T", caption="C", lines=["iteration"]) is None


class TestOpenStudy:
    def test_by_name_and_folder_from_the_folder_and_from_below(
        self, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "runs").symlink_to(store)
        for place in (tmp_path, tmp_path / "notebooks"):
            monkeypatch.chdir(place)
            for name in ("sketch", "runs/studies/sketch", store / "studies" / "sketch"):
                assert open_study(name).name == "sketch"

    def test_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="no-such-study"):
            open_study("no-such-study")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "design",
    [
        {"name": "one-run", "tasks": ["nano-math"], "proportions": [0.0, 0.3], "iterations": 1, "seeds": [0]},
        {"name": "started", "tasks": ["nano-code"], "iterations": 1, "seeds": [0], "planned": ["it1"]},
    ],
    ids=lambda design: design["name"],
)
def test_notebooks_go_through_a_study_that_lacks_most(
    path: Path, design: dict[str, object], make_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As scripts: one run a condition without a chain or a second model; phase 0 alone."""
    root = make_store(items=60, **design)
    monkeypatch.setenv("SYNTHMIX_STUDY", str(root / "studies" / str(design["name"])))
    monkeypatch.setattr(sys, "path", [*sys.path])  # the audit's folder is added to it
    runpy.run_path(str(path))
