"""Matplotlib drawings as SVG that follows the page: its colours in light, dark and print, its fonts, its width.

A drawing uses placeholder colours; afterwards each is replaced by a CSS variable (``var(--series-2)``) or by
``currentColor``. Text stays text. Each panel of a figure is a drawing of its own, so that a page can wrap them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

#: Okabe and Ito's colour-blind safe palette, without the yellow that white paper swallows; first for light pages,
#: then the same hues lightened for dark ones.
SERIES = (
    ("#0072b2", "#4aa3df"),
    ("#d55e00", "#f0843c"),
    ("#009e73", "#2cc295"),
    ("#aa4499", "#d98bc4"),
    ("#b07d00", "#e6b33c"),
    ("#2a8fbd", "#7cc8f0"),
)
MARKERS = ("s", "^", "D", "v", "P", "p")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_DASHES = {"-": "none", "--": "5 2.5", "-.": "7 2 1.5 2", ":": "1.5 2"}
_SHAPES = {
    "o": "M11.5 5a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "s": "M11.8 1.8h6.4v6.4h-6.4z",
    "^": "M15 1l4 8h-8z",
    "D": "M15 .5L19.5 5 15 9.5 10.5 5z",
    "v": "M15 9l4-8h-8z",
    "P": "M13.5 1h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
    "p": "M15 1l4 3-1.5 5h-5l-1.5-5z",
}
#: Stand-ins that the drawing uses, and what they become.
INK, FAINT = "#010203", "#040506"
_PLACEHOLDERS = {INK: "currentColor", FAINT: "var(--faint)"}
_PLACEHOLDERS |= {f"#0a0b{i:02x}": f"var(--series-{i})" for i in range(len(SERIES))}
NEUTRAL = INK

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "synthmix",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of one line; every line differs in all three, so that no reader depends on colour."""

    color: str
    marker: str
    style: str | tuple[int, tuple[int, ...]]
    css: str

    def key(self, filled: bool = False) -> str:
        """The legend's little drawing of it: line and marker, or (``filled``) a patch of colour."""
        paint = f'style="fill: {self.css}"'
        if filled:
            inside = f'<rect x="6" width="18" height="10" {paint}/>'
        else:
            dash = _DASHES.get(str(self.style), "5 2 1 2")
            line = f'style="stroke: {self.css}; stroke-width: 1.8; stroke-dasharray: {dash}"'
            inside = f'<line x1="0" y1="5" x2="30" y2="5" {line}/><path d="{_SHAPES[self.marker]}" {paint}/>'
        return f'<svg viewBox="0 0 30 10" width="30" height="10" aria-hidden="true">{inside}</svg>'


def look(index: int) -> Look:
    """The look of line ``index``; ``-1`` is the neutral one, for controls."""
    if index < 0:
        return Look(NEUTRAL, "o", STYLES[1], "currentColor")
    i = index % len(SERIES)
    return Look(f"#0a0b{i:02x}", MARKERS[i], STYLES[i], f"var(--series-{i})")


@contextmanager
def canvas(width: float, height: float, left: float = 0.6) -> Iterator[Figure]:
    """A figure of ``width`` by ``height`` inches, without pyplot's global state.

    Margins are fixed (``left`` in inches), so that the panels of a figure line up; matplotlib's layout engines would
    fit each for itself, and take half of the drawing time.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(
            left=left / width, right=1 - 0.1 / width, bottom=0.46 / height, top=1 - 0.1 / height, hspace=0.12
        )
        yield figure


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as one ``<svg>`` element without anything that a browser would load.

    Args:
        name: prefix of every id, unique on the page.
        label: what a screen reader says.
    """
    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return _tidy(text.getvalue(), name, label)


def _tidy(svg: str, name: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.S)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'<svg height="[\d.]+pt"|<svg', "<svg", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\swidth="([\d.]+)pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="([\d.]+)pt"', r"\1", svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#([^")]+)', rf"\1#{name}-\2", svg)
    for placeholder, css in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, css)
    # The page's font: as "font: 9px 'DejaVu Sans'" in some versions of matplotlib, as "font-family: ..." in others.
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1)


#: What an axis' label reaches over a drawing's left edge, in its units.
LABEL = 14


def standalone(svg: str) -> str:
    """The same drawing as a file of its own, which follows the viewer's light or dark setting."""
    light = ";".join(f"--series-{i}:{pair[0]}" for i, pair in enumerate(SERIES))
    dark = ";".join(f"--series-{i}:{pair[1]}" for i, pair in enumerate(SERIES))
    style = (
        f"<style>svg{{color:#1c2024;--faint:#dfe3e7;{light};font-family:sans-serif}}"
        f"@media(prefers-color-scheme:dark){{svg{{color:#e4e7ea;--faint:#3a4047;{dark}}}}}</style>"
    )
    head, body = svg.split(">", 1)
    # a page leaves room for the axis' label beside a drawing; a file of its own has only what is inside its box
    head = re.sub(r'viewBox="0 0 ([\d.]+)', lambda found: f'viewBox="-{LABEL} 0 {float(found[1]) + LABEL:g}', head)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{body}'
