"""Model size: how the relative loss, the score and the safe proportion change with the number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from synthmix.analysis.comparisons import named
from synthmix.analysis.conditions import Analysis, label, percent
from synthmix.analysis.drawing import Figure, Panel, draw, errorbar, looks_of, slug, title_of, uncertainty, varying
from synthmix.analysis.printing import ITERATION, MODE, MODEL, SEEDS, SHARE, TASK, Column, Table, make_table, show
from synthmix.analysis.section import Section
from synthmix.analysis.shapes.chains import MAX_SENTENCES, listed, share_chains
from synthmix.analysis.shapes.curves import safe_words
from synthmix.analysis.svg import INK, Look
from synthmix.statistics.safe_proportion import safe_proportion
from synthmix.statistics.scaling import FEWEST_SIZES, Coefficient, Law, ScalingLaw, fit_law

#: What is the same along a line over sizes.
LINE = ["task", "mode", "iteration", "proportion"]
#: What is fitted, and by which laws.
FITTED: tuple[tuple[str, Law], ...] = (("loss", "power"), ("loss", "log"), ("score", "power"))
_NAMES = {"loss": "relative loss", "score": "score", "safe": "safe proportion"}
_RELATIVE = Column("relative", "relative change, %", "points interval")


def scale_section(analysis: Analysis) -> Section | None:
    """Relative loss and safe proportion against model size; None with one size, or no finished control."""
    losses, safe = _losses(analysis), _safe(analysis)
    if losses.empty and safe.empty:
        return None
    laws = _laws(losses, safe)
    sentences = [*_loss_sentences(losses), *_safe_sentences(safe), *_law_sentences(losses, safe, laws)]
    figures = [figure for figure in (_loss_figure(losses), _safe_figure(safe)) if figure is not None]
    tables = [table for table in (_table(losses), _safe_table(safe), _laws_table(laws)) if len(table.frame)]
    return Section("scale", "Model size", sentences, figures, tables)


# -- data -----------------------------------------------------------------------------------------------------------


def _losses(analysis: Analysis) -> pd.DataFrame:
    """Conditions with a relative difference to their control, where a line has two sizes or more."""
    frame = analysis.conditions
    if frame.empty or "relative" not in frame:
        return frame.iloc[:0]
    known = frame[frame.relative.notna() & (frame.proportion > 0) & frame.parameters.notna()]
    return _several_sizes(known.assign(loss=-known.relative), LINE)


def _safe(analysis: Analysis) -> pd.DataFrame:
    """Safe proportion of every curve, where a line has two sizes or more."""
    rows = []
    for chain in share_chains(analysis):
        if chain.curve is None or chain.curve.means[0] <= 0 or chain.constant or pd.isna(chain.about["parameters"]):
            continue
        found = safe_proportion(chain.curve, analysis.margin_relative)
        row = chain.about | named("safe", found.interval) | {"safe_text": safe_words(found).replace(" % ", " ")}
        row |= {
            "located": not (found.above or found.below),
            "first": found.first,
            "last": found.last,
            "n_seeds": chain.curve.n_seeds,
        }
        rows.append(row)
    return _several_sizes(pd.DataFrame(rows), LINE[:3])


def _several_sizes(frame: pd.DataFrame, line: Sequence[str]) -> pd.DataFrame:
    if frame.empty:
        return frame
    sizes = frame.groupby(list(line)).parameters.transform("nunique")
    return frame[sizes > 1].sort_values([*line, "parameters"], ignore_index=True)


def _laws(losses: pd.DataFrame, safe: pd.DataFrame) -> pd.DataFrame:
    """One row a law that could be fitted."""
    rows: list[dict[str, Any]] = []
    for about, group in _lines(losses, LINE):
        for column, law in FITTED:
            rows += _law_row(about | {"quantity": column}, group, law, column)
    for about, group in _lines(safe[safe.located] if len(safe) else safe, LINE[:3]):
        rows += _law_row(about | {"quantity": "safe", "proportion": math.nan}, group, "log", "safe")
    return pd.DataFrame(rows)


def _lines(frame: pd.DataFrame, line: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if len(frame):
        for key, group in frame.groupby(list(line), sort=False):
            yield dict(zip(line, key, strict=True)), group


def _law_row(about: dict[str, Any], group: pd.DataFrame, law: Law, column: str) -> list[dict[str, Any]]:
    """A fitted law as a row; none where sizes are too few, or where a power law has no logarithm to fit."""
    values = [float(value) for value in group[column]]
    if group.parameters.nunique() < FEWEST_SIZES or (law == "power" and min(values) <= 0):
        return []
    fitted = fit_law(law, list(group.parameters), values)
    row = about | {"name": _NAMES[column], "law": _FORMS[law], "sizes": group.parameters.nunique(), "fitted": fitted}
    row |= {"freedom": fitted.freedom, "r_squared": fitted.r_squared}
    return [row | _ends("slope", fitted.slope) | _ends("at_billion", _at_billion(fitted))]


_FORMS = {"power": "a N^α", "log": "a + b log10 N"}


def _at_billion(fitted: ScalingLaw) -> Coefficient:
    a = fitted.intercept
    if fitted.law == "log":
        return a
    estimate, low, high = (math.exp(min(700.0, end)) for end in (a.estimate, a.low, a.high))
    return Coefficient(estimate, low, high, a.error)


def _ends(name: str, found: Coefficient) -> dict[str, float]:
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


# -- sentences ------------------------------------------------------------------------------------------------------


def _loss_sentences(losses: pd.DataFrame) -> Iterator[str]:
    """Of each task and mode, the last iteration and the highest share that has most sizes."""
    said = 0
    for (task, mode), group in losses.groupby(["task", "mode"], sort=True) if len(losses) else ():
        sizes = group.groupby(["iteration", "proportion"]).parameters.nunique()
        chosen = sizes[sizes == sizes.max()].index.max()
        rows = group[(group.iteration == chosen[0]) & (group.proportion == chosen[1])]
        if said < MAX_SENTENCES:
            values = [f"{show(row, _RELATIVE)} % at {_size(row['parameters'])}" for row in rows.to_dict("records")]
            named_mode = f" ({mode})" if losses["mode"].nunique() > 1 else ""
            yield (
                f"{task}{named_mode}, {label(rows.iloc[0], ['iteration', 'proportion'])}: against the control the score"
                f" changes by {listed(values)}."
            )
        said += 1
    if said > MAX_SENTENCES:
        yield f"These are {MAX_SENTENCES} of {said} tasks and modes; the table has all of them."


def _safe_sentences(safe: pd.DataFrame) -> Iterator[str]:
    for position, (about, group) in enumerate(_lines(safe, LINE[:3])):
        if position == MAX_SENTENCES:
            yield "The table has the safe proportions of the other tasks, modes and iterations."
            return
        words = [f"{row['safe_text']} at {_size(row['parameters'])}" for row in group.to_dict("records")]
        columns = ["task", *varying(safe, ["mode"]), "iteration"]
        yield f"{label(about, columns)}: the safe proportion in percent is {listed(words)}."


def _law_sentences(losses: pd.DataFrame, safe: pd.DataFrame, laws: pd.DataFrame) -> Iterator[str]:
    for row in laws[laws.quantity == "safe"].to_dict("records") if len(laws) else ():
        a, b = row["fitted"].intercept, row["fitted"].slope
        yield (
            f"{row['task']}, {row['mode']}, iteration {row['iteration']:.0f}: safe proportion ="
            f" {percent(round(a.estimate, 3))} % [{_points(a)}] + {percent(round(b.estimate, 3))} % [{_points(b)}]"
            f" log10(N / 1e9), R² = {row['r_squared']:.2f}, from {row['sizes']} sizes ({_degrees(row['freedom'])})."
        )
    frames = [
        frame.groupby(line).parameters.nunique() for frame, line in ((losses, LINE), (safe, LINE[:3])) if len(frame)
    ]
    most = max(int(counts.max()) for counts in frames)
    if most < FEWEST_SIZES:
        yield (
            "Two sizes fix a line exactly and leave nothing to judge it by: no law is fitted, and the difference between"
            " two models is not a trend over size."
        )
    elif len(laws):
        yield (
            f"Laws rest on {most} sizes at most, each taken as it is, without the interval of its own value. Their"
            f" intervals are Student's t; with {_degrees(most - 2)} they are as wide as that must be."
        )
    if most >= FEWEST_SIZES and len(safe) and not safe.located.all():
        n = int((~safe.located).sum())
        yield (
            f"{n} of {len(safe)} safe proportions lie outside the measured shares, and no law uses them: what is left is a"
            " selection."
        )


def _points(found: Coefficient) -> str:
    return ", ".join(percent(round(end, 3)) for end in (found.low, found.high))


def _degrees(freedom: int) -> str:
    return f"{freedom} degree{'' if freedom == 1 else 's'} of freedom"


def _size(parameters: float) -> str:
    unit, size = next((u, s) for u, s in (("B", 1e9), ("M", 1e5), ("k", 1.0)) if parameters >= s)
    return f"{parameters / (1e6 if unit == 'M' else 1e9 if unit == 'B' else 1e3):.3g}{unit}"


# -- tables ---------------------------------------------------------------------------------------------------------

_PARAMETERS = Column("parameters", "parameters", "count")
_NOTE = "Brackets are 95 % intervals, each for itself. Differences between sizes are not paired: models share no runs."


def _table(losses: pd.DataFrame) -> Table:
    columns = [TASK, MODE, ITERATION, SHARE, MODEL, _PARAMETERS, Column("score", "score, %", "percent interval"),
               _RELATIVE, SEEDS]  # fmt: skip
    return make_table("scale", "Relative change by model size", losses, columns, _NOTE)


def _safe_table(safe: pd.DataFrame) -> Table:
    columns = [TASK, MODE, ITERATION, MODEL, _PARAMETERS, Column("safe_text", "safe proportion, %"), SEEDS]
    return make_table("scale_safe", "Safe proportion by model size", safe, columns, _NOTE)


def _laws_table(laws: pd.DataFrame) -> Table:
    columns = [
        TASK, MODE, ITERATION, SHARE, Column("name", "quantity"), Column("law", "law"),
        Column("slope", "α or b", "decimal interval"), Column("r_squared", "R²", "decimal"), Column("sizes", "sizes", "count"),
        Column("freedom", "degrees of freedom", "count"),
    ]  # fmt: skip
    note = (
        "Ordinary least squares over sizes, N in 1e9 parameters; quantities as shares (0.1 is 10 %). R² is that of the"
        " values, not of their logarithms. A power law needs values above 0: a size without a loss leaves none. The"
        " CSV has a, the value at 1e9 parameters, which is no prediction where that lies far outside the sizes."
    )
    table = make_table("scale_laws", "Laws over model size", laws, columns, note)
    return replace(table, constant=[*table.constant, "at_billion", "at_billion_low", "at_billion_high"])


# -- figures --------------------------------------------------------------------------------------------------------


def _loss_figure(losses: pd.DataFrame) -> Figure | None:
    if losses.empty:
        return None
    looks, by_panel = looks_of(losses, ["proportion"]), ["task", *varying(losses, ["mode", "iteration"])]
    panels = _panels(losses, by_panel, "scale", lambda axes, rows: _paint_losses(axes, rows, looks))
    legend = [(title_of(key, ["proportion"]), mark) for key, mark in looks.items()]
    caption = (
        "Relative difference to the 0 % control of the same size, with 95 % intervals, against the number of parameters"
        f" (logarithmic). {uncertainty(losses)} Lines join points of one share and are no fit; sizes share no training"
        " runs, and other things than size may differ between models."
    )
    return Figure("scale", "Relative loss against model size", caption, panels, legend)


def _safe_figure(safe: pd.DataFrame) -> Figure | None:
    if safe.empty:
        return None
    looks, by_panel = looks_of(safe, ["iteration"]), ["task", *varying(safe, ["mode"])]
    panels = _panels(safe, by_panel, "scale-safe", lambda axes, rows: _paint_safe(axes, rows, looks))
    legend = [(title_of(key, ["iteration"]), mark) for key, mark in looks.items()]
    caption = (
        "Safe proportion with its 95 % interval against the number of parameters (logarithmic). A hollow mark at the first"
        " or last measured share says that it lies below or above that; a bar that reaches the upper edge has no upper end."
        " The figure does not show a law: the table has what could be fitted."
    )
    return Figure("scale-safe", "Safe proportion against model size", caption, panels, legend)


def _panels(frame: pd.DataFrame, by_panel: Sequence[str], name: str, paint: Any) -> list[Panel]:
    return [
        draw(slug(name, *key), title_of(key, by_panel), partial(paint, rows=rows), f"{name}: {title_of(key, by_panel)}")
        for key, rows in frame.groupby(list(by_panel), sort=False)
    ]


def _paint_losses(axes: Axes, rows: pd.DataFrame, looks: dict[tuple[object, ...], Look]) -> None:
    for position, (share, line) in enumerate(rows.groupby("proportion")):
        errorbar(axes, _aside(line, position), line, "relative", looks[(share,)], 100)
    axes.axhline(0, color=INK, linewidth=0.8)
    _size_axis(axes, rows)
    axes.set_ylabel("relative change, %")


def _paint_safe(axes: Axes, rows: pd.DataFrame, looks: dict[tuple[object, ...], Look]) -> None:
    last = float(rows["last"].max())
    for position, (iteration, line) in enumerate(rows.groupby("iteration")):
        mark, x = looks[(iteration,)], _aside(line, position)
        shown = line.assign(
            safe=line.safe.clip(line["first"].where(~line.located), line["last"]), safe_high=line.safe_high.clip(upper=1.2 * last)
        )  # fmt: skip
        errorbar(axes, x, shown, "safe", Look(mark.color, "", "", mark.css), 100)
        for inside, face in ((True, mark.color), (False, "none")):
            some = (line.located == inside).to_numpy()
            axes.plot(
                x[some], 100 * shown.safe[some], mark.marker, color=mark.color, markerfacecolor=face, markersize=6
            )
    _size_axis(axes, rows)
    axes.set(ylabel="safe proportion, %", ylim=(-2, 108 * last))


def _aside(rows: pd.DataFrame, position: int) -> np.ndarray:
    """Sizes, moved by 3 % a line, so that no bar hides another."""
    return rows.parameters.to_numpy(dtype=float) * 1.03**position


def _size_axis(axes: Axes, rows: pd.DataFrame) -> None:
    sizes = sorted(set(rows.parameters.astype(float)))
    axes.set_xscale("log")
    axes.set_xticks(sizes, [_size(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="parameters", xlim=(sizes[0] / 1.3, sizes[-1] * 1.5))
