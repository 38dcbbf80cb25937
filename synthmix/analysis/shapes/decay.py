"""The score over iterations: which shape its decay has, and after how many iterations half of it would be left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from synthmix.analysis.comparisons import named
from synthmix.analysis.conditions import Analysis, percent
from synthmix.analysis.drawing import Figure, draw, slug
from synthmix.analysis.printing import ITEMS, MODE, MODEL, SEEDS, SHARE, TASK, Column, Table, make_table
from synthmix.analysis.section import Section
from synthmix.analysis.shapes.chains import (
    MAX_SENTENCES,
    Chain,
    brackets,
    iteration_chains,
    listed,
    name_of,
    points_interval,
)
from synthmix.analysis.svg import Look, look
from synthmix.statistics.curves import Curve
from synthmix.statistics.decay import FAR, SHAPES, Decay, decay, shape_value


@dataclass(frozen=True)
class Told:
    """A chain, its curve over iterations, and its shape."""

    chain: Chain
    curve: Curve
    decay: Decay


def decay_section(analysis: Analysis) -> Section | None:
    """Shape over iterations of every chain with three points or more, phase 0 included; None where there is no chain."""
    chains = iteration_chains(analysis)
    if not chains:
        return None
    told = [Told(chain, chain.curve, decay(chain.curve)) for chain in chains if chain.curve is not None]
    sentences = [*_findings(told, chains), *_limits(told, chains)]
    if not told:
        return Section("decay", "Decay over iterations", sentences)
    return Section("decay", "Decay over iterations", sentences, [_figure(told)], [_table(told)])


def half_life_words(found: Decay) -> str:
    """``6.9 [5.1, 9.4]``, ``over 40 [18.6, –]``; empty where there is none."""
    if found.half_life is None:
        return ""
    ends = brackets(found.half_life.low, found.half_life.high, _number)
    if math.isinf(found.half_life.estimate):
        return f"over {FAR * found.last:.0f} {ends}"
    return f"{_number(found.half_life.estimate)} {ends}"


# -- sentences ------------------------------------------------------------------------------------------------------


def _findings(told: Sequence[Told], chains: Sequence[Chain]) -> Iterator[str]:
    known = [one for one in told if not one.chain.constant]
    if not known:
        return
    falling = sum(one.decay.change.high < 0 for one in known)
    yield (
        f"Of {len(known)} {'chain' if len(known) == 1 else 'chains'} over iterations, {falling} fell: the 95 % interval of"
        " the fitted change lies below 0 (each for itself, not corrected for their number). The 0 % chains are among them:"
        " what those lose is due to further training, not to synthetic text."
    )
    top = sorted(known, key=lambda one: one.decay.change.estimate)[:MAX_SENTENCES]
    for one in top:
        yield _sentence(one, name_of(one.chain, chains))
    if len(known) > len(top):
        yield f"These are the {len(top)} lowest changes of {len(known)} chains; the table has all of them."


def _sentence(one: Told, name: str) -> str:
    found, last = one.decay, one.curve.x[-1]
    text = f"{name}: the score changes by {points_interval(found.change)} from phase 0 to iteration {last:.0f}"
    others = [name for name in found.alike if name != found.best]
    text += f"; {found.best} fits best" + (f", and {listed(others)} about as well" if others else "")
    if found.criterion != "AICc":
        text += f" (by residual alone: with {len(one.curve.x)} points AICc is not defined)"
    if found.half_life is None:
        return f"{text}. No half-life: {found.reason}."
    if math.isinf(found.half_life.estimate):
        return f"{text}. No half-life can be told: it would lie beyond {FAR * found.last:.0f} iterations."
    text += f". Half of the score would be left after {half_life_words(found)} iterations"
    if found.extrapolated:
        text += ": this extrapolates the shape beyond the last iteration, and takes the score to go on to 0"
    return text + "."


def _limits(told: Sequence[Told], chains: Sequence[Chain]) -> Iterator[str]:
    without = [chain for chain in chains if chain.curve is None]
    for reason in dict.fromkeys(chain.reason for chain in without):
        n = sum(chain.reason == reason for chain in without)
        needed = "; three are needed" if reason[0].isdigit() else ""
        yield f"No shape for {n} {'chain' if n == 1 else 'chains'}: {reason}, phase 0 included{needed}."
    for one in told:
        if one.chain.constant:
            yield f"{name_of(one.chain, chains)}: every item of every cell has the same score, so that there is no shape."
        if one.chain.left_out:
            yield f"{name_of(one.chain, chains)}: {one.chain.left_out}."
    if any(one.curve.n_seeds == 1 for one in told):
        yield "Chains of one seed: their intervals cover the choice of items, not variation between training runs."


def _number(value: float) -> str:
    return f"{value:.1f}"


# -- table and figure -----------------------------------------------------------------------------------------------

_COLUMNS = (
    TASK, MODEL, MODE, SHARE, Column("points", "points", "count"), Column("change", "change, points", "points interval"),
    Column("best", "best shape"), Column("alike_text", "not told apart from"), Column("criterion", "by"),
    Column("half_life_text", "half-life, iterations"), ITEMS, SEEDS,
)  # fmt: skip


def _table(told: Sequence[Told]) -> Table:
    note = (
        "Linear a − b t, exponential a exp(−b t), logarithmic a − b log(1 + t), power a (1 + t)^−b, by generalised least"
        " squares; phase 0 is iteration 0. All have two parameters, so that AICc, defined from four points on, ranks them"
        " by their misfit; shapes within 2 units are not told apart. The half-life is that of the score itself, if the"
        f" shape goes on to 0; beyond the last iteration it extrapolates, and beyond {FAR} times that nothing is told"
        " (a dash). Draws choose their own shapes, so that brackets (95 %) cover the choice; they are not corrected for"
        " the number of chains."
    )
    frame = pd.DataFrame([_row(one) for one in told])
    table = make_table("decay", "Shape over iterations", frame, _COLUMNS, note)
    numbers = [f"half_life{end}" for end in ("", "_low", "_high")] + [
        "extrapolated",
        *(f"misfit_{name}" for name in SHAPES),
    ]
    return replace(table, constant=[*table.constant, *numbers])


def _row(one: Told) -> dict[str, Any]:
    found, curve = one.decay, one.curve
    row: dict[str, Any] = {c: one.chain.about[c] for c in ("task", "model", "mode", "proportion")}
    row |= {"points": len(curve.x), "n_items": curve.n_items, "n_seeds": curve.n_seeds} | named("change", found.change)
    told = not one.chain.constant
    row |= {"best": found.best if told else "", "criterion": found.criterion if told else ""}
    row["alike_text"] = ", ".join(n for n in found.alike if n != found.best) if told else ""
    row |= {"half_life_text": half_life_words(found), "extrapolated": found.extrapolated}
    row |= named("half_life", found.half_life)
    return row | {f"misfit_{name}": fit.misfit for name, fit in found.fits.items()}


def _figure(told: Sequence[Told]) -> Figure:
    shares = sorted({float(one.chain.about["proportion"]) for one in told})
    looks = {0.0: look(-1)} | {p: look(i) for i, p in enumerate(p for p in shares if p)}
    columns = ["task", *(c for c in ("model", "mode") if len({one.chain.about[c] for one in told}) > 1)]
    grouped: dict[tuple[str, ...], list[Told]] = {}
    for one in told:
        grouped.setdefault(tuple(str(one.chain.about[c]) for c in columns), []).append(one)
    panels = [
        draw(
            slug("decay", *key), ", ".join(key), partial(_paint, told=group, looks=looks),
            f"Score over iterations with the best shape: {', '.join(key)}",
        )
        for key, group in grouped.items()
    ]  # fmt: skip
    legend = [(f"{percent(p)} %" + (" (control)" if p == 0 else ""), looks[p]) for p in shares]
    return Figure("decay", "Score over iterations, and the shape that fits best", _caption(told), panels, legend)


def _paint(axes: Axes, told: Sequence[Told], looks: dict[float, Look]) -> None:
    for position, one in enumerate(told):
        curve, mark = one.curve, looks[float(one.chain.about["proportion"])]
        aside = 0.3 * (position / max(1, len(told) - 1) - 0.5) if len(told) > 1 else 0.0
        shown = (curve.x > 0) | (position == 0)  # phase 0 is one point, whatever the share
        intervals = [curve.interval(float(m), curve.draws[:, k]) for k, m in enumerate(curve.means)]
        middle, low, high = (
            100 * np.array([getattr(i, end) for i in intervals]) for end in ("estimate", "low", "high")
        )
        axes.errorbar(
            (curve.x + aside * (curve.x > 0))[shown], middle[shown], yerr=np.stack([middle - low, high - middle])[:, shown],
            color=mark.color, marker=mark.marker, linestyle="none", elinewidth=1, capsize=2.5,
        )  # fmt: skip
        t = np.linspace(curve.x[0], curve.x[-1], 50)
        fit = one.decay.fits[one.decay.best]
        axes.plot(t, 100 * shape_value(one.decay.best, fit.start, fit.rate, t), color=mark.color, linestyle=mark.style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="iteration", ylabel=f"{told[0].chain.about['metric']}, %")


def _caption(told: Sequence[Told]) -> str:
    alone = (
        "" if all(one.curve.n_seeds > 1 for one in told) else " Those of one seed do not cover variation between runs."
    )
    return (
        "Test score by iteration with 95 % intervals (seeds and items random), and the best of four shapes; iteration 0 is"
        f" the phase 0 baseline, shared by all shares.{alone} The line ends at the last iteration: it does not show how"
        " the chain goes on, and with so few points another of the shapes usually fits about as well (see the table)."
    )
