"""What else does not fit, beyond the nine findings."""

from __future__ import annotations

import numpy as np
from finding import Finding, signed, table

from synthmix.analysis.paper.published import FAMILIES, Published
from synthmix.statistics import wilson


def further(published: Published) -> list[Finding]:
    """All of them, in the order of the page."""
    return [make(published) for make in (base_rate, decay, verification, runs, intervals)]


def base_rate(p: Published) -> Finding:
    """Which tables of alerts and losses round to the published precision and recall, and their intervals."""
    most = p.protocol.runs_iterations
    fits = list(_tables(p, most))
    rows = []
    for hits, false, missed in fits:
        precision, recall = wilson(hits, hits + false), wilson(hits, hits + missed)
        rows.append(
            (
                hits, false, missed, f"{hits + missed} of at most {most}",
                f"{100 * precision.low:.0f} to {100 * precision.high:.0f}",
                f"{100 * recall.low:.0f} to {100 * recall.high:.0f}",
            )
        )  # fmt: skip
    rates = [(hits + missed) / most for hits, _, missed in fits]
    arithmetic = [
        f"Forecasts that the design allows: an alert at iteration 1 or 2, judged at 2 or 3. {most} runs are said to be"
        f" of that kind, so there are at most {most} forecasts. Whole numbers of them that round to"
        f" {p.early_warning.precision:g} % precision and {p.early_warning.recall:g} % recall:",
        table(("alerts before a loss", "false alerts", "missed losses", "losses", "precision, 95 % (Wilson)", "recall, 95 %"), rows),
    ]  # fmt: skip
    return Finding(
        "base_rate",
        "91 % precision and 87 % recall are printed without a base rate, an n or an interval",
        [p.quote("early_warning")],
        arithmetic,
        f"If every loss counted was in those runs, at least {100 * min(rates):.0f} % of forecasts were followed by a"
        " loss; an alarm that always rings has that precision and 100 % recall. What the 91 % adds cannot be said"
        " without the rest of the table. (If alerts were counted in other runs as well, iteration 1 alone has no t + 1.)",
        {"forecasts_at_most": most, "tables": [list(t) for t in fits], "base_rates": rates},
    )


def _tables(p: Published, most: int) -> list[tuple[int, int, int]]:
    """(hits, false alerts, misses) that round to the published precision and recall."""
    found = []
    for hits in range(1, most + 1):
        for false in range(most - hits + 1):
            for missed in range(most - hits - false + 1):
                precision, recall = hits / (hits + false), hits / (hits + missed)
                if _prints(precision, p.early_warning.precision) and _prints(recall, p.early_warning.recall):
                    found.append((hits, false, missed))
    return found


def _prints(share: float, percent: float) -> bool:
    return abs(100 * share - percent) <= 0.5


def decay(p: Published) -> Finding:
    """Whether the loss per iteration slows."""
    scores = np.array(p.table4.score)
    points, relative = np.diff(scores), np.diff(scores) / scores[:-1]
    rows = [
        (f"{t} to {t + 1}", signed(d), f"{signed(100 * r)} %")
        for t, (d, r) in enumerate(zip(points, relative, strict=True))
    ]
    error = 100 * np.sqrt(0.2 * 0.8 / p.tasks[p.table4.task].test_items)
    return Finding(
        "decay",
        '"Logarithmic or power-law decay" rests on a tenth of a point',
        [p.quote("decay")],
        [
            "Table 4's accuracy, iteration by iteration:",
            table(("step", "points", "of the score before"), rows),
            f"One run's accuracy on {p.tasks[p.table4.task].test_items:,} questions has a standard error of about"
            f" {error:.1f} points; the steps differ by {abs(points[2] - points[1]):.1f}.",
        ],
        "In points the last two steps are alike, relative to the score before them the second is the larger, and the"
        " first is the smallest of all. A decay that slows from the start (a logarithm, a power) is the shape that these"
        " four numbers show least; four points of one chain cannot choose a shape.",
        {"points": [round(float(v), 6) for v in points], "relative": [float(v) for v in relative]},
    )  # fmt: skip


def verification(p: Published) -> Finding:
    """Code as the robust task, and as the most sensitive one."""
    share = p.table3.proportion
    loss = {task: 1 - p.table1.score(task, share) / p.table1.score(task, 0) for task in FAMILIES}
    order = sorted(loss, key=lambda task: -loss[task])
    return Finding(
        "verification",
        "Code is named among the robust tasks and loses most",
        [p.quote("verification")],
        [f"Relative loss at {share:g} %: " + ", ".join(f"{task} {100 * loss[task]:.0f} %" for task in order) + "."],
        f"{order[0]} is first of {len(order)}. Section 5.3 gives the reason (no program was run before training on it),"
        " which makes a test suite of the benchmark no protection of the data.",
        {"relative_loss": loss},
    )


def runs(p: Published) -> Finding:
    """The number of runs that the described grid has."""
    grid = len(p.tasks) * len(p.protocol.proportions) * p.protocol.seeds
    chains = len(p.protocol.iteration_tasks) * len(p.protocol.iteration_proportions) * 2
    return Finding(
        "runs",
        "The grid that is described has half as many runs as are counted",
        [p.quote("runs"), p.quote("runs_grid")],
        [
            f"{len(p.tasks)} tasks × {len(p.protocol.proportions)} shares × {p.protocol.seeds} seeds = {grid}, where"
            f" {p.protocol.runs_main} are stated. The iteration experiments have {chains} conditions, {chains * p.protocol.seeds} runs"
            f" with {p.protocol.seeds} seeds, where {p.protocol.runs_iterations} are stated."
            f" {p.protocol.gpu_hours:,.0f} GPU-hours over {p.protocol.runs} runs are"
            f" {p.protocol.gpu_hours / p.protocol.runs:g} each, the figure given for one training run of the 6.9B model.",
        ],
        "The counts may include runs that are not described (phase 0, repeats). How many seeds stand behind which number"
        " cannot be told.",
        {"described": grid, "stated": p.protocol.runs_main, "iteration_conditions": chains},
    )


def intervals(p: Published) -> Finding:
    """Intervals and effect sizes that are announced."""
    cells = sum(len(row) for row in p.table1.scores.values()) + 2 * len(p.table2.rows) + 2 * len(p.table3.rows)
    cells += 3 * len(p.table4.iterations)
    return Finding(
        "intervals",
        "Intervals and effect sizes are announced and not printed",
        [p.quote("intervals"), p.quote("effect_sizes")],
        [
            f"Tables 1 to 4 print {cells} scores, calibration errors and diversities, none with an interval; of effect"
            f" sizes the text gives one bound (d < {p.losses.cohens_d_10:g} at 10 %), for differences that are not"
            " significant.",
        ],
        "Standard errors in this audit are therefore computed from the sizes of the test sets.",
        {"cells_without_interval": cells},
    )
