"""Tables 1 to 4 and figure 1 of arXiv 2510.05133 in the paper's layout: the published values, and a study's beside them.

The published values are those of other models on other tasks. What can be compared is shape: where a loss begins, which
tasks lose more, whether larger models lose less, what moves first over iterations. Levels cannot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from synthmix.analysis.conditions import Analysis, of, percent
from synthmix.analysis.paper.beside import PUBLISHED, Beside, chains_of, choose, losses, paper_name, starred
from synthmix.analysis.paper.published import FAMILIES
from synthmix.analysis.paper.shapes import compared, figure1, scope
from synthmix.analysis.printing import SEEDS, SHARE, Column, Table, minus
from synthmix.analysis.section import Section

FAMILY, SOURCE = Column("family", "task"), Column("source", "model, task")


def published_section(analysis: Analysis) -> Section | None:
    """The section; None for a study without a synthetic condition of the paper's task families at iteration 1."""
    beside = choose(analysis)
    if beside is None:
        return None
    made = (table1(beside), table2(beside), table3(beside), table4(beside))
    tables = [table for table in made if table is not None]
    figure = figure1(beside)
    sentences = [scope(beside), *compared(beside)]
    title = "Beside the published values"
    return Section("published", title, sentences, [figure] if figure else [], tables)


# -- tables ---------------------------------------------------------------------------------------------------------


def table1(beside: Beside) -> Table:
    """Score by task and share at iteration 1; an asterisk where the corrected p-value is below 0.05."""
    t1, own = beside.published.table1, starred(beside)
    shares = sorted({*(s / 100 for s in t1.proportions), *own.proportion})
    rows = []
    for family in FAMILIES:
        printed = {
            s / 100: (v / 100, math.nan, math.nan, s in t1.significant[family])
            for s, v in zip(t1.proportions, t1.scores[family], strict=True)
        }
        rows.append(_row1(family, f"{PUBLISHED}: {beside.published.tasks[family].benchmark}", printed, shares))
        for task, group in of(own, family=family).groupby("task", sort=True):
            measured = {
                float(r["proportion"]): (r["score"], r["score_low"], r["score_high"], r["starred"])
                for r in group.to_dict("records")
            }
            rows.append(_row1(family, beside.about(str(task)), measured, shares))
    frame = pd.DataFrame(rows)
    columns = [FAMILY, SOURCE, *(Column(f"printed_{percent(s)}", f"{percent(s)} %") for s in shares)]
    numbers = [str(c) for c in frame if str(c).startswith(("score_", "significant_"))]
    tested = int(own.p_value.notna().sum())
    note = (
        f"Scores in percent at iteration 1: published ({paper_name(t1.model)}) in the layout of the paper's table 1, this"
        f" study's ({beside.model}) with 95 % intervals. An asterisk: different from {beside.against} at p < 0.05 after Bonferroni; of this study over the"
        f" {tested} comparisons of this table, paired over items; the paper does not name its family. No asterisk is"
        " no proof of safety. Tasks and models differ, so compare the course along a row, not the level."
    )
    return Table("paper_table_1", "The paper's table 1: score by share", frame, columns, note, numbers)


def _row1(
    family: str, source: str, values: Mapping[float, tuple[float, ...]], shares: Iterable[float]
) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family, "source": source}
    for share in shares:
        name = percent(share)
        score, low, high, starred = values.get(share, (math.nan, math.nan, math.nan, False))
        row |= {f"score_{name}": score, f"score_{name}_low": low, f"score_{name}_high": high}
        row |= {f"significant_{name}": bool(starred), f"printed_{name}": _printed(score, low, high, 100, 1, starred)}
    return row


def _printed(value: float, low: float, high: float, scale: float, digits: int, starred: bool | float = False) -> str:
    if math.isnan(value):
        return ""
    text = f"{scale * value:.{digits}f}" + ("*" if starred else "")
    interval = "" if math.isnan(low) else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    return minus(text) + minus(interval)


def table2(beside: Beside) -> Table | None:
    """Sizes at 30 % on the math task."""
    t2 = beside.published.table2
    own, without = losses(of(beside.frame, family=t2.task))
    own = own.sort_values(["task", "parameters"])
    if own.empty:
        return None
    printed = [
        {
            "source": f"{PUBLISHED}: {paper_name(row.model)}, {beside.published.tasks[t2.task].benchmark}",
            "parameters": beside.published.models[row.model], "proportion": t2.proportion / 100,
            "baseline": row.baseline / 100, "score": row.synthetic / 100, "difference": row.points / 100,
            "relative": row.relative / 100,
        }
        for row in t2.rows
    ]  # fmt: skip
    columns = [
        SOURCE, Column("parameters", "parameters", "count"), SHARE, Column("baseline", "0 % synthetic, %", "percent"),
        Column("score", "with synthetic, %", "percent interval"),
        Column("difference", "absolute, points", "points interval"), Column("relative", "relative, %", "points interval"),
        SEEDS,
    ]  # fmt: skip
    note = (
        "The paper's table 2: sizes at 30 % synthetic data (this study: the nearest share, in the column), iteration 1,"
        f" against 0 %.{_without(without)} Brackets are 95 % intervals; the published values have none. Compare whether the relative loss"
        " falls with size, not how large it is: other models, another task."
    )
    return Table("paper_table_2", "The paper's table 2: model size", _stacked(printed, own, columns), columns, note)


def table3(beside: Beside) -> Table | None:
    """Tasks by relative loss at 30 %, with the ranks that the intervals allow."""
    t3, (own, without) = beside.published.table3, losses(beside.chosen)
    own = own[own.relative.notna()].sort_values("relative").reset_index(drop=True)
    if own.empty:
        return None
    printed = [
        {
            "family": row.task, "source": f"{PUBLISHED}: {beside.published.tasks[row.task].benchmark}",
            "proportion": t3.proportion / 100, "baseline": row.baseline / 100, "score": row.synthetic / 100,
            "relative": row.relative / 100, "rank": str(row.rank),
        }
        for row in t3.rows
    ]  # fmt: skip
    own["rank"] = [f"{i + 1} ({low} to {high})" for i, (low, high) in enumerate(possible_ranks(own))]
    columns = [
        FAMILY, SOURCE, SHARE, Column("baseline", "0 % synthetic, %", "percent"),
        Column("score", "with synthetic, %", "percent interval"), Column("relative", "relative, %", "points interval"),
        Column("rank", "sensitivity rank"), SEEDS,
    ]  # fmt: skip
    note = (
        f"The paper's table 3 ({paper_name(t3.model)}), ranks as printed (code and math are exchanged there against their losses); of this study"
        " the rank by relative loss, 1 the most sensitive, with the ranks that disjoint 95 % intervals leave possible in"
        f" brackets. The share nearest to 30 %, the same for all tasks, iteration 1.{_without(without)}"
    )
    return Table(
        "paper_table_3", "The paper's table 3: sensitivity of tasks", _stacked(printed, own, columns), columns, note
    )


def possible_ranks(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Best and worst rank of each row, where only intervals of ``relative`` that do not overlap order two tasks."""
    low, high = rows.relative_low.to_numpy(), rows.relative_high.to_numpy()
    # an interval that does not exist orders nothing: comparisons with nan are false
    return [(1 + int((high < low[i]).sum()), len(rows) - int((low > high[i]).sum())) for i in range(len(rows))]


def table4(beside: Beside) -> Table | None:
    """Score, ECE and 1 - self-BLEU over iterations at 30 %."""
    t4, chains = beside.published.table4, chains_of(beside)
    if not chains:
        return None
    about = f"{PUBLISHED}: {paper_name(t4.model)}, {beside.published.tasks[t4.task].benchmark}, {t4.proportion:g} %"
    printed = pd.DataFrame(
        {
            "iteration": t4.iterations,
            "score": np.array(t4.score) / 100,
            "ece": t4.ece,
            "diversity_diversity": t4.diversity,
        }
    )
    # as many decimals as the paper prints
    rows = _rows4(about, printed, digits=2) + [row for source, chain in chains for row in _rows4(source, chain)]
    iterations = sorted({int(i) for _, chain in [(about, printed), *chains] for i in chain.iteration})
    frame = pd.DataFrame(rows)
    columns = [Column("source", "model, task, share"), Column("metric", "metric")]
    columns += [Column(f"printed_{i}", "iter 0 (baseline)" if i == 0 else f"iter {i}") for i in iterations]
    note = (
        "The paper's table 4, at 30 % (this study: the nearest share that has several iterations). Score in percent, ECE"
        " (headline estimator), diversity as 1 − self-BLEU of what the model of that iteration writes (mean of the seeds,"
        " without interval). 95 % intervals in brackets. Iteration 0 is phase 0; what the 0 % control loses as well is"
        " not due to synthetic text (see the figure)."
    )
    numbers = [str(c) for c in frame if str(c).startswith("value_")]
    return Table("paper_table_4", "The paper's table 4: iterations", frame, columns, note, numbers)


def _rows4(source: str, chain: pd.DataFrame, digits: int = 3) -> list[dict[str, Any]]:
    rows = []
    for key, metric, scale, decimals in (
        ("score", "score, %", 100, 1), ("ece", "ECE", 1, digits), ("diversity_diversity", "1 − self-BLEU", 1, digits),
    ):  # fmt: skip
        row: dict[str, Any] = {"source": source, "metric": metric}
        for values in chain.to_dict("records"):
            value, low, high = (values.get(key + end, math.nan) for end in ("", "_low", "_high"))
            name = f"{int(values['iteration'])}"
            row |= {f"value_{name}": value, f"value_{name}_low": low, f"value_{name}_high": high}
            row[f"printed_{name}"] = _printed(value, low, high, scale, decimals)
        rows.append(row)
    return rows


def _without(sources: Sequence[str]) -> str:
    return f" Without that share, and left out: {'; '.join(sources)}." if sources else ""


def _stacked(printed: list[dict[str, Any]], own: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    keys = [key for column in columns for key in column.keys]
    return pd.concat([pd.DataFrame(printed), own], ignore_index=True).reindex(columns=keys)
