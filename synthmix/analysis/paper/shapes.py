"""Figure 1 of arXiv 2510.05133, and what can be said of a study beside the published values, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from synthmix.analysis.conditions import of, percent
from synthmix.analysis.drawing import Figure, Panel, draw, errorbar, slug, uncertainty
from synthmix.analysis.paper.beside import AT, PUBLISHED, Beside, chain_of, chains_of, losses, paper_name, starred
from synthmix.analysis.printing import minus
from synthmix.analysis.svg import look


def figure1(beside: Beside) -> Figure | None:
    """Score and ECE over iterations: the published chain, then the study's with its control, each on its own axes."""
    chains = chains_of(beside)
    if not chains:
        return None
    t4 = beside.published.table4
    about = f"{PUBLISHED}, {beside.published.tasks[t4.task].benchmark}, {t4.proportion:g} %"
    printed = pd.DataFrame({"iteration": t4.iterations, "score": np.array(t4.score) / 100, "ece": t4.ece})
    for column in ("score", "ece"):
        printed[[f"{column}_low", f"{column}_high"]] = math.nan
    panels = [*_pair(about, [("synthetic", printed)])]
    for source, chain in chains:
        task = chain.task.iloc[0]
        control = chain_of(beside.chosen, task, 0.0)
        panels += _pair(source, [("control", control), ("synthetic", chain)])
    caption = (
        "The paper's figure 1: task score and expected calibration error over iterations, published"
        f" ({paper_name(t4.model)}, no intervals) and of this study with 95 % intervals and its 0 % control. The published"
        " claim is an ECE that rises while the score still stands. Every panel has an axis of its own: shapes compare, levels do not. One chain a task cannot"
        f" show that one curve leads the other; the forecasts of the early warning do. {uncertainty(chains[0][1])}"
    )
    return Figure(
        "paper-figure-1", "The paper's figure 1: does calibration move before the score?", caption, panels, _LEGEND, 2
    )


_LOOKS = {"control": look(-1), "synthetic": look(0)}
_LEGEND = [("synthetic data", _LOOKS["synthetic"]), ("0 % control", _LOOKS["control"])]


def _pair(source: str, lines: Sequence[tuple[str, pd.DataFrame]]) -> list[Panel]:
    panels = []
    for column, scale, unit in (("score", 100.0, "score, %"), ("ece", 1.0, "ECE")):

        def paint(axes: Axes, column: str = column, scale: float = scale, unit: str = unit) -> None:
            for position, (role, rows) in enumerate(lines):
                x = rows.iteration.to_numpy(dtype=float)
                errorbar(axes, x + 0.06 * position * (x > 0), rows, column, _LOOKS[role], scale)
            axes.set(xlabel="iteration", ylabel=unit)
            axes.set_ylim(bottom=0 if column == "ece" else None)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

        title = f"{source}: {'ECE' if column == 'ece' else 'score'}"
        panels.append(draw(slug("paper-figure-1", column, source), title, paint, f"By iteration, {title}"))
    return panels


# -- sentences ------------------------------------------------------------------------------------------------------


def scope(beside: Beside) -> str:
    """What stands beside what, and what is left out."""
    text = (
        f"Published values (arXiv {beside.published.paper.arxiv}) beside those of {beside.model} with mixing"
        f" {beside.mode}, the model of this study that covers most of the paper's tasks at iteration 1. They come from"
        " other models on other tasks: shapes can be compared, levels cannot."
    )
    if beside.others:
        text += f" Without a published counterpart, and left out here: {', '.join(beside.others)}."
    return text


def compared(beside: Beside) -> list[str]:
    """What shapes have in common with the published ones: tables 1 to 4, as far as the study has them."""
    made = (_of_shares(beside), _of_sizes(beside), _of_tasks(beside), _of_iterations(beside))
    return [text for text in made if text]


def _of_shares(beside: Beside) -> str:
    own, t1 = starred(beside), beside.published.table1
    own = own[own.p_value.notna()]
    low, high = own[own.proportion <= 0.2 + 1e-9], own[own.proportion >= AT - 1e-9]
    marked = [s for shares in t1.significant.values() for s in shares]
    published_low = sum(s <= 20 for s in marked)
    tested = [
        len(t1.scores) * sum(0 < s <= 20 for s in t1.proportions),
        len(t1.scores) * sum(s >= 30 for s in t1.proportions),
    ]
    if own.empty:
        return "Table 1: no condition has a finished 0 % control, so nothing of it can be compared."
    return (
        f"Table 1: up to 20 % synthetic data {int(low.starred.sum())} of {len(low)} comparisons with the control differ"
        f" after Bonferroni (published: {published_low} of {tested[0]}), from 30 % on {int(high.starred.sum())} of"
        f" {len(high)} (published: {len(marked) - published_low} of {tested[1]}). A comparison that does not differ may"
        " be one that this test set is too small for."
    )  # fmt: skip


def _of_sizes(beside: Beside) -> str:
    t2 = beside.published.table2
    own, _ = losses(of(beside.frame, family=t2.task))
    own = own[own.relative.notna()].sort_values("parameters")
    if own.parameters.nunique() < 2:
        return ""
    first, last = own.iloc[0], own.iloc[-1]
    apart = first.relative_high < last.relative_low or last.relative_high < first.relative_low
    how = "their intervals are apart" if apart else "their intervals overlap, so an order of sizes is not shown"
    return (
        f"Table 2: the published relative loss falls from {-t2.rows[0].relative:g} % to {-t2.rows[-1].relative:g} % with"
        f" size. Here, at {percent(first.proportion)} %, {first.model} changes by {_range(first)} and {last.model} by"
        f" {_range(last)}; {how}."
    )


def _range(row: pd.Series) -> str:
    return minus(f"{100 * row.relative:+.1f} % [{100 * row.relative_low:+.1f}, {100 * row.relative_high:+.1f}]")


def _of_tasks(beside: Beside) -> str:
    own, _ = losses(beside.chosen)
    own = own[own.relative.notna()]
    rows = beside.published.table3.rows
    loss = {row.task: 1 - row.synthetic / row.baseline for row in rows}
    apart = [
        (a, b) for (_, a), (_, b) in combinations(own.sort_values("relative").iterrows(), 2)
        if a.relative_high < b.relative_low and a.family != b.family
    ]  # fmt: skip
    pairs = sum(a != b for a, b in combinations(own.family, 2))
    if not pairs:
        return ""
    agree = sum(loss[a.family] > loss[b.family] for a, b in apart)
    told = "none of them can be ordered" if not apart else f"{len(apart)} can be ordered by disjoint intervals"
    which = f", {agree} of these in the published order of losses" if apart else ""
    order = ", ".join(own.sort_values("relative").task)
    share = percent(own.proportion.iloc[0])
    return (
        f"Table 3: by estimate, at {share} % the order from the most sensitive task is {order}. Of {pairs} pairs of tasks"
        f" {told}{which}."
    )


def _of_iterations(beside: Beside) -> str:
    said = []
    for source, chain in chains_of(beside):
        start, first = chain.iloc[0], chain.iloc[1] if len(chain) > 1 else None
        if first is None or start.iteration != 0 or not start.score or not start.ece:
            continue
        apart = first.ece_low > start.ece_high
        ece = minus(f"{100 * (first.ece / start.ece - 1):+.0f}")
        score = minus(f"{100 * (first.score / start.score - 1):+.1f}")
        said.append(f"{source}: ECE {ece} % (intervals {'apart' if apart else 'overlap'}), score {score} %")
    if not said:
        return ""
    t4 = beside.published.table4
    ece = minus(f"{100 * (t4.ece[1] / t4.ece[0] - 1):+.0f}")
    score = minus(f"{100 * (t4.score[1] / t4.score[0] - 1):+.1f}")
    return (
        f"Table 4 and figure 1: published, the ECE changes by {ece} % from iteration 0 to 1 and accuracy by {score} %."
        f" Here, {'; '.join(said)}; against phase 0, so that further training on the same data is part of it."
    )
