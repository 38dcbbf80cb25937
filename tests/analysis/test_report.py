"""The report: one page that needs nothing else, in every state of a study."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from synthmix.analysis import Analysis, load_study, write_report
from synthmix.analysis.figures import score_figure
from synthmix.analysis.findings import calibration_sentences, diversity_sentences, duration, results
from synthmix.analysis.limits import limits
from synthmix.analysis.tables import score_table

Make = Callable[..., Path]
#: Elements that HTML closes by itself, and those of SVG that the drawings close with a slash.
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting, and collects ids, links and what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.captions = self.figures = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}> at {self.getpos()}"
        self.open.pop()

    def _note(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.figures += tag == "figure"
        self.captions += tag == "figcaption"
        self.ids += [attrs["id"]] if attrs.get("id") else []
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.loads.append(tag)
        self.loads += [f"{tag} src" for _ in [1] if "src" in attrs]
        if "href" in attrs:
            self.links.append(str(attrs["href"]))


@pytest.fixture(scope="module")
def written(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(load_study("sketch", root=store), tmp_path_factory.mktemp("report"))


def test_the_page_is_well_formed_and_loads_nothing(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.loads == []
    assert "http" not in text and "@import" not in text
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\((?!#)", text)


def test_every_figure_has_a_caption_and_follows_the_page_colours(written: Path) -> None:
    page = Page(written.read_text(encoding="utf-8"))
    drawn = [name for name in page.ids if name.startswith("figure-")]
    assert page.figures == page.captions == len(drawn)
    assert {"figure-score", "figure-iterations", "figure-reliability", "figure-diversity", "figure-timings"} <= set(
        drawn
    )
    drawings = re.findall(r'<svg role="img".*?</svg>', written.read_text(encoding="utf-8"), flags=re.S)
    assert len(drawings) == len(list((written.parent / "figures").glob("*.svg")))
    for svg in drawings:
        colours = set(re.findall(r"#[0-9a-f]{6}\b", svg))
        assert colours <= {"#000000", "#ffffff"}, f"a colour that does not follow the page: {colours}"
        assert "currentColor" in svg and "DejaVu" not in svg


def test_drawings_are_files_of_their_own_too(written: Path) -> None:
    files = sorted((written.parent / "figures").glob("*.svg"))
    names = [path.stem for path in files]
    for figure, panels in (("score", 2), ("iterations", 4), ("reliability", 2), ("curves", 2)):
        assert sum(name.startswith(f"{figure}-") for name in names) == panels, figure
    for path in files:
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_markdown_has_the_same_content_and_its_files(written: Path) -> None:
    text = (written.parent / "report.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (written.parent / link).is_file(), link
    page = html.unescape(written.read_text(encoding="utf-8"))
    for line in (line[2:] for line in text.splitlines() if line.startswith("- nano-")):
        assert line.replace(" ", "") in page.replace("\u00a0", "").replace("\u2011", "-").replace(" ", "")
    assert "synthmix run store/studies/sketch/study.yaml" in text and "torch: 2.13.0" in text


def test_tables_beside_the_page(written: Path) -> None:
    folder = written.parent
    cells, items = pd.read_csv(folder / "cells.csv"), pd.read_parquet(folder / "items.parquet")
    assert len(cells) == 36 and len(items) == 36 * 400
    text = (folder / "report.md").read_text(encoding="utf-8")
    score = pd.read_csv(folder / "score.csv")
    for value, low, high in zip(score.score, score.score_low, score.score_high, strict=True):
        assert f"| {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] |" in text
    for p in score.p_bonferroni.dropna():
        assert f"| {'<0.001' if p < 0.001 else f'{p:.3f}'} |" in text


def test_the_headline_is_the_known_effect(store: Path) -> None:
    """True loss at 50 %, iteration 2: 30 points in every item of nano-math that was near the threshold."""
    analysis = Analysis(load_study("sketch", root=store), resamples=300)
    said = results(analysis)
    assert said[0].startswith("Of 12 comparisons with the 0 % control,") and "0 higher" in said[0]
    (math,) = [s for s in said if s.startswith("nano-math") and "below the control" in s]
    row = analysis.conditions.query("task == 'nano-math' and iteration == 2 and proportion == 0.5").iloc[0]
    assert (
        f"{-100 * row.difference:.1f} points [{-100 * row.difference_high:.1f}, {-100 * row.difference_low:.1f}]"
        in math
    )
    assert "distinguishable" in math and "not distinguishable" not in math
    assert any("one confidence estimator" in s for s in calibration_sentences(analysis))
    assert any("state a training question again" in s and "108" in s for s in diversity_sentences(analysis))


def test_no_effect_is_not_called_safe(make_store: Make) -> None:
    root = make_store(effect=0.0, tasks=("nano-math",), seeds=(0,), iterations=1)
    said = " ".join(results(Analysis(load_study("sketch", root=root), resamples=200)))
    assert "cannot be told from no difference" in said and "does not make them safe" in said
    assert "not distinguishable from no difference" in said


def test_a_design_that_could_not_be_met_is_said(make_store: Make) -> None:
    pool = {"design": {"move": "quality", "level": 0.8, "missing": 3, "relaxed": 1}}
    root = make_store(tasks=("nano-math",), iterations=0, seeds=(0,), pool=pool)
    said = " ".join(limits(Analysis(load_study("sketch", root=root), resamples=20)))
    assert "nano-math: the design (quality at 0.8) could not be met everywhere: 3 samples are not as the level" in said
    met = {"design": pool["design"] | {"missing": 0, "relaxed": 0}}
    root = make_store(tasks=("nano-math",), iterations=0, seeds=(0,), pool=met)
    assert "the design" not in " ".join(limits(Analysis(load_study("sketch", root=root), resamples=20)))


def test_what_is_wrong_with_the_data_is_said(make_store: Make) -> None:
    data = {"note": "the training set is half of the dev set.", "excluded": {"train: no label": 3}}
    said = " ".join(limits(Analysis(load_study("sketch", root=make_store(iterations=1, data=data)), resamples=50)))
    assert "nano-math: the training set is half of the dev set." in said
    assert "nano-facts: 3 published records left out (train: no label 3)." in said


def test_limits_are_said_where_they_hold(make_store: Make) -> None:
    root = make_store(
        tasks=("nano-math",), base=0.3, seeds=(0,), iterations=1, failed=("replace-0.it1",), planned=("replace-50",)
    )
    said = " ".join(limits(Analysis(load_study("sketch", root=root), resamples=50)))
    for words in (
        "1 cell failed",
        "1 cell not finished",
        "one training run",
        "is below 50 %: a loss has less room to show",
        "no finished 0 % chain",
    ):
        assert words in said, words


STATES = {
    "nothing finished": {"planned": ("nano",)},
    "all failed": {"failed": ("nano",), "seeds": (0,)},
    "one cell": {"tasks": ("nano-math",), "seeds": (0,), "iterations": 0, "items": 60},
    "baselines only": {"iterations": 0, "items": 60},
    "no control": {"proportions": (0.3,), "iterations": 1, "seeds": (0,), "items": 60},
    "in part": {"failed": ("nano-math.replace-0.it1",), "planned": ("nano-facts", "it2"), "seeds": (0,), "items": 60},
    "one proportion": {"proportions": (0.0,), "iterations": 2, "items": 60},
    "two seeds, one share": {"tasks": ("nano-math",), "proportions": (0.0, 0.3), "iterations": 1, "items": 60},
    "all right": {"tasks": ("nano-math",), "base": 2.0, "effect": 0.0, "iterations": 2, "items": 60},
    "all wrong": {"tasks": ("nano-math",), "base": -1.0, "effect": 0.0, "iterations": 2, "items": 60},
    "few items": {"tasks": ("nano-code",), "items": 4, "seeds": (0,), "iterations": 1},
    "modes and models": {
        "tasks": ("nano-code",), "models": ("nano-0.9m", "nano-3m"), "modes": ("replace", "augment"), "seeds": (0,),
        "proportions": (0.0, 0.5), "items": 60,
    },
}  # fmt: skip


#: What the page must say of a state, where a number alone would mislead.
SAID = {
    "one proportion": ("No condition with synthetic text has a finished 0",),
    "two seeds, one share": ("Two seeds show the variation", "A single comparison does not tell"),
    "all right": ("no item is scored differently", "Every item is right in 9 of 9 conditions"),
    "all wrong": ("no item is scored differently", "Every item is wrong in 9 of 9 conditions"),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_study_has_a_report(make_store: Make, tmp_path: Path, state: str) -> None:
    root = make_store(**STATES[state])
    study = load_study("sketch", root=root)
    text = write_report(study, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.figures == page.captions
    assert not re.search(r"\b(nan|None|NaN)\b", text)
    assert f"{len(study.done)} of {len(study.cells)} done" in text
    if state in ("all failed", "in part"):
        assert "StoreError: &lt;no space&gt; left on the disk" in text
    for words in SAID.get(state, ()):
        assert words in text, words
    if study.done.empty:
        assert "No cell has finished, so there is no result." in text and page.figures == 0


def test_texts_are_shown_escaped_and_real_beside_synthetic(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    assert "figs &amp; &lt;b&gt;buys&lt;/b&gt; 7." in text and "<b>buys" not in text
    assert "<h4>Real</h4>" in text and "<h4>Synthetic</h4>" in text


def test_pool_texts_stand_in_where_a_cell_kept_no_examples(make_store: Make, tmp_path: Path) -> None:
    root = make_store(tasks=("nano-math",), seeds=(0,), iterations=0, items=30)
    next(root.glob("cells/*/examples.json")).unlink()
    text = write_report(load_study("sketch", root=root), tmp_path).read_text(encoding="utf-8")
    assert "Question: Cy?" in text and "Written by the model of" in text


def test_captions_say_what_the_intervals_cover(make_store: Make) -> None:
    one = Analysis(load_study("sketch", root=make_store(seeds=(0,), items=60, iterations=1)), resamples=50)
    two = Analysis(load_study("sketch", root=make_store(seeds=(0, 1), items=60, iterations=1)), resamples=50)
    first, second = (figure.caption for analysis in (one, two) if (figure := score_figure(analysis)))
    assert "One seed only" in first and "not variation between training runs" in first
    assert second.count("2 seeds") == 1


def test_estimators_that_disagree_clearly_are_named(make_store: Callable[..., Path]) -> None:
    """The sketch's mean confidence rises with the share and its ninth power falls away from the score."""
    root = make_store(tasks=["nano-math"], proportions=[0.0, 0.5], seeds=[0], items=3000)
    analysis = Analysis(load_study("sketch", root=root), resamples=200)
    disagree = "The ECE rises under one confidence estimator and falls under another"
    assert any(s.startswith(disagree) for s in calibration_sentences(analysis))
    said = results(analysis)
    assert "Each of them compares one training run with one other" in said[0]
    assert any("after Bonferroni, one run each" in s for s in said)


def test_a_share_that_is_not_the_nominal_one_is_said(make_store: Callable[..., Path]) -> None:
    root = make_store(tasks=["nano-math"], modes=["replace", "accumulate"], proportions=[0.0, 0.5], seeds=[0])
    for path in root.glob("cells/*accumulate-50.it2*/result.json"):
        result = json.loads(path.read_text())
        result["mixture"]["proportion_realised"] = 2 / 3
        result["train"]["steps"] = 10 * result["train"]["steps"]
        path.write_text(json.dumps(result))
    analysis = Analysis(load_study("sketch", root=root), resamples=50)
    assert any("with 50 % synthetic text (67 % of the training set)" in s for s in results(analysis))
    assert any("With accumulate the training set is larger" in s for s in limits(analysis))
    figure = score_figure(analysis)
    assert figure is not None
    assert "1 condition was trained on another (67 to 67 %" in figure.caption
    table = score_table(analysis)
    assert "The control took fewer steps than accumulate" in table.note


@pytest.mark.parametrize(("seconds", "said"), [(42, "42 s"), (720, "12 min"), (12240, "3.4 h")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
