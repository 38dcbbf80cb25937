"""Findings 8 and 9: slopes, bends and directions that the text gives and the tables do not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from finding import Finding, signed, table

from synthmix.analysis.paper.published import FAMILIES, Published
from synthmix.statistics.shapes import piecewise, whitening


def slopes(p: Published) -> Finding:
    """Points of score lost a point of share, between the shares of table 1."""
    t1, s = p.table1, p.slopes
    steps = list(pairwise(t1.proportions))
    found = {task: _slopes(t1.scores[task], t1.proportions) for task in FAMILIES}
    bends = {task: _bends(t1.scores[task], t1.proportions) for task in FAMILIES}
    below = [v for row in found.values() for v, (_, end) in zip(row, steps, strict=True) if end <= s.inflection[0]]
    above = [v for row in found.values() for v, (start, _) in zip(row, steps, strict=True) if start >= s.inflection[0]]
    slower = [task for task, row in found.items() if row[-1] < row[-2]]
    rows = [(task, *(f"{v:.3f}" for v in row)) for task, row in found.items()]
    bent = [
        (task, f"{b['cubic']:.0f}", ", ".join(f"{x:.0f}" for x in b["quartic"]), f"{b['two_lines']:.0f}")
        for task, b in bends.items()
    ]
    arithmetic = [
        "Points lost a point of share, between neighbouring shares of table 1:",
        table(("task", *(f"{a:g} to {b:g} %" for a, b in steps)), rows),
        f"Up to 20 % they are {min(below):.2f} to {max(below):.2f}; the text has {s.below[0]:g} to {s.below[1]:g}. From"
        f" 20 % they are {min(above):.2f} to {max(above):.2f}; the text has {s.above[0]:g} to {s.above[1]:g}. No step of"
        " any task reaches 0.4.",
        "Where a curve through the five points bends, in percent of synthetic data (inflection of the least-squares"
        " cubic; of the quartic, which passes through all five; break of two joined lines):",
        table(("task", "cubic", "quartic", "two lines"), bent),
        f"From 20–30 % to 30–50 % the slope falls in {len(slower)} of {len(found)} tasks ({', '.join(slower)}), where the"
        " abstract says that degradation accelerates beyond 30 %.",
    ]  # fmt: skip
    inside = [t for t, b in bends.items() if s.inflection[0] <= b["cubic"] <= s.inflection[1]]
    return Finding(
        "slopes",
        "The slopes quoted around the inflection are not those of table 1",
        [p.quote(name) for name in ("slopes_below", "slopes_above", "inflection", "accelerates")],
        arithmetic,
        f"Both quoted ranges are about twice what the table holds, and the cubic's inflection lies in 20 to 25 % for"
        f" {len(inside)} of {len(bends)} tasks; two joined lines break at {_ends([b['two_lines'] for b in bends.values()])} %. A change of slope somewhere between 10 and 30 % is in the table; five"
        " means without intervals cannot place it, since the shares stand ten and twenty points apart. The unprinted"
        " 40 % may have been among the points that were fitted.",
        {"slopes": found, "bends": bends, "below": [min(below), max(below)], "above": [min(above), max(above)],
         "slower_beyond_30": slower},
    )  # fmt: skip


def _ends(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


def _slopes(scores: list[float], shares: list[float]) -> list[float]:
    return [float(v) for v in -np.diff(scores) / np.diff(shares)]


def _bends(scores: list[float], shares: list[float]) -> dict[str, Any]:
    """Inflections of the cubic and of the quartic inside the range, and the best break of two joined lines; percent."""
    cubic = np.polynomial.Polynomial.fit(shares, scores, 3).deriv(2).roots()
    quartic = np.polynomial.Polynomial.fit(shares, scores, 4).deriv(2).roots()
    inside = sorted(float(x.real) for x in np.atleast_1d(quartic) if not np.imag(x) and shares[0] < x < shares[-1])
    return {"cubic": float(cubic[0]), "quartic": inside, "two_lines": _break(scores, shares)}


def _break(scores: list[float], shares: list[float]) -> float:
    """Least-squares break of two lines that meet."""
    x = np.array(shares)
    pieces, _ = piecewise(np.array([scores]), x, "two lines", whitening(None, len(x)))
    return float(pieces[0, 3])


def directions(p: Published) -> Finding:
    """Which way self-BLEU goes, and how far ahead the calibration error is."""
    t4 = p.table4
    first = [t4.score[0], t4.ece[0], t4.diversity[0]]
    rows = [
        (
            str(t), f"{1 - diversity:.2f}", f"{diversity:.2f}", f"{signed(100 * (diversity / first[2] - 1))} %",
            f"{signed(100 * (score / first[0] - 1))} %", f"{signed(100 * (ece / first[1] - 1), 0)} %",
        )
        for t, score, ece, diversity in zip(t4.iterations, t4.score, t4.ece, t4.diversity, strict=True)
    ]  # fmt: skip
    self_bleu = [round(1 - d, 10) for d in t4.diversity]
    warned = next(
        t for t, e in zip(t4.iterations, t4.ece, strict=True) if e / first[1] - 1 >= p.early_warning.warning / 100
    )
    fell = p.early_warning.significant_at
    arithmetic = [
        "Table 4, against iteration 0:",
        table(("iteration", "self-BLEU", "1 − self-BLEU", "change", "accuracy", "ECE"), rows),
        f"Self-BLEU rises from {self_bleu[0]:.2f} to {self_bleu[-1]:.2f}; what falls is 1 − self-BLEU. It falls first at"
        f" iteration 1, by {100 * (1 - t4.diversity[1] / first[2]):.1f} %, where accuracy falls by"
        f" {100 * (1 - t4.score[1] / first[0]):.1f} %: no later than the ECE rises.",
        f"The ECE is above +{p.early_warning.warning:g} % first at iteration {warned}, and the text calls the accuracy"
        f" loss significant first at iteration {fell}: a lead of {fell - warned}.",
    ]  # fmt: skip
    return Finding(
        "directions",
        "Self-BLEU rises where it is said to fall, and the lead of the ECE has three lengths",
        [p.quote(n) for n in ("self_bleu_definition", "self_bleu", "lead_generations", "lead_iterations")],
        arithmetic,
        f'"2-3 generations" in section 1.3, "1-2 iterations" in section 6, {fell - warned} in the only chain that is'
        " printed. By the same table diversity gives no less notice than the ECE, though the text says that it gives"
        " none. One chain cannot rank two signals.",
        {"self_bleu": self_bleu, "alert_at": warned, "loss_at": fell, "lead": fell - warned},
    )
