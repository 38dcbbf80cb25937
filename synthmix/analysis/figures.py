"""The report's figures: small multiples with 95 % intervals, each with a sentence on what it shows and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from synthmix.analysis.conditions import Analysis, of, off_nominal, percent, realised, trained_longer
from synthmix.analysis.drawing import (
    WIDTH,
    Figure,
    Panel,
    draw,
    errorbar,
    groups,
    looks_of,
    panels_and_lines,
    share_axis,
    slug,
    title_of,
    uncertainty,
    varying,
)
from synthmix.analysis.svg import INK, Look, canvas, look, to_svg
from synthmix.analysis.tables import of_iterations
from synthmix.metrics import ReliabilityBins

#: A reliability bin with fewer items is drawn hollow.
FEW_ITEMS = 10


# -- score against the synthetic share ------------------------------------------------------------------------------


def score_figure(analysis: Analysis) -> Figure | None:
    """Score against p, one line a model, mode and iteration."""
    frame = with_control(of_iterations(analysis.conditions))
    if frame.empty:
        return None
    by_panel, by_line = panels_and_lines(frame, ["model", "mode", "iteration"])
    looks = looks_of(frame, by_line)
    nominal = "nominal " if len(off_nominal(frame)) else ""
    panels = []
    for key, group in groups(frame, by_panel):
        title = title_of(key, by_panel)

        def paint(axes: Axes, group: pd.DataFrame = group) -> None:
            lines = list(groups(group, by_line))
            for position, (line, rows) in enumerate(lines):
                rows = rows.sort_values("proportion")
                # Beside each other, so that no bar hides another: together 3 % of the axis.
                shift = 3 * group.proportion.max() * (position / max(1, len(lines) - 1) - 0.5 * (len(lines) > 1))
                errorbar(axes, 100 * rows.proportion.to_numpy() + shift, rows, "score", looks[line], 100)
            _baseline(axes, analysis.conditions, group)
            axes.set(xlabel=f"{nominal}synthetic share of the training set, %", ylabel=f"{group.metric.iloc[0]}, %")
            share_axis(axes, frame)

        panels.append(draw(slug("score", *key), title, paint, f"Score against the synthetic share: {title}"))
    legend = [(title_of(key, by_line), mark) for key, mark in looks.items()]
    return Figure("score", "Score against the synthetic share", _score_caption(analysis, frame), panels, legend)


def with_control(frame: pd.DataFrame) -> pd.DataFrame:
    """The 0 % chain is written once, as mode ``replace``; every other mode's line begins with it too."""
    if frame.empty:
        return frame
    control, extra = frame[frame.proportion == 0], []
    for mode in sorted(set(frame["mode"]) - set(control["mode"]) - {"recursive"}):
        extra.append(control.assign(mode=mode, control="self"))
    return pd.concat([frame, *extra], ignore_index=True) if extra else frame


def _baseline(axes: Axes, conditions: pd.DataFrame, group: pd.DataFrame) -> None:
    """The phase 0 score as a dotted line, where a panel has just one model."""
    if group.model.nunique() > 1:
        return
    start = of(conditions, model=group.model.iloc[0], task=group.task.iloc[0], iteration=0)
    if len(start):
        level = 100 * start.score.iloc[0]
        axes.axhline(level, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            "phase 0", (1, level), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
            ha="right", va="bottom", fontsize=8,
        )  # fmt: skip


def _score_caption(analysis: Analysis, frame: pd.DataFrame) -> str:
    text = f"Test score with 95 % intervals. {uncertainty(frame)} "
    if len(moved := off_nominal(frame)):
        low, high = (100 * f(realised(row) for _, row in moved.iterrows()) for f in (min, max))
        noun = "condition was" if len(moved) == 1 else "conditions were"
        text += (
            f"The axis is the share that was asked for; {len(moved)} {noun} trained on another"
            f" ({low:.0f} to {high:.0f} %, see the mixtures). "
        )
    pairs = frame[frame.difference.notna()]
    if len(pairs):
        level = 50 * (pairs.score_high - pairs.score_low).median()
        paired = 50 * (pairs.difference_high - pairs.difference_low).median()
        text += (
            "Overlapping bars do not show that two shares are alike: what counts are the paired differences in the table"
            f" (half-width {paired:.1f} points at the median, that of these bars {level:.1f})."
        )
    else:
        text += "No condition has a finished 0 % control, so the figure shows levels and no effect of the share."
    return text


# -- iterations -----------------------------------------------------------------------------------------------------


def iterations_figure(analysis: Analysis) -> Figure | None:
    """Score and ECE over iterations, one line a share: the paper's figure 1."""
    conditions = analysis.conditions
    chains = of_iterations(conditions)
    if chains.empty:
        return None
    shares = sorted(set(chains.proportion))
    looks = {0.0: look(-1)} | {p: look(i) for i, p in enumerate(p for p in shares if p)}
    by_panel = ["task", *varying(chains, ["model", "mode"])]
    panels = []
    for key, group in groups(with_control(chains) if "mode" in by_panel else chains, by_panel):
        start = of(conditions, model=group.model.iloc[0], task=group.task.iloc[0], iteration=0)
        for column, scale, unit in (("score", 100, f"{group.metric.iloc[0]}, %"), ("ece", 1, "ECE")):
            title = f"{title_of(key, by_panel)}: {'ECE' if column == 'ece' else group.metric.iloc[0]}"

            def paint(
                axes: Axes, group: pd.DataFrame = group, start: pd.DataFrame = start,
                column: str = column, scale: int = scale, unit: str = unit,
            ) -> None:  # fmt: skip
                _paint_chains(axes, group, start, column, scale, looks)
                axes.set(xlabel="iteration", ylabel=unit)
                axes.set_ylim(bottom=0 if column == "ece" else None)

            panels.append(draw(slug("iterations", column, *key), title, paint, f"By iteration, {title}"))
    legend = [(f"{percent(p)} %" + (" (control)" if p == 0 else ""), looks[p]) for p in shares]
    return Figure("iterations", "Score and calibration over iterations", _chain_caption(chains), panels, legend, 2)


def _paint_chains(
    axes: Axes, group: pd.DataFrame, start: pd.DataFrame, column: str, scale: float, looks: dict[float, Look]
) -> None:
    shares = sorted(set(group.proportion))
    for position, share in enumerate(shares):
        rows = pd.concat([start, of(group, proportion=share)]).sort_values("iteration")
        shift = 0.16 * (position / max(1, len(shares) - 1) - 0.5) if len(shares) > 1 else 0.0
        # The baseline is one point, whatever the share: only what comes after it is moved aside.
        x = rows.iteration.to_numpy(dtype=float)
        errorbar(axes, x + shift * (x > 0), rows, column, looks[share], scale)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _chain_caption(chains: pd.DataFrame) -> str:
    last = int(chains.iteration.max())
    text = (
        "Test score and ECE (headline estimator) by iteration, with 95 % intervals; iteration 0 is the phase 0"
        f" baseline, shared by all shares. {uncertainty(chains)} "
    )
    if last == 1:
        return text + "One iteration only: the figure cannot say whether a loss grows with further ones."
    if chains.groupby(["task", "model", "mode", "proportion"]).n_seeds.nunique().max() > 1:
        text += (
            "Some chains have more seeds at one iteration than at another (see the table): a step there may be theirs. "
        )
    if longer := trained_longer(chains):
        return text + f"With {' and '.join(longer)} training sets grow, and training takes longer than the control's."
    return text + "The control takes as many steps at every iteration: what it loses too is not due to synthetic text."


# -- reliability ----------------------------------------------------------------------------------------------------


def reliability_figure(analysis: Analysis) -> Figure | None:
    """Reliability diagrams: baseline, control, highest share; the bins' counts below."""
    conditions = analysis.conditions
    if conditions.empty:
        return None
    panels, few, used = [], 0, set()
    for key, group in groups(conditions, ["task", "model"]):
        chosen = _reliability_conditions(group)
        drawn = [(role, bins) for role, row in chosen if (bins := analysis.reliability(row)) is not None]
        if not drawn:
            continue
        few += sum(int(((bins.counts > 0) & (bins.counts < FEW_ITEMS)).sum()) for _, bins in drawn)
        used |= {role for role, _ in drawn}
        title = ", ".join(map(str, key if conditions.model.nunique() > 1 else key[:1]))
        with canvas(WIDTH, 3.5) as figure:
            top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
            _paint_reliability(top, bottom, drawn)
            svg = to_svg(figure, slug("reliability", *key), f"Reliability diagram: {title}")
        panels.append(Panel(slug("reliability", *key), title, svg))
    if not panels:
        return None
    legend = [(role, mark) for role, mark in _ROLES.items() if role in used]
    hollow = f" Hollow points ({few}) rest on fewer than {FEW_ITEMS} items and say little." if few else ""
    caption = (
        f"Mean score of the items in each of {analysis.bins} confidence bins (headline estimator, all seeds together);"
        " on the diagonal a model is right as often as it is confident, below it overconfident. The bars count items"
        f" a bin.{hollow} The diagrams have no intervals: those of the ECE are in the tables."
    )
    return Figure("reliability", "Reliability diagrams", caption, panels, legend)


_ROLES = {"baseline": look(-1), "control, 0 %": look(0), "highest share": look(1)}


def _reliability_conditions(group: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Baseline, and at the last iteration the control and the highest share (the first mode that has it)."""
    found = [("baseline", row) for _, row in of(group, iteration=0).iterrows()]
    late = group[(group.iteration == group.iteration.max()) & (group.iteration > 0)]
    found += [("control, 0 %", row) for _, row in of(late, proportion=0.0).head(1).iterrows()]
    top = late[(late.proportion == late.proportion.max()) & (late.proportion > 0)].head(1)
    return found + [("highest share", row) for _, row in top.iterrows()]


def _paint_reliability(top: Axes, bottom: Axes, drawn: Sequence[tuple[str, ReliabilityBins]]) -> None:
    top.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for position, (role, bins) in enumerate(drawn):
        mark, width = _ROLES[role], (bins.edges[1] - bins.edges[0]) / (len(drawn) + 1)
        full = bins.counts > 0
        x, y, thin = bins.confidence[full], bins.accuracy[full], bins.counts[full] < FEW_ITEMS
        top.plot(x, y, color=mark.color, linestyle=mark.style, linewidth=1.2)
        top.plot(x[~thin], y[~thin], mark.marker, color=mark.color)
        top.plot(x[thin], y[thin], mark.marker, color=mark.color, markerfacecolor="none")
        bottom.bar(bins.edges[:-1] + width * (position + 1), bins.counts, width=width, color=mark.color)
    top.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="mean score")
    bottom.set(xlabel="confidence", ylabel="items")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))


# -- diversity ------------------------------------------------------------------------------------------------------

_DIVERSITY = {
    "diversity_diversity": "1 − self-BLEU",
    "diversity_distinct_2": "distinct-2",
    "diversity_unique_fraction": "unique texts",
}


def diversity_figure(analysis: Analysis) -> Figure | None:
    """Diversity of what the models write, over p and iterations."""
    frame = analysis.conditions
    measures = [c for c in _DIVERSITY if c in frame and frame[c].notna().any()]
    if not measures:
        return None
    frame = frame[frame[measures[0]].notna()]
    by_panel = ["task", *varying(frame, ["model"])]
    chains = with_control(of_iterations(frame))
    by_line = [*varying(chains, ["mode"]), "iteration"] if len(chains) else ["iteration"]
    frame = pd.concat([of(frame, iteration=0), chains])
    looks = {key: look(-1) if key[-1] == 0 else look(i - 1) for i, key in enumerate(looks_of(frame, by_line))}
    panels = []
    for key, group in groups(frame, by_panel):
        for measure in measures:
            title = f"{title_of(key, by_panel)}: {_DIVERSITY[measure]}"

            def paint(axes: Axes, group: pd.DataFrame = group, measure: str = measure) -> None:
                for line, rows in groups(group, by_line):
                    rows, mark = rows.sort_values("proportion"), looks[line]
                    axes.plot(
                        100 * rows.proportion, rows[measure], color=mark.color, marker=mark.marker, linestyle=mark.style
                    )
                axes.set(xlabel="synthetic share the writer was trained on, %", ylabel=_DIVERSITY[measure])
                axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
                axes.yaxis.set_major_locator(MaxNLocator(5))
                share_axis(axes, frame)

            panels.append(draw(slug("diversity", measure, *key), title, paint, f"Diversity, {title}"))
    legend = [(title_of(key, by_line) + (" (phase 0)" if key[-1] == 0 else ""), mark) for key, mark in looks.items()]
    samples = frame.diversity_n.min() if "diversity_n" in frame else float("nan")
    size = "" if np.isnan(samples) else f" over {samples:.0f} texts a cell"
    caption = (
        f"Diversity of the text that each model writes{size}, mean of the seeds, without intervals: small differences"
        " between points are not evidence. Self-BLEU and distinct-n depend on the number of texts, the tokenizer and"
        " the length of a text, so values are comparable within a task and not between tasks."
    )
    return Figure("diversity", "Diversity of the synthetic text", caption, panels, legend)


# -- timings --------------------------------------------------------------------------------------------------------

_STAGES = {"timings_mix": -1, "timings_train": 0, "timings_evaluate": 1, "timings_generate": 2}


def timings_figure(analysis: Analysis) -> Figure | None:
    """Seconds a cell by stage."""
    frame = analysis.study.done
    stages = [s for s in _STAGES if s in frame and frame[s].notna().any()]
    if not stages:
        return None
    means = frame.groupby(["model", "task"], sort=True)[stages].mean().fillna(0.0)

    with canvas(7.2, 0.6 + 0.42 * len(means), left=1.5) as figure:
        _paint_bars(figure.subplots(), means)
        panel = Panel("timings", "", to_svg(figure, "timings", "Seconds a cell by stage"))
    total = frame.timings_total.sum() if "timings_total" in frame else frame[stages].to_numpy(dtype=float).sum()
    caption = (
        f"Where the time of the {len(frame)} finished cells went ({total:,.0f} s in all), mean over a task's cells."
        " Wall-clock seconds of this machine with whatever else ran on it: not a benchmark."
    )
    legend = [(stage.removeprefix("timings_"), look(_STAGES[stage])) for stage in stages]
    return Figure("timings", "Where the time goes", caption, [panel], legend)


def _paint_bars(axes: Axes, means: pd.DataFrame) -> None:
    names = [f"{task}\n{model}" for model, task in means.index]
    left = np.zeros(len(means))
    for stage in means.columns:
        axes.barh(names, means[stage], left=left, color=look(_STAGES[stage]).color, height=0.55)
        left += means[stage].to_numpy()
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("seconds a cell, mean")
