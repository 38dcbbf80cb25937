"""What a study's data cannot support, in plain sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pandas as pd
from scipy.stats import norm

from synthmix.analysis.conditions import Analysis, of, trained_longer
from synthmix.analysis.findings import ALPHA, listed
from synthmix.analysis.tables import WELL_PLACED
from synthmix.statistics import CROSSED
from synthmix.statistics.differences import NO_DIFFERENCE

#: Seeds below which the report warns that runs may differ by more than the intervals say (experiments/statistics).
FEW_SEEDS = 3
#: What was cut -> the columns of ``cells`` that count it; early warnings and probes rest on what they cut, too.
_CUT = {
    "training documents without part of their context": "train_shortened",
    "training documents without their end": "train_truncated",
    "evaluated prompts without part of their context": "(test|validation|probes_.*)_shortened",
    "evaluated prompts longer than the model's context, which count as wrong": "(test|validation|probes_.*)_unfit",
}


def limits(analysis: Analysis) -> list[str]:
    """What the data cannot support, in plain sentences."""
    conditions = analysis.conditions
    return [
        *_unfinished(analysis.study.cells),
        *analysis.study.notes,
        *(_precision(conditions) if len(conditions) else []),
        *_placement(of(conditions, iteration=0)),
        *_without_control(conditions),
        *_unpaired(conditions),
        *_all_alike(conditions),
        *_capped(analysis.study.done),
        *_of_the_data(analysis.study.done),
        *_designs(analysis.study.done),
    ]


def _unfinished(cells: pd.DataFrame) -> Iterator[str]:
    missing = cells[cells.status != "done"]
    failed = missing[missing.status == "failed"]
    if len(failed):
        yield f"{_cells(len(failed))} failed: {listed(list(failed.name)[:3])}{' …' if len(failed) > 3 else ''}."
    halted = missing[missing.status == "halted"]
    if len(halted):
        yield f"{_cells(len(halted))} not run, because a critical alert ended the chain: what is left is a selection."
    damaged = missing[missing.status == "damaged"]
    if waiting := len(missing) - len(failed) - len(halted) - len(damaged):
        rest = "; everything here is from the others" if len(missing) < len(cells) else ""
        yield f"{_cells(waiting)} not finished{rest}."


def _precision(conditions: pd.DataFrame) -> Iterator[str]:
    alone, several = conditions[conditions.n_seeds == 1], conditions[conditions.n_seeds > 1]
    if len(alone):
        which = "Each condition is" if several.empty else f"{len(alone)} of {len(conditions)} conditions are"
        where = "" if several.empty else f" ({listed(sorted(set(alone.task)))})"
        yield (
            f"{which} one training run{where}. Their intervals say how the score would vary with other test items; they"
            " do not say how it would vary with another seed."
        )
    tested = conditions[conditions.difference.notna()] if "difference" in conditions else conditions.iloc[:0]
    yield from _few_seeds(several, tested)
    if len(tested):
        width = 50 * (tested.difference_high - tested.difference_low)
        wider = norm.ppf(1 - ALPHA / 2 / len(tested)) / norm.ppf(1 - ALPHA / 2)
        text = f"Alone, a comparison can tell a difference of about {width.median():.1f} points from none"
        if len(tested) > 1:
            text += f" at the median ({_span(width)}; two or three seeds that differ make it wide); as one of {len(tested)},"
            text += f" after Bonferroni, it takes about {wider:.1f} times as much"
        yield f"{text}. This is half of a 95 % interval."
    if modes := trained_longer(conditions):
        yield (
            f"With {listed(modes)} the training set is larger than the control's, and training longer: a difference"
            " there is not due to synthetic text alone."
        )


def _few_seeds(several: pd.DataFrame, tested: pd.DataFrame) -> Iterator[str]:
    """What two seeds, or one comparison, cannot show."""
    if len(several) and int(several.n_seeds.min()) < FEW_SEEDS:
        yield (
            "Two seeds show the variation between training runs only roughly: where tasks are not alike in how much runs"
            " differ, families hold false claims in 7 % of studies (experiments/statistics has the rates)."
        )
    alone = tested[tested.p_test == CROSSED] if "p_test" in tested else tested
    if len(alone):
        yield (
            "A single comparison does not tell how much runs of this study usually differ: its test rests on its own few"
            " seeds, and errs more often than in 5 % of cases without a difference."
        )


def _placement(baselines: pd.DataFrame) -> Iterator[str]:
    low, high = WELL_PLACED
    for _, row in baselines.iterrows():
        if not low <= row.score <= high:
            side = f"below {100 * low:.0f} %: a loss" if row.score < low else f"above {100 * high:.0f} %: a gain"
            yield f"{row.task}, {row.model}: the baseline of {100 * row.score:.1f} % is {side} has less room to show."


def _without_control(conditions: pd.DataFrame) -> Iterator[str]:
    missing = conditions[conditions.control == "missing"]
    if len(missing):
        noun = "condition has" if len(missing) == 1 else "conditions have"
        yield f"{len(missing)} {noun} no finished 0 % chain at the same iteration, hence no stated effect."


def _all_alike(conditions: pd.DataFrame) -> Iterator[str]:
    """Constant outcomes: nothing varies, so nothing is estimated."""
    if "p_test" in conditions and (same := int((conditions.p_test == NO_DIFFERENCE).sum())):
        yield (
            f"In {same} comparisons no item is scored differently from the control: their intervals bound how often one"
            " might be (Wilson), and say nothing more."
        )
    edge = conditions[conditions.score.isin([0.0, 1.0])]
    for score, rows in edge.groupby("score"):
        word = "right" if score == 1 else "wrong"
        yield f"Every item is {word} in {len(rows)} of {len(conditions)} conditions: no effect can show in that direction."


def _unpaired(conditions: pd.DataFrame) -> Iterator[str]:
    if "n_unpaired_items" in conditions and (rows := conditions[conditions.n_unpaired_items > 0]).shape[0]:
        yield (
            f"{len(rows)} conditions do not answer the same items as their control: {int(rows.n_unpaired_items.sum()):,} items"
            " that only one side has are left out of the differences."
        )


def _capped(done: pd.DataFrame) -> Iterator[str]:
    if "pool_capped" in done and (capped := done[done.pool_capped == True]).shape[0]:  # noqa: E712 - None is not False
        yield f"{_cells(len(capped))} stopped writing at the cap on attempts: their filter rejected too much to fill the pool."


def _of_the_data(done: pd.DataFrame) -> Iterator[str]:
    """What was not as its owner publishes it, left out, or cut."""
    for task, cells in (
        done.fillna({"data_note": "", "data_excluded": ""}).groupby("task") if "data_note" in done else ()
    ):
        if note := cells.data_note.iloc[0].rstrip("."):
            yield f"{task}: {note}."
        for level in sorted(set(cells.data_sandbox.dropna())) if "data_sandbox" in cells else ():
            yield f"{task}: generated programs ran in the sandbox level {level}; docs/sandbox.md says what it does not cover."
        if left_out := json.loads(cells.data_excluded.iloc[0] or "{}"):
            reasons = "; ".join(f"{place} {n:,}" for place, n in left_out.items())
            yield f"{task}: {sum(left_out.values()):,} published records left out ({reasons})."
        for what, columns in _CUT.items():
            if n := sum(int(cells[column].fillna(0).sum()) for column in cells if re.fullmatch(columns, str(column))):
                yield f"{task}: {n:,} {what}, over {_cells(len(cells))}."


def _designs(done: pd.DataFrame) -> Iterator[str]:
    """Where a design did not come to what was asked of it."""
    for task, cells in done.groupby("task") if "pool_design" in done else ():
        told = [json.loads(text) for text in cells.pool_design.dropna()]
        missing, relaxed = (sum(one[name] for one in told) for name in ("missing", "relaxed"))
        if missing or relaxed:
            yield (
                f"{task}: the design ({told[0]['move']} at {told[0]['level']:g}) could not be met everywhere: {missing}"
                f" samples are not as the level asks, {relaxed} are outside the quota of what was held, over"
                f" {_cells(len(told))}; pool.json has the levers before and after."
            )


def _span(values: pd.Series) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return low if low == high else f"{low} to {high}"


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n} cells"
