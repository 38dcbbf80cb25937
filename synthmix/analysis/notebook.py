"""Sections, figures and tables of a study in a notebook (notebooks/README.md), which has no functions of its own.

Jupyter asks what a cell ends with for ``_repr_html_``; nothing here needs Jupyter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from synthmix.analysis.conditions import CONDITION, label
from synthmix.analysis.drawing import Figure, draw, errorbar, groups, looks_of, share_axis, slug
from synthmix.analysis.load import StudyData, load_study
from synthmix.analysis.printing import Table
from synthmix.analysis.section import Section
from synthmix.analysis.svg import SERIES, Look

Sentences = tuple[str, ...]
Part = Section | Figure | Table | Sequence[str] | str | None
Only = Literal["sentences", "figures", "tables"]
#: Rows beyond which a table is folded.
LONG_TABLE = 24
NOTHING = "Nothing to show: this study has no data for it."


def open_study(name: str | Path) -> StudyData:
    """A study by its folder, by the folder of its record, or by its name in ``runs``.

    Looked for in the working directory, the folder above it (for notebooks run in their own), and the checkout that
    this package comes from.

    Raises:
        UserError: it is in none of them; names a near match among the studies of ``./runs``.
        DataError: a file of the study cannot be read.
    """
    here = Path.cwd()
    for place in dict.fromkeys([here, here.parent, Path(__file__).resolve().parents[2]]):
        if (place / name / "plan.json").is_file():
            return load_study(place / name)
        if (place / "runs" / "studies" / name / "plan.json").is_file():
            return load_study(name, place / "runs")
    return load_study(name)


def show(*parts: Part, only: Only | None = None) -> Shown:
    """What a cell ends with to show sections, figures, tables and sentences, in this order of the arguments.

    Args:
        parts: None stands for what a study has no data for, and is said to be missing.
        only: of sections, their ``sentences``, ``figures`` or ``tables`` alone.
    """
    flat = [one for part in parts for one in _parts_of(part, only)]
    return Shown(tuple(flat) or ((NOTHING,),))


@dataclass(frozen=True)
class Shown:
    """Parts as one output: HTML that follows a notebook's light or dark theme, or Markdown where there is no page."""

    parts: tuple[Figure | Table | Sentences, ...]

    def _repr_html_(self) -> str:
        template = resources.files("synthmix.analysis") / "assets" / "notebook.html"
        page = _environment().from_string(template.read_text(encoding="utf-8"))
        return page.render(parts=self.parts, light=_series(0), dark=_series(1), long=LONG_TABLE)

    def __repr__(self) -> str:
        return "\n\n".join(_text(part) for part in self.parts)


def readable(table: Table) -> pd.DataFrame:
    """A table as it is printed: headers with units, values with their intervals, as text. ``table.frame`` has the
    numbers.

    >>> from synthmix.analysis.printing import SHARE, Column
    >>> scores = pd.DataFrame({"proportion": [0.3], "score": [0.5], "score_low": [0.42], "score_high": [0.58]})
    >>> columns = [SHARE, Column("score", "score, %", "percent interval")]
    >>> readable(Table("scores", "Scores", scores, columns)).to_dict("list")
    {'synthetic, %': ['30'], 'score, %': ['50.0 [42.0, 58.0]']}
    """
    rows = [[str(cell) for cell in row] for row in table.printed()]
    return pd.DataFrame(rows, columns=[column.header for column in table.columns])


def line_figure(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    title: str,
    caption: str,
    lines: Sequence[str],
    panels: Sequence[str] = ("task",),
    labels: tuple[str, str] = ("", ""),
    scale: float = 1.0,
) -> Figure | None:
    """Any column of a table against another: a panel for each value of ``panels``, a line for each of ``lines``.

    Bars are drawn where ``<y>_low`` and ``<y>_high`` exist. Rows without ``y`` are left out; None where no row has it.

    Args:
        caption: what the figure shows, and what it does not.
        labels: of the axes; an empty one is the column's name.
        scale: factor of ``y``, 100 for percent. An ``x`` of ``proportion`` is drawn in percent.
    """
    known = frame[frame[y].notna()] if y in frame else frame.iloc[:0]
    if known.empty:
        return None
    known = known.assign(**{end: np.nan for end in (f"{y}_low", f"{y}_high") if end not in known})
    looks = looks_of(known, lines)
    paint = partial(_paint_lines, known=known, x=x, y=y, lines=lines, looks=looks, labels=labels, scale=scale)
    drawn = [
        draw(slug("lines", x, y, *key), _words(key, panels), partial(paint, rows=rows), f"{title}: {_words(key, panels)}")
        for key, rows in groups(known, panels)
    ]  # fmt: skip
    legend = [(_words(key, lines), mark) for key, mark in looks.items()]
    return Figure(slug("lines", x, y), title, caption, drawn, legend)


def _paint_lines(
    axes: Axes, rows: pd.DataFrame, known: pd.DataFrame, x: str, y: str, lines: Sequence[str],
    looks: dict[tuple[object, ...], Look], labels: tuple[str, str], scale: float,
) -> None:  # fmt: skip
    factor = 100 if x == "proportion" else 1
    width = 0.03 * factor * float(known[x].max() - known[x].min())  # lines are set beside each other within it
    drawn = list(groups(rows, lines))
    for position, (key, line) in enumerate(drawn):
        line, aside = line.sort_values(x), width * (position / (len(drawn) - 1) - 0.5) if len(drawn) > 1 else 0.0
        errorbar(axes, factor * line[x].to_numpy(dtype=float) + aside, line, y, looks[key], scale)
    axes.set(xlabel=labels[0] or x, ylabel=labels[1] or y)
    if x == "proportion":
        share_axis(axes, known)


def _words(key: Sequence[object], columns: Sequence[str]) -> str:
    return ", ".join(
        label({column: value}, [column]) if column in CONDITION else str(value)
        for column, value in zip(columns, key, strict=True)
    )


# -- what is shown --------------------------------------------------------------------------------------------------


def _parts_of(part: Part, only: Only | None) -> Iterator[Figure | Table | Sentences]:
    if isinstance(part, Section):
        if part.sentences and only in (None, "sentences"):
            yield tuple(part.sentences)
        yield from part.figures if only in (None, "figures") else ()
        yield from part.tables if only in (None, "tables") else ()
    elif isinstance(part, Figure) or (isinstance(part, Table) and len(part.frame)):
        yield part
    elif part and not isinstance(part, Table):
        yield (part,) if isinstance(part, str) else tuple(part)


def _text(part: Figure | Table | Sentences) -> str:
    if isinstance(part, Figure):
        titles = ", ".join(panel.title for panel in part.panels if panel.title)
        return f"Figure: {part.title}{f' ({titles})' if titles else ''}\n{part.caption}"
    if isinstance(part, Table):
        return f"{part.title}\n\n{part.markdown()}\n{part.note}".rstrip()
    return "\n".join(f"- {sentence}" for sentence in part)


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["drawing"] = _drawing
    return environment


def _drawing(svg: str) -> Markup:
    """A drawing without a style of its own: that of a file follows the system's theme, a notebook has its own."""
    return Markup(re.sub(r"<style>.*?</style>", "", svg, flags=re.S))


def _series(which: int) -> str:
    return "; ".join(f"--series-{i}: {pair[which]}" for i, pair in enumerate(SERIES))
