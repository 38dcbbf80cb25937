"""Findings 1 to 4: published numbers that disagree with each other."""

from __future__ import annotations

import math

from equation import refit
from finding import Finding, plain, signed, table
from resolution import DISCORDANCE, paired_error, two_sided_p, unpaired_error

from synthmix.analysis.paper.published import FAMILIES, Published
from synthmix.statistics.scaling import Coefficient


def equation3(p: Published) -> Finding:
    """Equation 3 against the four points that it is said to fit."""
    found = refit(p)
    rows = [
        (model, f"{p.safe.proportions[model]:g}", plain(printed), plain(ours))
        for model, printed, ours in zip(found.models, found.printed, found.fitted, strict=True)
    ]
    outlook = [(n, found.as_printed(n), found.predict(n)) for n in p.outlook.parameters]
    low, high = p.outlook.proportions
    larger = "; ".join(
        f"at {n / 1e9:.0f}B Eq. 3 gives {plain(printed)} % and the refit {plain(new.estimate)} %"
        f" [{plain(new.low)}, {plain(new.high)}]"
        for n, printed, new in outlook
    )
    arithmetic = [
        table(("model", "safe share, text, %", "Eq. 3, %", "refit, %"), rows),
        f"R² of Eq. 3 on these points is {plain(found.printed_r_squared, 2)}: a horizontal line through their mean fits"
        f" better. The least-squares line on log10(N / 1e9) is **{found.equation}**, R² {plain(found.law.r_squared, 3)};"
        f" 95 % intervals with {found.law.freedom} degrees of freedom: intercept"
        f" {_interval(found.law.intercept)}, slope {_interval(found.law.slope)}.",
        f"No base of the logarithm repairs it: below one billion parameters the logarithm is negative in every base, so"
        f" Eq. 3 stays under {p.equation3.intercept:g} %, and the text has"
        f" {p.safe.proportions['pythia-410m']:g} % at 410M.",
        f"Section 5.2 expects {low:g} to {high:g} % of 70B to 175B: {larger} (95 % prediction intervals; both sizes lie"
        " outside the four points, so the line is not evidence there).",
    ]
    return Finding(
        "equation3",
        "Equation 3 does not fit its own four points",
        [p.quote("equation3"), p.quote("equation3_r_squared"), p.quote("safe_proportions"), p.quote("outlook")],
        arithmetic,
        "Eq. 3 as printed is not used anywhere in this project; the refit is, with its interval. At every size but 6.9B"
        " only 0, 20 and 30 % are said to have been run on this task, so these points are themselves read off between"
        " shares; how, and with which error, is not said.",
        found.numbers() | {"outlook": {f"{n:g}": {"eq3": a, "refit": b.estimate, "low": b.low, "high": b.high} for n, a, b in outlook}},
        ("equation3",),
    )  # fmt: skip


def _interval(coefficient: Coefficient) -> str:
    return f"[{plain(coefficient.low)}, {plain(coefficient.high)}] %"


def two_values_of_one_cell(p: Published) -> Finding:
    """GSM8K, 6.9B, 30 %, iteration 1, in tables 1 and 4."""
    t1, t4 = p.table1, p.table4
    first, fourth = t1.score(t4.task, t4.proportion) / 100, t4.score[t4.iterations.index(1)] / 100
    base, n = t1.score(t4.task, 0) / 100, p.tasks[t4.task].test_items
    error = unpaired_error(first, fourth, n)
    numbers = {
        "table1": first, "table4": fourth, "difference": fourth - first, "error": error,
        "z": (fourth - first) / error, "p": two_sided_p(fourth - first, error),
        "relative_table1": first / base - 1, "relative_table4": fourth / base - 1,
    }  # fmt: skip
    arithmetic = [
        table(
            ("GSM8K, Pythia-6.9B, 30 %, iteration 1", "accuracy, %", "against 24.1 %"),
            [(name, plain(100 * v), f"{signed(100 * (v / base - 1))} %") for name, v in (("table 1", first), ("table 4", fourth))],
        ),
        f"They differ by {100 * (fourth - first):.1f} points. Two runs on separate sets of {n:,} questions would differ"
        f" by {100 * error:.1f} points (one standard error): z = {numbers['z']:.1f}, p = {numbers['p']:.4f}. On the same"
        " questions less is expected, so chance is a poor explanation.",
    ]  # fmt: skip
    return Finding(
        "table1_table4",
        "One cell has two values: 19.3 % in table 1, 23.8 % in table 4",
        [p.quote("table1_30"), p.quote("table4_iteration1")],
        arithmetic,
        "The early warning rests on table 4: the ECE rises at iteration 1, accuracy stays, and falls at iteration 2 only."
        " With table 1's value accuracy falls at iteration 1, significantly, in the same step as the ECE rises, and"
        " the lead is none. Nothing in the paper says which value is right.",
        numbers,
    )


def stated_losses(p: Published) -> Finding:
    """What the text says is lost at each share, against table 1."""
    t1 = p.table1
    relative = {task: dict(zip(t1.proportions, t1.relative(task), strict=True)) for task in FAMILIES}
    points = {task: {s: (t1.score(task, 0) - t1.score(task, s)) / 100 for s in t1.proportions} for task in FAMILIES}
    shares = [s for s in t1.proportions if s]
    rows = [
        (task, *(f"{100 * points[task][s]:.1f} / {100 * relative[task][s]:.1f}" for s in shares)) for task in FAMILIES
    ]
    stated = [(s, *p.losses.stated[int(s)]) for s in shares]
    compared = [
        (f"{s:g} %", f"{low:g} to {high:g}", *(_span(values, s) for values in (points, relative)))
        for s, low, high in stated
    ]
    at20 = {task: relative[task][20] for task in FAMILIES}
    over = [f"{task} {100 * loss:.1f} %" for task, loss in at20.items() if 100 * loss > p.losses.within]
    small = [f"{m} at {s:g} %" for m, s in p.safe.proportions.items() if s < 20]
    arithmetic = [
        "Loss against 0 % in table 1, points / percent of the score at 0 %:",
        table(("task", *(f"{s:g} %" for s in shares)), rows),
        table(("share", "stated, %", "table 1, points", "table 1, relative, %"), compared),
        f"At 20 %, more than {p.losses.within:g} % of the baseline is lost by {', '.join(over)}. In points, every task"
        f" loses at most {100 * max(points[t][20] for t in FAMILIES):.1f}.",
        f'"Across all scales" also fails by the paper\'s own safe shares: {" and ".join(small)} of synthetic data are'
        f" where {p.safe.margin:g} % are lost, so at 20 % these sizes lose more, unless more synthetic text costs less.",
        f'Beyond 30 % "8-15 %" in larger models: at 30 %, GSM8K loses {100 * relative["Math"][30]:.0f} % at 6.9B and'
        f" {100 * _loss(p, 'pythia-12b'):.0f} % at 12B; at 50 %, 6.9B loses {_span(relative, 50)} %.",
    ]
    return Finding(
        "losses",
        '"Within 3 % up to 20 %" holds in points, not relative to the baseline',
        [p.quote(name) for name in ("within_3", "below_2_at_10", "drops_at_20", "losses_30", "losses_50", "beyond_30")],
        arithmetic,
        "The text moves between points and percent of the baseline: 10 % is right in points only, 20 % is right in"
        " neither, and 30 and 50 % are percent that leave tasks out: code loses more than either range has,"
        " and reading less than that of 50 %. The paper's own criterion of safety (10 %) is relative, so relative losses"
        " are what its budgets must be read in.",
        {"points": _keyed(points), "relative": _keyed(relative)},
        ("losses",),
    )


def _span(values: dict[str, dict[float, float]], share: float) -> str:
    column = [100 * values[task][share] for task in FAMILIES]
    return f"{min(column):.1f} to {max(column):.1f}"


def _keyed(values: dict[str, dict[float, float]]) -> dict[str, dict[str, float]]:
    return {task: {f"{s:g}": loss for s, loss in row.items()} for task, row in values.items()}


def _loss(p: Published, model: str) -> float:
    row = next(row for row in p.table2.rows if row.model == model)
    return 1 - row.synthetic / row.baseline


def ranks(p: Published) -> Finding:
    """Table 3's ranks against its own degradation, and against the hierarchy of the summary."""
    t3 = p.table3
    loss = {row.task: 1 - row.synthetic / row.baseline for row in t3.rows}
    ours = sorted(loss, key=lambda task: -loss[task])
    rows = [(row.task, signed(-100 * loss[row.task]), row.rank, ours.index(row.task) + 1) for row in t3.rows]
    printed = [row.task for row in t3.rows]
    wrong = [row.task for row in t3.rows if ours.index(row.task) + 1 != row.rank]
    errors = {task: _relative_error(p, task, t3.proportion) for task in ("Math", "Code")}
    z = (loss["Code"] - loss["Math"]) / math.hypot(*errors.values())
    arithmetic = [
        table(("task", "relative loss at 30 %", "rank in table 3", "rank by that loss"), rows),
        f"The ranks of {' and '.join(wrong)} are exchanged. Section 1.3 gives yet another order: reading before"
        " commonsense, where table 3 has commonsense (−7 %) before reading (−5 %).",
        f"Whether code or math loses more cannot be told from these numbers: {100 * (loss['Code'] - loss['Math']):.1f}"
        f" points of relative loss apart, {z:.1f} standard errors even if only {100 * DISCORDANCE:.0f} % of items were"
        " answered differently (see finding 5).",
    ]
    return Finding(
        "ranks",
        "Table 3 is not ranked by what it says it is ranked by",
        [p.quote("ranked"), p.quote("hierarchy")],
        arithmetic,
        f"By relative loss the order is {', '.join(ours)}; printed is {', '.join(printed)}. Common to all"
        " three orders: math and code first, factual third, commonsense and reading last.",
        {"relative_loss": loss, "order": ours, "printed": printed, "z_code_math": z},
    )


def _relative_error(p: Published, task: str, share: float) -> float:
    """Standard error of a relative loss, paired, at the assumed discordance."""
    base, score = p.table1.score(task, 0) / 100, p.table1.score(task, share) / 100
    return paired_error(base - score, p.tasks[task].test_items) / base
