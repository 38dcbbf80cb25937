"""Findings 5 to 7: what the published design can show, and what was left out."""

from __future__ import annotations

import math

from finding import Finding, signed, table
from resolution import (
    DISCORDANCE,
    binomial_error,
    detectable,
    granularity,
    items_for_difference,
    items_for_equivalence,
    paired_error,
    two_sided_p,
    unpaired_error,
)
from scipy import stats
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from synthmix.analysis.paper.published import FAMILIES, Published
from synthmix.statistics.equivalence import ALPHA, MARGIN_POINTS, MARGIN_RELATIVE, tost


def humaneval(p: Published) -> Finding:
    """What 164 problems can tell."""
    t1, n = p.table1, p.tasks["Code"].test_items
    base, score = t1.score("Code", 0) / 100, t1.score("Code", 30) / 100
    drop, family = base - score, _family(p)
    alpha = ALPHA / family
    error = unpaired_error(base, score, n)
    lost = round(base * n) - round(score * n)
    exact = float(stats.binomtest(0, lost).pvalue)
    # of the mean over seeds: t at a corrected level, with seeds - 1 degrees of freedom
    spread = drop * math.sqrt(p.protocol.seeds) / float(stats.t.ppf(1 - alpha / 2, p.protocol.seeds - 1))
    pooled = {f"{d:.2f}": two_sided_p(drop, paired_error(drop, p.protocol.seeds * n, d)) for d in (0.05, DISCORDANCE)}
    needed = {f"{d:.2f}": items_for_difference(drop, alpha, d) for d in (0.05, DISCORDANCE, 0.20)}
    grim = [granularity(v, runs * n) for runs in (1, p.protocol.seeds) for v in t1.scores["Code"]]
    single, seeds = grim[: len(grim) // 2], grim[len(grim) // 2 :]
    odd = [f"{a.printed:g}" for a, b in zip(single, seeds, strict=True) if not (a.possible or b.possible)]
    arithmetic = [
        f"One problem is {100 / n:.2f} points. The binomial standard error is {100 * binomial_error(base, n):.1f} points"
        f" at {100 * base:.1f} %, that of a difference between two runs {100 * error:.1f}: the drop of"
        f" {100 * drop:.1f} points at 30 % is z = {drop / error:.2f}, p = {two_sided_p(drop, error):.2f}.",
        f"Pairing one run with one run cannot save it. {100 * drop:.1f} points are {lost} problems; if all {lost} are"
        f" lost and none is gained, McNemar's exact p is {exact:.3f}. Table 1 has {family} comparisons, so Bonferroni"
        f" wants p < {alpha:.4f}.",
        f"What the paired t-tests pair is not said. Over {p.protocol.seeds} seeds one needs |t| > {stats.t.ppf(1 - alpha / 2, 2):.1f}: the three"
        f" seeds' drops would have to agree within a standard deviation of {100 * spread:.2f} points, or"
        f" {spread * n:.1f} problems.",
        f"All {p.protocol.seeds * n} pairs of a problem and a seed taken as independent, which they are not, give p ="
        + " and".join(f" {v:.1g} if {100 * float(d):.0f} % are answered differently" for d, v in pooled.items())
        + ".",
        "Problems that a paired test needs to find such a drop with 80 % power at that level: "
        + ", ".join(f"{k:,} if {100 * float(d):.0f} % are answered differently" for d, k in needed.items())
        + f"; unpaired, {_unpaired_needed(base, score, alpha):,}.",
        f"Neither one run nor the mean of three can print {' or '.join(odd)} %: with {n} problems the nearest values are"
        f" {_nearest(seeds, odd)} (means of three runs). So pass@1 here is a mean over several samples a problem or over"
        " another number of runs; the paper says neither.",
    ]
    return Finding(
        "humaneval",
        "HumanEval's 164 problems cannot show what the asterisks claim",
        [p.quote("humaneval"), p.quote("paired_t"), p.quote("table1_30")],
        arithmetic,
        "One run against one run cannot earn an asterisk. Several seeds, or several samples a problem, can, if few"
        " problems change their verdict; how many of either there were, and how many problems changed, is not reported."
        " So the asterisks of code cannot be checked.",
        {
            "standard_error": binomial_error(base, n), "error_of_difference": error, "drop": drop, "z": drop / error,
            "p": two_sided_p(drop, error), "problems_lost": lost, "mcnemar_best_p": exact, "alpha": alpha,
            "seed_sd_needed": spread, "pooled_p": pooled, "paired_problems_needed": needed,
            "unpaired_problems_needed": _unpaired_needed(base, score, alpha),
            "impossible_means": [float(v) for v in odd],
        },
        ("differences",),
    )  # fmt: skip


def _family(p: Published) -> int:
    """Comparisons with 0 % in table 1: the smallest family its note can mean."""
    return len(p.table1.scores) * (len(p.table1.proportions) - 1)


def _nearest(values: list, odd: list[str]) -> str:
    chosen = [v for v in values if f"{v.printed:g}" in odd]
    return " and ".join(f"{v.below:.2f} and {v.above:.2f} (for {v.printed:g})" for v in chosen)


def _unpaired_needed(base: float, score: float, alpha: float) -> int:

    # the function's own alpha is two-sided when told so
    return math.ceil(
        samplesize_proportions_2indep_onetail(base - score, score, 0.80, alpha=alpha, alternative="two-sided")
    )


def not_significant_is_not_safe(p: Published) -> Finding:
    """What an equivalence test could have shown at 20 %."""
    alpha = ALPHA / _family(p)
    found = {task: _at_20(p, task, alpha) for task in FAMILIES}
    rows = [
        (
            task, f"{p.tasks[task].test_items:,}", signed(100 * f["difference"]),
            _verdict(f["p_unpaired"]), _verdict(f["p_paired"]), _verdict(f["p_relative"]),
            f"{100 * f['detectable_unpaired']:.1f} / {100 * f['detectable_paired']:.1f}",
            f"{f['n_unpaired']:,} / {f['n_paired']:,}",
        )
        for task, f in found.items()
    ]  # fmt: skip
    shown = [task for task, f in found.items() if f["p_unpaired"] < ALPHA]
    paired = [task for task, f in found.items() if f["p_paired"] < ALPHA]
    relative = [task for task, f in found.items() if f["p_relative"] < ALPHA]
    arithmetic = [
        "At 20 %, one run against one run. TOST is the p-value of two one-sided tests of a difference within ±3 points;"
        f" *paired* assumes that {100 * DISCORDANCE:.0f} % of items are answered differently, *10 % relative* takes a"
        " tenth of the baseline as the margin, paired. *Detectable* is the smallest true loss, in points, that a test"
        f" with Bonferroni over {_family(p)} comparisons finds with 80 % power, unpaired / paired. *n* is what TOST at 3"
        " points needs for 80 % power if nothing changed, unpaired / paired.",
        table(
            ("task", "items", "difference, points", "TOST, unpaired", "TOST, paired", "TOST, 10 % relative, paired",
             "detectable, points", "n for TOST"),
            rows,
        ),
        "Standard errors are binomial (an upper bound for the two F1 scores) and leave out the variation between"
        " training runs, of which nothing is published; with it every p-value is larger. Each test is at 5 %, not corrected for the five.",
    ]  # fmt: skip
    return Finding(
        "not_significant",
        '"Not significant" is read as "safe"',
        [p.quote("not_significant"), p.quote("safe_zone")],
        arithmetic,
        f"Safety within 3 points at 20 % follows from the published numbers alone for {_list(shown)}; with pairing, if"
        f" the assumed discordance holds and runs varied no further, for {_list(paired)}. Against the paper's own"
        f" criterion, 10 % of the baseline, paired, it follows for {_list(relative)}. For the rest a non-significant"
        " difference says that the test set is small.",
        {"margin": MARGIN_POINTS, "alpha": alpha, "discordance": DISCORDANCE, "tasks": found},
        ("differences",),
    )


def _at_20(p: Published, task: str, alpha: float) -> dict[str, float]:
    base, score, n = p.table1.score(task, 0) / 100, p.table1.score(task, 20) / 100, p.tasks[task].test_items
    difference = score - base
    unpaired, paired = unpaired_error(base, score, n), paired_error(difference, n)
    return {
        "difference": difference, "error_unpaired": unpaired, "error_paired": paired,
        "p_unpaired": tost(difference, unpaired, math.inf, MARGIN_POINTS),
        "p_paired": tost(difference, paired, math.inf, MARGIN_POINTS),
        "p_relative": tost(difference, paired, math.inf, MARGIN_RELATIVE * base),
        "detectable_unpaired": detectable(unpaired, alpha), "detectable_paired": detectable(paired, alpha),
        "n_unpaired": items_for_equivalence(2 * base * (1 - base), MARGIN_POINTS),
        "n_paired": items_for_equivalence(DISCORDANCE, MARGIN_POINTS),
    }  # fmt: skip


def _verdict(p_value: float) -> str:
    shown = "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return f"{shown} (shown)" if p_value < ALPHA else f"{shown} (not shown)"


def _list(names: list[str]) -> str:
    return ", ".join(names) if names else "no task"


def what_is_missing(p: Published) -> Finding:
    """A task without training data, and a share without results."""
    untrained = [task for task, about in p.tasks.items() if not about.train_items]
    unprinted = sorted(set(p.protocol.proportions) - set(p.table1.proportions))
    rows = [(about.benchmark, f"{about.train_items:,}", f"{about.test_items:,}") for about in p.tasks.values()]
    shares = ", ".join(f"{share:g} %" for share in unprinted)
    late = [share for share in p.protocol.proportions if share > 30]
    arithmetic = [
        table(("benchmark", "training items as published", "test items"), rows),
        f"Shares that were run and are not in table 1: {shares}. Table 1 has {len(set(late) - set(unprinted))} of the"
        f" {len(late)} shares above 30 %, where the text says that degradation accelerates.",
    ]
    return Finding(
        "missing",
        "Code has no training set, and a share that was run is not printed",
        [p.quote("training_sets"), p.quote("shares_run")],
        arithmetic,
        f"{p.tasks[untrained[0]].benchmark} is a test set: what the code models were fine-tuned on is not said, so their"
        " phase 0 cannot be repeated (here: MBPP in HumanEval's form, docs/protocol.md). The 40 % column is run in this"
        " project's studies and printed.",
        {"without_training_set": untrained, "run_and_not_printed": unprinted},
    )
