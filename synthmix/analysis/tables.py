"""The report's tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from synthmix.analysis.conditions import CONDITION, ESTIMATORS, Analysis, of, trained_longer
from synthmix.analysis.groups import group_conditions
from synthmix.analysis.printing import (
    CELL,
    ITEMS,
    ITERATION,
    MODE,
    MODEL,
    SEEDS,
    SHARE,
    TASK,
    Column,
    Table,
    make_table,
)
from synthmix.statistics.differences import NO_DIFFERENCE

#: A baseline in this range leaves room to fall and to rise.
WELL_PLACED = (0.5, 0.8)


def _with(conditions: pd.DataFrame, column: str) -> pd.DataFrame:
    """The conditions for which a column is known; none where it does not exist."""
    known = conditions[column].notna() if column in conditions else [False] * len(conditions)
    return conditions[known].reset_index(drop=True)


def score_table(analysis: Analysis) -> Table:
    """Score against proportion, with the paired difference to the 0 % chain at the same iteration."""
    frame = of_iterations(analysis.conditions)
    columns = [
        *CELL, Column("score", "score, %", "percent interval"),
        Column("difference", "against control, points", "points interval"),
        Column("relative", "relative, %", "points interval"), Column("p_value", "p", "p"),
        Column("p_bonferroni", "p, Bonferroni", "p"), Column("verdict", "verdict"),
        ITEMS, SEEDS,
    ]  # fmt: skip
    return make_table("score", "Score by share, against the control", frame, columns, _score_note(analysis, frame))


def of_iterations(conditions: pd.DataFrame) -> pd.DataFrame:
    """Conditions after phase 0."""
    return conditions[conditions.iteration >= 1].reset_index(drop=True) if len(conditions) else conditions


def _score_note(analysis: Analysis, frame: pd.DataFrame) -> str:
    if frame.empty:
        return ""
    note = f"Brackets are 95 % intervals. Differences are paired over items with {_control(analysis)} (the control). "
    longer = trained_longer(analysis.conditions)
    if analysis.control == "chain":
        note += f"The control took fewer steps than {' and '.join(longer)}. " if longer else "It took as many steps. "
    note += family_note(analysis, frame)
    missing = int((frame.control == "missing").sum())
    if missing:
        note += f"Rows without a finished control, and therefore without a difference: {missing}. "
    unpaired = int(frame.n_unpaired_items.sum())
    if unpaired:
        note += f"Items that only one side has are left out of the differences: {unpaired:,} over all rows and seeds. "
    return note + "A difference that is not significant is not a proof that the share is safe: see the verdict."


def _control(analysis: Analysis) -> str:
    chain = "the 0 % chain at the same iteration"
    return chain if analysis.control == "chain" else "the phase 0 model that the chain began from"


def family_note(analysis: Analysis, frame: pd.DataFrame) -> str:
    family = analysis.family
    if not family:
        return ""
    tests = sorted({t for t in frame.p_test if t and t != NO_DIFFERENCE})
    noun = "comparison" if family == 1 else "comparisons"
    return (
        f"Family: {family} {noun} with the control in this table; Bonferroni multiplies p by {family}, so that"
        f" 0.05 is {0.05 / family:.2g} for one comparison. Test: {' or '.join(tests) or 'none needed'}. "
    )


def iterations_table(analysis: Analysis, proportions: Sequence[float] | None = None) -> Table:
    """Score, ECE and 1 − self-BLEU by iteration, the layout of the paper's table 4.

    Args:
        proportions: synthetic shares to print; None: 0 and the highest.
    """
    conditions, frames = analysis.conditions, []
    chains = of_iterations(conditions)
    if len(chains):
        chains = chains.assign(top=chains.groupby(["model", "task", "mode"]).proportion.transform("max"))
    for _, chain in chains.drop_duplicates(["model", "task", "mode", "proportion"]).iterrows():
        if chain.proportion not in (proportions if proportions is not None else (0.0, chain.top)):
            continue
        start = of(conditions, model=chain.model, task=chain.task, iteration=0)
        rest = of(chains, model=chain.model, task=chain.task, mode=chain["mode"], proportion=chain.proportion)
        frames.append(pd.concat([start, rest]).assign(mode=chain["mode"], proportion=chain.proportion))
    frame = pd.concat(frames, ignore_index=True) if frames else chains
    columns = [
        TASK, MODEL, MODE, SHARE, ITERATION,
        Column("score", "score, %", "percent interval"), Column("ece", "ECE", "decimal interval"),
        Column("test_overconfidence", "overconfidence", "decimal"),
        Column("diversity_diversity", "1 − self-BLEU", "decimal"),
        Column("diversity_distinct_2", "distinct-2", "decimal"),
        Column("test_invalid_rate", "invalid, %", "percent"), Column("alert", "alert"), SEEDS,
    ]  # fmt: skip
    note = (
        "Iteration 0 is the phase 0 baseline, shared by every share. 1 − self-BLEU and distinct-2 are those of the text"
        " that the cell's own model writes. An alert compares the ECE on validation items with the baseline's, and is"
        " the worst of the seeds."
    )
    return make_table("iterations", "Iterations: score, calibration, diversity", frame, columns, note)


def calibration_table(analysis: Analysis) -> Table:
    """ECE under each confidence estimator."""
    frame = analysis.conditions
    names = {
        "confidence_mean": "mean token", "confidence_sum": "whole answer", "confidence_answer": "answer span",
        "confidence_agreement": "agreement", "confidence_p_true": "P(True)",
    }  # fmt: skip
    columns = [*CELL, Column("ece", "ECE, headline", "decimal interval")]
    columns += [Column(f"{e}_ece", f"ECE, {names[e]}", "decimal interval") for e in ESTIMATORS[1:]]
    columns += [
        Column("test_n_answer", "items with a span", "count"), Column("test_brier", "Brier", "decimal"), SEEDS,
    ]  # fmt: skip
    note = (
        f"ECE over {analysis.bins} bins of equal width on the test items, mean of the seeds. The estimators are the"
        " exponential of the mean token log-probability, that of their sum, and that of the span which states the"
        " answer (only items that state one); where they were asked for, the agreement of sampled answers with the"
        " greedy one, and P(True). An ECE of few items lies above the truth, the more the fewer; the"
        " intervals have that bias taken off, so an estimate stands near their upper end. Where the estimators disagree"
        " on a direction, no single one of them is evidence for it."
    )
    return make_table("calibration", "Calibration under each confidence estimator", frame, columns, note)


def baselines_table(analysis: Analysis) -> Table:
    """Phase 0 scores, and whether each leaves room to fall and to rise."""
    frame = of(analysis.conditions, iteration=0).reset_index(drop=True)
    if len(frame):
        frame = frame.assign(placed=[_placed(score) for score in frame.score])
    columns = [
        TASK, MODEL, Column("parameters", "parameters", "count"), Column("metric", "metric"),
        Column("score", "score, %", "percent interval"), Column("ece", "ECE", "decimal interval"),
        Column("test_invalid_rate", "invalid, %", "percent"), Column("placed", "between 50 and 80 %"),
        ITEMS, SEEDS,
    ]  # fmt: skip
    note = "A score near its floor or its ceiling hides a change: 50 to 80 % leaves room for both."
    return make_table("baselines", "Phase 0 baselines", frame, columns, note)


def _placed(score: float) -> str:
    low, high = WELL_PLACED
    return "yes" if low <= score <= high else "no: too low" if score < low else "no: too high"


def measures_table(analysis: Analysis) -> Table:
    """Everything else that was measured of the answers."""
    frame = analysis.conditions
    pass_at = sorted((c for c in frame if str(c).startswith("test_pass@")), key=lambda c: int(str(c).split("@")[1]))
    columns = [
        *CELL, Column("test_score", "score, strict, %", "percent"),
        Column("test_score_flexible", "score, flexible, %", "percent"),
        *_secondary(frame),
        *(Column(str(c), f"{str(c).removeprefix('test_')}, %", "percent") for c in pass_at),
        Column("test_invalid_rate", "invalid, %", "percent"),
        Column("test_perplexity", "gold perplexity", "decimal"), Column("train_loss", "training loss", "decimal"),
        SEEDS,
    ]  # fmt: skip
    note = (
        "Means over test items and seeds, without intervals. Strict wants the task's own answer marker, flexible takes"
        " the last thing that could be an answer (of choices: the most probable per token); pass@k counts strict"
        " answers among sampled ones (a score of 0.5 or more, where answers are scored in parts). Gold perplexity is that of the right answers under the model."
    )
    return make_table("measures", "Further measures of the answers", frame, columns, note)


#: Columns of a test summary that are not a score of their own.
_NOT_SCORES = (
    "n|score|score_flexible|invalid_rate|shortened|unfit|confidence|ece|overconfidence|brier|perplexity"
    r"|(ece|n)_.*|pass@.*|.*\[.*"
)


def _secondary(frame: pd.DataFrame) -> list[Column]:
    """A column for each further score of the tasks at hand."""
    names = [str(c).removeprefix("test_") for c in frame if str(c).startswith("test_")]
    words = {"em": "exact match"}
    return [
        Column(f"test_{name}", f"{words.get(name, name.replace('_', ' '))}, %", "percent")
        for name in names
        if not re.fullmatch(_NOT_SCORES, name)
    ]


def groups_table(analysis: Analysis) -> Table:
    """Score of each group of items, with the paired difference to the control."""
    columns = [
        *CELL, Column("set", "items of"), Column("group", "group"), Column("score", "score, %", "percent interval"),
        Column("difference", "against control, points", "points interval"),
        Column("em", "exact match, %", "percent"), Column("abstains", "abstains, %", "percent"), ITEMS, SEEDS,
    ]  # fmt: skip
    note = (
        "Items of a task that are also scored by themselves. Brackets are 95 % intervals, differences are paired over"
        " the group's items with the control's; no p-values here: the groups were not what the study set out to test."
    )
    return make_table("groups", "Groups of items", group_conditions(analysis), columns, note)


def diversity_table(analysis: Analysis) -> Table:
    """Every diversity metric of what each condition's models wrote."""
    frame = _with(analysis.conditions, "diversity_n")
    names = {
        "self_bleu": "self-BLEU", "diversity": "1 − self-BLEU", "distinct_1": "distinct-1", "distinct_2": "distinct-2",
        "distinct_3": "distinct-3", "entropy": "entropy, bits",
    }  # fmt: skip
    columns = [*CELL, Column("diversity_n", "texts", "count")]
    columns += [Column(f"diversity_{name}", header, "decimal") for name, header in names.items()]
    columns += [
        Column("diversity_unique_fraction", "unique, %", "percent"),
        Column("diversity_tail_mass", "tail mass, %", "percent"), SEEDS,
    ]  # fmt: skip
    note = (
        "Over the same number of texts a cell, mean of the seeds, without intervals. Tail mass is the share of the"
        " external set's rare words that the texts still hold."
    )
    return make_table("diversity", "Diversity of the synthetic text", frame, columns, note)


def mixtures_table(analysis: Analysis) -> Table:
    """What each condition was trained on."""
    frame = analysis.conditions
    columns = [
        *CELL, Column("mixture_external", "external", "count"),
        Column("mixture_synthetic", "synthetic", "count"), Column("mixture_malformed", "of these malformed", "count"),
        Column("mixture_proportion_realised", "realised, %", "percent"), Column("train_loss", "training loss", "decimal"),
        Column("train_steps", "steps", "count"), SEEDS,
    ]  # fmt: skip
    note = "Examples a training set holds, mean of the seeds."
    return make_table("mixtures", "Training mixtures", frame, columns, note)


def pools_table(analysis: Analysis) -> Table:
    """What each condition's models wrote."""
    frame = _with(analysis.conditions, "pool_tries")
    columns = [
        *CELL, Column("pool_tries", "written", "count"), Column("pool_kept", "kept", "count"),
        Column("pool_malformed", "malformed", "count"), Column("pool_wellformed_rate", "well-formed, %", "percent"),
        Column("pool_copies_train", "train copies", "count"), Column("pool_copies_test", "test copies", "count"),
        Column("pool_overlap_train", "train 13-grams", "count"), Column("pool_overlap_test", "test 13-grams", "count"),
        Column("pool_tokens_per_kept", "tokens a kept text", "count"),
        Column("pool_filter_tokens", "tokens of the filter", "count"), Column("pool_why", "dropped, most often"), SEEDS,
    ]  # fmt: skip
    if "pool_dropped" in analysis.study.done:
        frame = frame.assign(pool_why=[_most_often(analysis, row) for _, row in frame.iterrows()])
    note = (
        "Mean of the seeds. Tokens a kept text are all that were written for the pool, what the filter asked for"
        " included, over the texts that it kept. A copy states the question of a training or test item; copies of test items are"
        " contamination: they would teach the next iteration what it is tested on."
    )
    return make_table("pools", "Synthetic pools", frame, columns, note)


def _most_often(analysis: Analysis, condition: pd.Series) -> str:
    """The reason for which a condition's pools dropped most texts, with the number over all seeds."""
    cells = of(analysis.study.done, **{str(column): condition[column] for column in CONDITION})
    counts: Counter[str] = Counter()
    for dropped in cells.pool_dropped.dropna():
        counts.update(json.loads(dropped))
    return "; ".join(f"{reason} ({n})" for reason, n in counts.most_common(1))


def levers_table(analysis: Analysis) -> Table:
    """Quality, diversity and complexity of what each condition's models wrote."""
    frame = _with(analysis.conditions, "pool_complexity_length")
    names = {
        "quality_wellformed": ("well-formed, %", "percent"), "quality_judged": ("of these judged, %", "percent"),
        "quality_verified": ("of these verified, %", "percent"),
        "diversity_coverage": ("coverage, %", "percent"), "diversity_tail_mass": ("tail mass, %", "percent"),
        "diversity_self_bleu": ("self-BLEU", "decimal"), "diversity_ead": ("EAD", "decimal"),
        "complexity_steps": ("steps", "decimal"), "complexity_length": ("words", "decimal"),
        "complexity_depth": ("depth", "decimal"),
    }  # fmt: skip
    columns = [*CELL, *(Column(f"pool_{name}", header, kind) for name, (header, kind) in names.items()), SEEDS]  # type: ignore[arg-type]
    note = (
        "Of the first kept texts of each pool, the same number a cell; mean of the seeds, without intervals. Verified:"
        " what can be told from a text itself, or its own tests; see docs/filters.md for every definition."
    )
    return make_table("levers", "Levers: quality, diversity, complexity of the synthetic text", frame, columns, note)


def timings_table(analysis: Analysis) -> Table:
    """Seconds a cell, by stage."""
    frame = analysis.conditions
    stages = [Column(f"timings_{s}", f"{s}, s", "seconds") for s in ("mix", "train", "evaluate", "generate", "total")]
    columns = [*CELL, *stages]
    columns += [Column("train_tokens_per_second", "training tokens/s", "count"), SEEDS]
    note = "Seconds a cell, mean of the seeds, as measured; cells that run at once share a machine."
    return make_table("timings", "Timings", frame, columns, note)


def unfinished_table(analysis: Analysis) -> Table:
    """Cells that are planned but not done, and what the failed ones said."""
    cells = analysis.study.cells
    frame = cells[cells.status != "done"].reset_index(drop=True)
    columns = [Column("name", "cell"), Column("status", "status"), Column("error", "error")]
    note = (
        "Failed: the cell ended with this error. Blocked: it needs a failed one. Halted: a critical alert ended its"
        " chain. Damaged: its files cannot be read, so it is in no number. Started: it has a folder and no result. Planned: not begun."
    )
    return make_table("unfinished", "Cells that are not done", frame, columns, note)
