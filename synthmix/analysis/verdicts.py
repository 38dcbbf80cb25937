"""Safe, degraded or undecided: every comparison with the control, and what would decide it."""

from __future__ import annotations

import pandas as pd

from synthmix.analysis.conditions import Analysis, percent
from synthmix.analysis.printing import CELL, ITEMS, SEEDS, Column, Table, make_table
from synthmix.analysis.tables import family_note, of_iterations


def verdict_sentences(analysis: Analysis) -> list[str]:
    """Which shares are shown safe, which degraded, and what is undecided; with the numbers that would decide."""
    chains = of_iterations(analysis.conditions)
    if chains.empty or "verdict" not in chains or chains.difference.isna().all():
        return []
    judged = chains[chains.difference.notna()]
    counts = judged.verdict.value_counts()
    margin = f"{100 * analysis.margin:g} points"
    said = [
        f"Against a margin of {margin}, {counts.get('safe', 0)} of {len(judged)} conditions are shown safe (two one-sided"
        f" tests), {counts.get('degraded', 0)} are shown degraded, {counts.get('improved', 0)} improved, and"
        f" {counts.get('undecided', 0)} are undecided, all after Holm's correction; undecided is not safe."
    ]
    if alone := int((judged.n_paired_seeds == 1).sum()):
        said.append(f"{alone} of them compare one training run with one other: their verdicts are about these runs.")
    by_share = judged.groupby("proportion").verdict.value_counts().unstack(fill_value=0)
    parts = [
        f"{percent(float(str(p)))} %: " + ", ".join(f"{n} {word}" for word, n in row[row > 0].items())
        for p, row in by_share.iterrows()
    ]
    if len(parts) > 1:
        said.append(f"By share: {'; '.join(parts)}.")
    return said + _what_would_decide(judged[judged.verdict == "undecided"])


def _what_would_decide(undecided: pd.DataFrame) -> list[str]:
    known = undecided[undecided.items_needed.notna()]
    if known.empty:
        return []
    items, finite = known.items_needed.median(), known.items_needed < float("inf")
    if not finite.any():
        return [f"No number of test items alone would decide the {len(known)} undecided ones: it takes more seeds."]
    text = f"{int(finite.sum())} of the {len(known)} undecided ones would be decided by more test items alone, where the true difference is the one found"
    return [f"{text} (median {known.items_needed[finite].median():,.0f} items); the others need more seeds." if not finite.all()
            else f"{text} (median {items:,.0f} items)."]  # fmt: skip


def verdicts_table(analysis: Analysis) -> Table:
    """Safe, degraded or undecided, with what would decide."""
    frame = of_iterations(analysis.conditions)
    frame = frame[frame.difference.notna()].reset_index(drop=True) if "difference" in frame else frame
    columns = [
        *CELL, Column("difference", "against control, points", "points interval"),
        Column("p_holm", "p, different", "p"), Column("p_equivalence_holm", "p, equivalent", "p"),
        Column("verdict", f"verdict, {100 * analysis.margin:g} points"),
        Column("p_equivalence_relative_holm", f"p, equivalent, {100 * analysis.margin_relative:g} %", "p"),
        Column("verdict_relative", f"verdict, {100 * analysis.margin_relative:g} % relative"),
        Column("items_needed", "items to decide", "number"), Column("seeds_needed", "or seeds to decide", "number"), ITEMS, SEEDS,
    ]  # fmt: skip
    note = (
        f"Safe: shown to lie within {100 * analysis.margin:g} points of the control (or {100 * analysis.margin_relative:g} %"
        " of its score) by two one-sided tests; a small loss inside the margin counts as safe. Degraded, improved: shown"
        " to differ, and not safe. Undecided: neither. Both kinds of p-value carry Holm's correction over this table."
        " Items (with as many seeds) or seeds (with as many items) that would decide the margin in points with a power of"
        " 80 %, if the true difference is the one found; ∞ where more of that kind alone never would."
    )
    return make_table("verdicts", "Safe, degraded, undecided", frame, columns, note)


def comparisons_table(analysis: Analysis) -> Table:
    """Every statistic of every comparison with the control."""
    frame = of_iterations(analysis.conditions)
    frame = frame[frame.difference.notna()].reset_index(drop=True) if "difference" in frame else frame
    columns = [
        *CELL, Column("difference", "difference, points", "points interval"),
        Column("bootstrap", "by bootstrap, points", "points interval"),
        Column("p_value", "p", "p"), Column("freedom", "degrees of freedom", "number"),
        Column("p_seeds", "p, t over seeds", "p"), Column("mcnemar", "McNemar below 0.05, seeds"),
        Column("p_bonferroni", "Bonferroni", "p"), Column("p_holm", "Holm", "p"), Column("p_bh", "Benjamini–Hochberg", "p"),
        Column("d_z", "d_z", "decimal"), Column("d_av", "d_av", "decimal"),
        Column("n_paired_items", "paired items", "count"), Column("n_paired_seeds", "paired seeds", "count"),
    ]  # fmt: skip
    note = (
        family_note(analysis, frame)
        + "Several seeds: Student's t with seeds and items as random factors; how much runs"
        " differ is drawn towards what is typical of the study, since two or three seeds hardly show it. By bootstrap:"
        f" seeds, then items, {analysis.resamples:,} resamples; too narrow with few seeds that differ. The t-test over"
        " seeds is the paper's: it sees as many numbers as there are seeds. Bonferroni and Holm bound the chance of any"
        " false claim, Benjamini–Hochberg the share of false claims. d_z is the mean difference over the standard"
        " deviation of the items' differences, d_av over the mean of both conditions' standard deviations (scores"
        " averaged over seeds)."
    )
    return make_table("comparisons", "Every comparison with the control", frame, columns, note)
