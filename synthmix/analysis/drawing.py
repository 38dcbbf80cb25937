"""What all figures share: panels and their container, lines with intervals, axes, names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from synthmix.analysis.conditions import label
from synthmix.analysis.svg import Look, canvas, look, to_svg

#: More lines than this in one panel, and the panel is split by the next column.
MAX_LINES = 6
WIDTH, HEIGHT = 3.5, 2.6  # inches


@dataclass(frozen=True)
class Panel:
    """One drawing: ``title`` says which part of the study, ``svg`` is an element without external references."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """A figure of the report: panels that a page may wrap, one legend for all, one caption."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, Look]]
    columns: int = 3  #: panels side by side on a wide page


def draw(name: str, title: str, paint: Callable[[Axes], None], label_text: str) -> Panel:
    with canvas(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        paint(axes)
        return Panel(name, title, to_svg(figure, name, label_text))


def slug(*parts: object) -> str:
    return "-".join(re.sub(r"[^a-z0-9]+", "-", str(part).lower()).strip("-") for part in parts)


def varying(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    return [column for column in columns if frame[column].nunique() > 1]


def panels_and_lines(frame: pd.DataFrame, lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which columns tell panels apart (task first) and which tell lines apart, with few lines a panel."""
    panel, rest = ["task"], list(lines)
    while rest and max(len(g.drop_duplicates(rest)) for _, g in frame.groupby(panel)) > MAX_LINES:
        panel.append(rest.pop(0))
    return [c for c in panel if c == "task" or c in varying(frame, lines)], varying(frame, rest) or ["iteration"]


def groups(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    for key, group in frame.groupby(list(columns), sort=False):
        yield tuple(key), group


def looks_of(frame: pd.DataFrame, lines: Sequence[str]) -> dict[tuple[object, ...], Look]:
    keys = dict.fromkeys(tuple(row) for row in frame[list(lines)].itertuples(index=False))
    return {key: look(i) for i, key in enumerate(keys)}


def errorbar(axes: Axes, x: np.ndarray, rows: pd.DataFrame, y: str, mark: Look, scale: float = 1.0) -> None:
    middle, low, high = (scale * rows[f"{y}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    # An interval whose bias was moved back may end a hair beside its estimate; a bar cannot have a negative length.
    bars = np.clip([middle - low, high - middle], 0, None)
    axes.errorbar(
        x, middle, yerr=bars, color=mark.color, marker=mark.marker, linestyle=mark.style, elinewidth=1, capsize=2.5
    )


def share_axis(axes: Axes, frame: pd.DataFrame) -> None:
    """The same x axis in every panel: the study's shares, also where a panel has only some of them."""
    top = 100 * frame.proportion.max()
    axes.set(xticks=sorted(set(100 * frame.proportion)), xlim=(-0.06 * top - 1, 1.06 * top + 1))


def title_of(key: Sequence[object], columns: Sequence[str]) -> str:
    return label(dict(zip(columns, key, strict=True)), columns)


def uncertainty(frame: pd.DataFrame) -> str:
    """What the intervals of a frame of conditions cover, from its number of seeds."""
    seeds = sorted({int(n) for n in frame.n_seeds})
    if seeds == [1]:
        return "One seed only: the intervals cover the choice of test items, not variation between training runs."
    span = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"{span} seeds: the intervals cover the choice of test items and, as far as so few seeds can show it,"
        " variation between training runs."
    )
