"""Curves over the synthetic share: the safe proportion, the polynomial, and whether there is a break."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from synthmix.analysis.comparisons import named
from synthmix.analysis.conditions import Analysis, percent
from synthmix.analysis.drawing import HEIGHT, WIDTH, Figure, Panel, slug
from synthmix.analysis.printing import ITEMS, ITERATION, MODE, MODEL, SEEDS, TASK, Column, Table, make_table
from synthmix.analysis.section import Section
from synthmix.analysis.shapes.chains import MAX_SENTENCES, Chain, brackets, name_of, share_chains
from synthmix.analysis.svg import INK, Look, canvas, look, to_svg
from synthmix.statistics import Interval
from synthmix.statistics.curves import Curve
from synthmix.statistics.safe_proportion import SafeProportion, safe_proportion
from synthmix.statistics.shapes import ALIKE, Polynomial, Segmented, curve_polynomial, isotonic, segmented

#: A turning or inflection point that fewer draws have is not stated.
FOUND = 0.95


@dataclass(frozen=True)
class Shape:
    """Everything that is said of one curve; without a control above 0 there is no safe proportion."""

    chain: Chain
    curve: Curve
    safe: SafeProportion | None
    polynomial: Polynomial
    segments: Segmented


def curve_section(analysis: Analysis) -> Section | None:
    """Score over the synthetic share, for every model, task, mode and iteration with three shares or more.

    None where no cell with synthetic data has finished.
    """
    chains = share_chains(analysis)
    if not chains:
        return None
    shapes = [_shape(chain, chain.curve, analysis.margin_relative) for chain in chains if chain.curve is not None]
    sentences = [*_findings(shapes, analysis.margin_relative), *_limits(chains, shapes)]
    drawn = [shape for shape in shapes if shape.safe is not None]
    figures = [_figure(drawn, analysis.margin_relative)] if drawn else []
    return Section("curves", "Curves over the synthetic share", sentences, figures, [_table(shapes)] if shapes else [])


def safe_words(safe: SafeProportion) -> str:
    """A safe proportion in percent, with what is not known of it: ``23 % [15, 31]``, ``above 50 % [38, –]``."""
    value = safe.interval.estimate
    words = percent(round(value, 3)) if not (safe.above or safe.below) else ""
    words = f"above {percent(safe.last)}" if safe.above else f"below {percent(safe.first)}" if safe.below else words
    return f"{words} % {brackets(safe.interval.low, safe.interval.high, lambda p: percent(round(p, 3)))}"


# -- sentences ------------------------------------------------------------------------------------------------------


def _shape(chain: Chain, curve: Curve, margin: float) -> Shape:
    safe = safe_proportion(curve, margin) if curve.means[0] > 0 else None
    return Shape(chain, curve, safe, curve_polynomial(curve), segmented(curve))


def _findings(shapes: Sequence[Shape], margin: float) -> Iterator[str]:
    known = [shape for shape in shapes if shape.safe is not None and not shape.chain.constant]
    if not known:
        return
    located = [s for s in known if s.safe and not (s.safe.above or s.safe.below)]
    above = sum(s.safe.above for s in known if s.safe)
    yield (
        f"The safe proportion is the largest share that costs less than {percent(margin)} % of the control's score. Of"
        f" {_curves(len(known))} it lies within the measured shares on {len(located)}, above all of them on {above},"
        f" below the smallest on {len(known) - len(located) - above}. Beyond the measured shares nothing is said."
    )
    chains = [shape.chain for shape in shapes]
    for shape in known[:MAX_SENTENCES]:
        yield _sentence(shape, name_of(shape.chain, chains))
    if len(known) > MAX_SENTENCES:
        yield f"These are the first {MAX_SENTENCES} of {_curves(len(known))}; the table has all of them."


def _sentence(shape: Shape, name: str) -> str:
    curve, safe = shape.curve, shape.safe
    assert safe is not None
    words = f"{name}: the safe proportion is {safe_words(safe)}"
    if safe.above:
        words += ", for the loss does not reach the margin"
    if safe.above and safe.interval.low < safe.last:
        words += f", but that is shown only up to {percent(round(safe.interval.low, 3))} %"
    elif not safe.above and math.isinf(safe.interval.high):
        words += "; that the loss stays below the margin everywhere cannot be ruled out"
    seeds = "one training run a share" if curve.n_seeds == 1 else f"{curve.n_seeds} seeds"
    return f"{words} ({seeds}, {curve.n_items:,} items). {_break_words(shape)}"


def _break_words(shape: Shape) -> str:
    segments, polynomial = shape.segments, shape.polynomial
    if segments.break_at is None:
        return f"No evidence of a break: {segments.reason}."
    at = segments.break_at
    words = f"AICc prefers a break ({segments.shape}) at {percent(round(at.estimate, 3))} % "
    words += f"{brackets(at.low, at.high, lambda p: percent(round(p, 3)))} to a straight line"
    if min(polynomial.aicc.values()) < segments.aicc[str(segments.shape)] + ALIKE:
        return f"{words}; a smooth curve fits as well, so that it need not be a corner."
    return f"{words}, and to a smooth curve."


def _limits(chains: Sequence[Chain], shapes: Sequence[Shape]) -> Iterator[str]:
    without = [chain for chain in chains if chain.curve is None]
    for reason in dict.fromkeys(chain.reason for chain in without):
        names = [name_of(chain, chains) for chain in without if chain.reason == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"No curve and no safe proportion where there are {_few(reason)}: {'; '.join(names[:3])}{more}."
    for shape in shapes:
        name = name_of(shape.chain, chains)
        if shape.chain.constant:
            yield f"{name}: every item of every cell has the same score, so that the curve shows nothing."
        elif shape.safe is None:
            yield f"{name}: the control scores 0, so that no loss is relative to it, and no proportion safe or unsafe."
        if shape.chain.left_out:
            yield f"{name}: {shape.chain.left_out}."
    if any(shape.curve.n_seeds == 1 for shape in shapes):
        yield (
            "Curves of one training run a share: their intervals cover the choice of items, not variation between"
            " runs, and a dent in the curve may be that of a single run."
        )


def _few(reason: str) -> str:
    """A reason as what there is: ``no finished 0 % control``, ``2 shares (three are needed)``."""
    return f"{reason} (three are needed)" if reason[0].isdigit() else reason


def _curves(n: int) -> str:
    return "1 curve" if n == 1 else f"{n} curves"


# -- table ----------------------------------------------------------------------------------------------------------

_COLUMNS = (
    TASK, MODEL, MODE, ITERATION, Column("points", "shares", "count"), Column("safe_text", "safe proportion, %"),
    Column("polynomial", "polynomial (AICc)"), Column("break_text", "break, %"),
    Column("slope", "last slope, points a point", "decimal interval"), ITEMS, SEEDS,
)  # fmt: skip
#: Columns of the CSV alone.
_NUMBERS = [
    *(f"{name}{end}" for name in ("safe", "break") for end in ("", "_low", "_high")),
    "aicc_constant", "aicc_line", "aicc_quadratic", "aicc_cubic", "aicc_flat_then_line", "aicc_two_lines",
]  # fmt: skip


def _table(shapes: Sequence[Shape]) -> Table:
    frame = pd.DataFrame([_row(shape) for shape in shapes])
    margin = next((percent(s.safe.margin) for s in shapes if s.safe), "10")
    note = (
        f"Safe proportion: the largest share whose loss is below {margin} % of the control's score, on the non-increasing"
        " (isotonic) fit, lines between points; above or below where the curve crosses the margin outside the measured"
        " shares; a dash for an end that cannot be told; an end below the smallest share is printed as 0. Polynomials of"
        " degree 0 to 3 and breaks are chosen by AICc from generalised least squares; with four shares it allows no"
        " degree above 1, and a break takes five shares. Brackets are 95 % intervals from draws of the whole curve, seeds"
        " and items random, each for itself and not corrected for the number of curves."
    )
    table = make_table("curves", "Safe proportion and shape of every curve", frame, _COLUMNS, note)
    return replace(table, constant=[*table.constant, *_NUMBERS])


def _row(shape: Shape) -> dict[str, Any]:
    curve, safe, segments = shape.curve, shape.safe, shape.segments
    row: dict[str, Any] = {c: shape.chain.about[c] for c in ("task", "model", "mode", "iteration")}
    row |= {"points": len(curve.x), "n_items": curve.n_items, "n_seeds": curve.n_seeds}
    told = safe is not None and not shape.chain.constant
    row["safe_text"] = safe_words(safe).replace(" % ", " ") if safe and told else ""
    row |= named("safe", safe.interval if safe and told else None)
    row["polynomial"] = _polynomial_words(shape.polynomial)
    row["break_text"] = _break_cell(segments)
    row |= named("break", segments.break_at) | named("slope", segments.slopes[-1] if segments.slopes else None)
    names = {0: "constant", 1: "line", 2: "quadratic", 3: "cubic"}
    row |= {f"aicc_{name}": shape.polynomial.aicc[degree] for degree, name in names.items()}
    return row | {f"aicc_{n.replace(' ', '_')}": segments.aicc[n] for n in ("flat then line", "two lines")}


def _polynomial_words(chosen: Polynomial) -> str:
    if chosen.degree is None:
        return "not testable"
    words = [f"degree {chosen.degree}"]
    for feature in chosen.features:
        if feature.found >= FOUND:
            words.append(f"{feature.kind} at {_place(feature.at)}")
    return ", ".join(words)


def _break_cell(segments: Segmented) -> str:
    if segments.break_at is not None:
        return f"{_place(segments.break_at)}, {segments.shape}"
    return "not testable" if segments.shape is None else "none"


def _place(at: Interval) -> str:
    return f"{percent(round(at.estimate, 3))} {brackets(at.low, at.high, lambda p: percent(round(p, 3)))}"


# -- figure ---------------------------------------------------------------------------------------------------------


def _figure(shapes: Sequence[Shape], margin: float) -> Figure:
    """A panel a task (and model and mode), a line an iteration; below it the safe proportions on the same axis."""
    abouts = [shape.chain.about for shape in shapes]
    looks = {t: look(i) for i, t in enumerate(sorted({int(about["iteration"]) for about in abouts}))}
    columns = ["task", *(c for c in ("model", "mode") if len({about[c] for about in abouts}) > 1)]
    grouped: dict[tuple[str, ...], list[Shape]] = {}
    for shape in shapes:
        grouped.setdefault(tuple(str(shape.chain.about[c]) for c in columns), []).append(shape)
    panels = [_panel(key, group, looks, margin) for key, group in grouped.items()]
    legend = [(f"iteration {t}", mark) for t, mark in looks.items()]
    return Figure(
        "curves", "Score relative to the 0 % control, and the safe proportion", _caption(shapes, margin), panels, legend
    )


def _panel(key: tuple[str, ...], shapes: Sequence[Shape], looks: dict[int, Look], margin: float) -> Panel:
    name, title, last = slug("curves", *key), ", ".join(key), 100 * max(float(s.curve.x[-1]) for s in shapes)
    lane = 0.18 * len(looks) + 0.12  # inches
    with canvas(WIDTH, HEIGHT + lane) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[HEIGHT - 0.56, lane])
        for position, shape in enumerate(shapes):
            mark = looks[int(shape.chain.about["iteration"])]
            _paint_curve(top, shape, mark, 0.012 * last * (position - (len(shapes) - 1) / 2))
            _paint_safe(bottom, shape, mark, position)
        top.axhline(100 * (1 - margin), color=INK, linewidth=1, linestyle=(0, (1, 2)))
        top.set_ylabel("score, % of the control's")
        bottom.set(xlabel="synthetic share of the training set, %", ylabel="safe", yticks=[])
        bottom.set(xlim=(-0.04 * last, 1.07 * last), ylim=(len(looks) - 0.4, -0.6))
        svg = to_svg(figure, name, f"Score relative to the control against the synthetic share: {title}")
    return Panel(name, title, svg)


def _paint_curve(axes: Axes, shape: Shape, mark: Look, aside: float) -> None:
    curve, ratios = shape.curve, shape.curve.relative()
    middle, low, high = (100 * np.array([getattr(r, end) for r in ratios]) for end in ("estimate", "low", "high"))
    axes.errorbar(
        100 * curve.x + aside, middle, yerr=[middle - low, high - middle], color=mark.color, marker=mark.marker,
        linestyle="none", elinewidth=1, capsize=2.5,
    )  # fmt: skip
    fit = 100 * isotonic(curve.means) / curve.means[0]
    axes.plot(100 * curve.x + aside, fit, color=mark.color, linestyle=mark.style)


def _paint_safe(axes: Axes, shape: Shape, mark: Look, position: int) -> None:
    """The interval of the safe proportion as a band, which runs off the axis where it has no upper end."""
    assert shape.safe is not None
    interval, last = shape.safe.interval, float(shape.curve.x[-1])
    ends = 100 * interval.low, 100 * (interval.high if math.isfinite(interval.high) else 1.2 * last)
    axes.plot(ends, [position] * 2, color=mark.color, alpha=0.35, linewidth=6, solid_capstyle="butt")
    if not shape.safe.above:
        axes.plot(100 * interval.estimate, position, marker=mark.marker, color=mark.color)


def _caption(shapes: Sequence[Shape], margin: float) -> str:
    text = (
        "Above: score divided by the score of the 0 % control at the same iteration, with 95 % intervals paired over items"
        " and seeds; the lines are the non-increasing (isotonic) fit, the dotted line is a loss of"
        f" {percent(margin)} %. Below: the safe proportion, where the fit crosses the dotted line, with its 95 % interval"
        " as a band; one that leaves the axis has no upper end, and one without a mark belongs to a curve that does not"
        " cross. "
    )
    if any(shape.curve.n_seeds == 1 for shape in shapes):
        text += "Curves of one seed: intervals and bands do not cover variation between training runs. "
    return text + (
        "The figure does not show what happens between the measured shares, where the fit is a straight line, or beyond"
        " the largest; a point above the dotted line is not shown to be safe unless its whole interval is above."
    )
