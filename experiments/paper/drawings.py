"""The audit's figures: equation 3 with its points, relative losses of table 1, and what the test sets resolve."""

from __future__ import annotations

import numpy as np
from equation import Refit
from matplotlib.axes import Axes
from resolution import DISCORDANCE, paired_error, unpaired_error
from scipy import stats

from synthmix.analysis.paper.published import FAMILIES, Published
from synthmix.analysis.svg import INK, canvas, look, standalone, to_svg
from synthmix.statistics.equivalence import MARGIN_POINTS, MARGIN_RELATIVE

WIDTH, HEIGHT = 6.4, 3.6  # inches


def equation3(p: Published, found: Refit) -> str:
    """The four points, Eq. 3 as printed, the refit with its 95 % confidence and prediction bands."""
    sizes = np.geomspace(2e8, 3e10, 121)
    bands = [found.band(n) for n in sizes]
    with canvas(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        refit, printed = look(0), look(1)
        for low, high, alpha in (("prediction_low", "prediction_high", 0.10), ("low", "high", 0.18)):
            axes.fill_between(
                sizes, [getattr(b, low) for b in bands], [getattr(b, high) for b in bands],
                color=refit.color, alpha=alpha, linewidth=0,
            )  # fmt: skip
        axes.plot(sizes, [b.estimate for b in bands], color=refit.color, linestyle=refit.style)
        axes.plot(sizes, [found.as_printed(n) for n in sizes], color=printed.color, linestyle=printed.style)
        axes.plot(found.parameters, found.stated, "o", color=INK)
        for model, n, share, line in zip(found.models, found.parameters, found.stated, found.fitted, strict=True):
            side, where = (6, "bottom") if share > line else (-6, "top")
            axes.annotate(
                model.removeprefix("pythia-").upper(), (n, share), xytext=(0, side), textcoords="offset points",
                ha="center", va=where, fontsize=8.5,
            )  # fmt: skip
        _label(axes, refit.color, f"refit: {found.equation} (R² {found.law.r_squared:.2f})", 0.96)
        printed_r2 = f"{found.printed_r_squared:.2f}".replace("-", "−")
        _label(axes, printed.color, f"Eq. 3 as printed (R² {printed_r2})", 0.89)
        axes.set_xscale("log")
        axes.set(xlabel="parameters", ylabel="safe synthetic share, %", ylim=(0, 50), xlim=(sizes[0], sizes[-1]))
        svg = to_svg(figure, "equation3", ALT["equation3"])
    return standalone(svg)


def _label(axes: Axes, color: str, text: str, y: float) -> None:
    axes.text(0.02, y, text, transform=axes.transAxes, color=color, va="top", fontsize=9)


def losses(p: Published) -> str:
    """Relative loss against 0 % by task and share, with the 3 % of the text and the 10 % of its criterion."""
    t1 = p.table1
    with canvas(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        for i, task in enumerate(FAMILIES):
            mark, loss = look(i), [100 * v for v in t1.relative(task)]
            axes.plot(t1.proportions, loss, color=mark.color, marker=mark.marker, linestyle=mark.style)
            axes.annotate(
                task, (t1.proportions[-1], loss[-1]), xytext=(6, 0), textcoords="offset points", va="center",
                color=mark.color, fontsize=8.5,
            )  # fmt: skip
        for level, text, x, side in (
            (p.losses.within, 'the text\'s "within 3 %"', 60, "right"),
            (p.safe.margin, "the criterion of safety", 0, "left"),
        ):
            axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.annotate(text, (x, level), xytext=(0, 3), textcoords="offset points", fontsize=8, ha=side)
        axes.set(xlabel="synthetic share, %", ylabel="score lost, % of the score at 0 %", xlim=(-2, 61), ylim=(-2, 48))
        axes.set_xticks(t1.proportions)
        svg = to_svg(figure, "losses", ALT["losses"])
    return standalone(svg)


def differences(p: Published, shares: tuple[float, ...] = (20, 30)) -> str:
    """Differences to 0 % with the 95 % intervals that the test sets allow, unpaired and paired, two margins."""
    t1, z = p.table1, float(stats.norm.ppf(0.975))
    with canvas(7.2, 3.4, left=1.0) as figure:
        panels = figure.subplots(1, len(shares), sharex=True, sharey=True)
        figure.subplots_adjust(wspace=0.08, top=0.92)
        for axes, share in zip(panels, shares, strict=True):
            for row, task in enumerate(FAMILIES):
                base, score, n = t1.score(task, 0) / 100, t1.score(task, share) / 100, p.tasks[task].test_items
                loss = score - base
                # items alone: the range in which a difference counts as none
                margin = 100 * MARGIN_RELATIVE * base
                axes.plot([-margin, -margin], [row - 0.38, row + 0.38], color=INK, linewidth=1.2)
                for offset, error, mark in (
                    (-0.14, unpaired_error(base, score, n), look(1)), (0.14, paired_error(loss, n), look(0)),
                ):  # fmt: skip
                    axes.errorbar(
                        [100 * loss], [row + offset], xerr=[100 * z * error], color=mark.color, marker=mark.marker,
                        capsize=2.5, elinewidth=1,
                    )  # fmt: skip
            axes.axvline(-100 * MARGIN_POINTS, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.set_title(f"{share:g} % against 0 %")
            axes.set_xlabel("difference, points")
        panels[0].set_yticks(range(len(FAMILIES)), FAMILIES)
        panels[0].invert_yaxis()
        svg = to_svg(figure, "differences", ALT["differences"])
    return standalone(svg)


#: What each figure shows, in a line.
ALT = {
    "equation3": "Safe synthetic share against model size: stated points, equation 3 as printed, and the refit",
    "losses": "Relative loss by task and synthetic share, from table 1",
    "differences": "Differences to 0 % in table 1, with the intervals that the test sets allow",
}
#: What is said under each figure.
CAPTIONS = {
    "equation3": (
        "Points: the safe shares that the text states. Dashed: Eq. 3 as printed. Line: least squares on log10 N with its"
        " 95 % confidence band (dark) and prediction band (pale), two degrees of freedom. The points carry errors that"
        " are not published, so the bands are those of four exact numbers around a line; they say nothing about other"
        " tasks, other model families or sizes outside the points."
    ),
    "losses": (
        "Score lost relative to 0 %, from table 1 (Pythia-6.9B, iteration 1). At 20 % two tasks have lost more than 5 %"
        " of their baseline. The figure shows means without intervals, because none are published; lines only join them."
    ),
    "differences": (
        "Differences to 0 % in table 1 with 95 % intervals from the size of the test sets: triangles, as if two runs had"
        f" answered separate items; squares, paired, if {100 * DISCORDANCE:.0f} % of items were answered differently"
        " (assumed: no discordance is published). Dotted: a loss of 3 points; bars: a loss of 10 % of the baseline. F1"
        " scores have narrower intervals than drawn; variation between training runs is in none of them."
    ),
}
