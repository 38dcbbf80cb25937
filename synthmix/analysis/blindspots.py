"""Blind spots: how much better a model does on its test set than where a heuristic misleads it, and whether a share of
synthetic data widens that gap (Zhang and Pavlick 2025, arXiv 2502.07164: MultiNLI against HANS).

The gap is ``score(test) - score(probe)``. It has two sets of items that the same models (seeds) answer, and its change
against the 0 % control is the same with each item's difference in place of its score. Intervals are Student's t with
seeds and both sets of items as random factors, see :func:`contrast`; no resampling is needed. HANS fills templates:
its items stand for other sentences of the same subcases, and say nothing of blind spots that it does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from synthmix.analysis.conditions import CONDITION, CONTROL_MODE, ENDS, Analysis, of
from synthmix.analysis.load import StudyData
from synthmix.analysis.printing import CELL, SEEDS, Column, Table, make_table
from synthmix.statistics import CROSSED, LEVEL, Array, Interval, wilson
from synthmix.statistics.moderation import LEAST
from synthmix.tasks.nli import TWO_WAY, two_way

#: The split that holds the blind spot.
PROBE = "hans"
#: The half of its items where the heuristics are right, and the one where they mislead.
HALVES = TWO_WAY
#: How the test set is scored (suffix of the columns): by its three labels, or by two, as the probe is.
SCORINGS = ("", "_two_way")
#: ``level`` of a row: all items of HANS, those of one heuristic, those of one subcase.
LEVELS = ("all", "heuristic", "subcase")
#: What every row has, besides an interval for each of ``MEASURES``.
COLUMNS = (
    *CONDITION, "level", "heuristic", "subcase", "half", "n_general", "n_blind_spot", "n_seeds", "n_paired_seeds",
    "control", "general", "general_two_way", "blind_spot",
)  # fmt: skip
MEASURES = tuple(measure + suffix for measure in ("gap", "change") for suffix in SCORINGS)
#: One row a cell (by hash), one column an item; nan where a cell did not answer an item.
Scores = pd.DataFrame


# -- statistics -----------------------------------------------------------------------------------------------------


def contrast(tables: Sequence[Array], signs: Sequence[float], level: float = LEVEL) -> Interval:
    """``sum(sign * table.mean())`` with its interval, of tables ``(seeds, items)`` that share seeds and no items.

    With one seed this is Welch's interval (of a difference of two tables): it is about these runs, on other items. With
    several, the squared error is that of the seeds' contrasts plus what the choice of each table's items adds, which
    the seeds share: ``MS_items / size`` less the rest that the first term holds already. For a single table that is
    :func:`synthmix.statistics.crossed_error`; degrees of freedom are Satterthwaite's. A table whose entries are
    all alike shows no spread: Wilson's bound on the rate of others takes its place, as elsewhere.

    Raises:
        ValueError: a table without items, with one item only, or with another number of seeds than the first.
    """
    seeds = len(tables[0])
    sides = [_side(table, level) for table in tables if len(table) == seeds]
    known = [side for side in sides if side is not None]
    if len(known) < len(tables):
        raise ValueError(f"expected {seeds} seeds and at least two items but got {[t.shape for t in tables]}")
    return _interval(known, signs, level)


@dataclass(frozen=True)
class _Side:
    """What an interval needs of a table ``(seeds, n items)``: its ``means`` by seed, and what its items add to the squared
    error: ``items`` (mean square over size) and the ``rest`` within it that seeds do not share, with degrees of
    freedom (one seed cannot tell the two apart: no rest)."""

    means: Array
    n: int
    items: float
    freedom: float
    rest: float = 0.0
    rest_freedom: float = 1.0


def _side(table: Array, level: float = LEVEL) -> _Side | None:
    """None for a table of fewer than two items."""
    seeds, n = table.shape
    if n < 2:
        return None
    means = table.mean(axis=1)
    if table.min() == table.max():
        # a bound that is right for the normal distribution, so no degrees of freedom are missing
        bound = wilson(0, n, level).high / float(stats.norm.ppf((1 + level) / 2))
        return _Side(means, n, bound**2, math.inf)
    columns = table.mean(axis=0)
    items = seeds * float(columns.var(ddof=1)) / table.size
    if seeds == 1:
        return _Side(means, n, items, n - 1)
    left = table - columns - means[:, None] + means.mean()
    freedom = float((seeds - 1) * (n - 1))
    return _Side(means, n, items, n - 1, float((left**2).sum()) / freedom / table.size, freedom)


def _interval(sides: Sequence[_Side], signs: Sequence[float], level: float = LEVEL) -> Interval:
    runs = np.sum([sign * side.means for sign, side in zip(signs, sides, strict=True)], axis=0)
    seeds, estimate = len(runs), float(runs.mean())
    error, freedom = _combine(float(runs.var(ddof=1)) / seeds if seeds > 1 else 0.0, sides, seeds)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    method = CROSSED if seeds > 1 else "Welch's t, items only (one seed)"
    return Interval(estimate, estimate - half, estimate + half, min(s.n for s in sides), seeds, method, error)


def _combine(of_seeds: float, sides: Sequence[_Side], seeds: int) -> tuple[float, float]:
    """Standard error and degrees of freedom, as :meth:`synthmix.statistics.Crossed.error` has them."""
    of_items, rest = sum(s.items for s in sides), sum(s.rest for s in sides)
    spread = sum(s.items**2 / s.freedom for s in sides)
    if seeds == 1:  # items alone; there is no rest
        return math.sqrt(of_items), of_items**2 / spread if spread else math.inf
    total = max(of_seeds + of_items - rest, LEAST * max(of_seeds, of_items))
    spread += of_seeds**2 / (seeds - 1) + sum(s.rest**2 / s.rest_freedom for s in sides)
    return math.sqrt(total), max(1.0, total**2 / spread) if spread else math.inf


# -- one row a condition and group ----------------------------------------------------------------------------------


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Task:
    """One task.

    Attributes:
        general: the scores on the test set, by scoring.
        halves: which test items belong to a half (``all`` included).
        blind: the scores on HANS.
        groups: ``level, heuristic, subcase, half`` of every row that a condition has, and the items of HANS in it.
    """

    general: dict[str, Scores]
    halves: dict[str, Mask]
    blind: Scores
    groups: list[tuple[dict[str, str], Mask]]


@dataclass(frozen=True)
class _Sides:
    """The two sides of every gap of a condition: the test set by (scoring, half), HANS by group."""

    general: dict[tuple[str, str], _Side | None]
    blind: list[_Side | None]


def blind_spots(study: StudyData) -> pd.DataFrame:
    """The gap between the test set and HANS, for every condition with finished cells.

    Tasks whose cells hold no items of HANS have no rows.

    Returns:
        One row a condition, level and half; scores are between 0 and 1. ``model, task, mode, proportion, iteration``;
        ``level`` (``all``, ``heuristic``, ``subcase``) with ``heuristic`` and ``subcase`` (empty above their level);
        ``half`` (``all``, ``entailment``, ``non-entailment``: items of both sets with that gold label, where neutral
        and contradiction are non-entailment; a subcase has the half that its items have, and no ``all``).
        ``general`` is the score on the test set, ``general_two_way`` the same with neutral and contradiction as one
        answer, which is how HANS is scored, ``blind_spot`` the score on HANS. ``gap`` is general - blind spot,
        ``change`` the gap minus the control's gap (the 0 % chain at the same iteration, same seeds and items): above
        0, the gap widened. Both have ``_low`` and ``_high`` (95 %) and a ``_two_way`` twin. ``control`` is ``found``,
        ``missing``, ``self`` or ``none`` (a baseline); ``n_general, n_blind_spot`` count items, ``n_seeds,
        n_paired_seeds`` seeds. Only items that all seeds of a row answered count; a group that has fewer than two of
        them on either side has no row.

        A model that forgets everything falls to 33 % of the test set and to 50 % of HANS, so its gap *narrows* on the
        way; the ``_two_way`` twin, half by half, does not have that drift.
    """
    wanted = ("item", "score", "group_label", "group_heuristic", "group_subcase")
    probed = study.read_items(wanted, split=PROBE)
    rows: list[dict[str, Any]] = []
    if len(probed):
        tested = study.read_items(("item", "score", "gold", "prediction", "group_label"), split="test")
        for task, items in probed.groupby("task", observed=True):
            rows += _task_rows(of(study.done, task=task), tested[tested.task == task], items)
    return pd.DataFrame(rows, columns=[*COLUMNS, *(measure + end for measure in MEASURES for end in ENDS)])


def _task_rows(cells: pd.DataFrame, tested: pd.DataFrame, probed: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Every row of one task."""
    task = _task(tested, probed)
    cells = cells[cells["hash"].isin(task.blind.index) & cells["hash"].isin(task.general[""].index)]
    cells = cells.sort_values(["parameters", "model", "iteration", "mode", "proportion", "seed"], kind="stable")
    for key, own in cells.groupby(CONDITION, sort=False):
        condition = dict(zip(CONDITION, key, strict=True))
        pairs, control = _control(condition, own, cells)
        condition |= {"n_seeds": len(own), "n_paired_seeds": len(pairs), "control": control}
        levels = _sides(task, own.hash)
        changes = _sides(task, pairs.hash, pairs.hash_control) if len(pairs) else None
        for i, (group, _) in enumerate(task.groups):
            if row := _row(i, group["half"], levels, changes):
                yield condition | group | row


def _task(tested: pd.DataFrame, probed: pd.DataFrame) -> _Task:
    general = {"": _scores(tested), "_two_way": _scores(_two_way(tested))}
    about, parts = _about(tested), _about(probed)
    halves = {half: _within(about, {"half": half}) for half in ("all", *HALVES)}
    return _Task(general, halves, _scores(probed), [(group, _within(parts, group)) for group in _groups(parts)])


def _scores(items: pd.DataFrame) -> Scores:
    values = items.pivot(index="hash", columns="item", values="score")
    return values.set_index(values.index.astype(str))


def _two_way(tested: pd.DataFrame) -> pd.DataFrame:
    """The test items scored as HANS is; one without an answer stays wrong."""
    alike = tested.gold.map(two_way) == tested.prediction.map(two_way)
    return tested.assign(score=(alike & tested.prediction.notna()).astype(float))


def _about(items: pd.DataFrame) -> pd.DataFrame:
    """Half (and, of HANS, heuristic and subcase) of every item, in the order of :func:`_scores`' columns."""
    one = items.drop_duplicates("item").sort_values("item")
    names = [name for name in ("heuristic", "subcase") if f"group_{name}" in one]
    return pd.DataFrame({"half": one.group_label.map(two_way), **{name: one[f"group_{name}"] for name in names}})


def _control(condition: dict[str, Any], own: pd.DataFrame, cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The seeds that a condition shares with its control (``hash``, ``hash_control``), and whether there is one."""
    if condition["iteration"] == 0 or condition["proportion"] == 0:
        return own.iloc[:0], "none" if condition["iteration"] == 0 else "self"
    same = {name: condition[name] for name in ("model", "iteration")}
    control = of(cells, mode=CONTROL_MODE, proportion=0.0, **same)
    pairs = own.merge(control, on="seed", suffixes=("", "_control"))
    return pairs, "found" if len(pairs) else "missing"


def _groups(items: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Level, heuristic, subcase and half of every row, the whole first."""
    for half in ("all", *HALVES):
        yield {"level": "all", "heuristic": "", "subcase": "", "half": half}
    for heuristic in sorted(items.heuristic.unique()):
        for half in ("all", *HALVES):
            yield {"level": "heuristic", "heuristic": heuristic, "subcase": "", "half": half}
    parts = items.drop_duplicates().sort_values(["heuristic", "half", "subcase"])
    for heuristic, half, subcase in zip(parts.heuristic, parts.half, parts.subcase, strict=True):
        yield {"level": "subcase", "heuristic": heuristic, "subcase": subcase, "half": half}


def _within(items: pd.DataFrame, group: dict[str, str]) -> Mask:
    """Which items belong to a group."""
    mask = np.ones(len(items), dtype=bool)
    for name in ("half", "heuristic", "subcase"):
        if group.get(name, "") not in ("", "all"):
            mask &= (items[name] == group[name]).to_numpy()
    return mask


def _sides(task: _Task, hashes: pd.Series, controls: pd.Series | None = None) -> _Sides:
    """Both sides of some cells; with their controls, those of each item's difference."""

    def values(scores: Scores) -> tuple[Array, Mask]:
        table = scores.loc[hashes].to_numpy()
        table = table if controls is None else table - scores.loc[controls].to_numpy()
        return table, ~np.isnan(table).any(axis=0)

    general: dict[tuple[str, str], _Side | None] = {}
    for suffix, scores in task.general.items():
        table, answered = values(scores)
        general |= {(suffix, half): _side(table[:, mask & answered]) for half, mask in task.halves.items()}
    table, answered = values(task.blind)
    return _Sides(general, [_side(table[:, mask & answered]) for _, mask in task.groups])


def _row(i: int, half: str, levels: _Sides, changes: _Sides | None) -> dict[str, float] | None:
    """The numbers of group ``i``; None where it has too few items."""
    row: dict[str, float] = {}
    for suffix in SCORINGS:
        general, blind = levels.general[suffix, half], levels.blind[i]
        if general is None or blind is None:
            return None
        row |= {"n_general": general.n, f"general{suffix}": float(general.means.mean())}
        row |= {"n_blind_spot": blind.n, "blind_spot": float(blind.means.mean())}
        row |= _ends(f"gap{suffix}", general, blind)
        if changes is not None:
            row |= _ends(f"change{suffix}", changes.general[suffix, half], changes.blind[i], 2.0)
    return row


def _ends(name: str, general: _Side | None, blind: _Side | None, most: float = 1.0) -> dict[str, float]:
    """The interval of general - blind spot as three columns; nan with fewer than two items.

    Scores lie between 0 and 1, so a gap cannot be more than ``most`` = 1, and a change of it not more than 2.
    """
    if general is None or blind is None:
        return {name + end: math.nan for end in ENDS}
    found = _interval([general, blind], [1.0, -1.0])
    return {name: found.estimate, f"{name}_low": max(found.low, -most), f"{name}_high": min(found.high, most)}


# -- the report's tables --------------------------------------------------------------------------------------------

HALF, BLIND = Column("half", "gold label"), Column("blind_spot", "HANS, %", "percent")
GAP = (
    Column("gap", "gap, points", "points interval"),
    Column("change", "gap against control, points", "points interval"),
)
GAP_TWO_WAY = (
    Column("gap_two_way", "gap, two-way, points", "points interval"),
    Column("change_two_way", "gap, two-way, against control, points", "points interval"),
)


def blind_spot_tables(analysis: Analysis) -> list[Table]:
    """The report's section on blind spots: all items, by heuristic, by subcase; no table for a study without HANS.

    The subcases are those of the last iteration, at the highest share of each mode and at 0 %; :func:`blind_spots` has
    the others.
    """
    frame = blind_spots(analysis.study)
    if frame.empty:
        return []
    whole, heuristics, subcases = (of(frame, level=level).reset_index(drop=True) for level in LEVELS)
    counted = Column("n_blind_spot", "HANS items", "count")
    tested = [Column("general", "test, %", "percent"), Column("general_two_way", "test, two-way, %", "percent")]
    columns = [*CELL, HALF, *tested, BLIND, *GAP, *GAP_TWO_WAY, counted, SEEDS]
    by_heuristic = [*CELL, Column("heuristic", "heuristic"), HALF, BLIND, *GAP, counted, SEEDS]
    by_subcase = [*CELL, Column("subcase", "subcase"), HALF, BLIND, *GAP, counted, SEEDS]
    return [
        make_table("blind_spots", "Blind spots: the test set against HANS", whole, columns, _NOTE),
        make_table("blind_spots_heuristics", "Blind spots by heuristic", heuristics, by_heuristic, _PART_NOTE),
        make_table("blind_spots_subcases", "Blind spots by subcase", _extremes(subcases), by_subcase, _PART_NOTE),
    ]


def _extremes(frame: pd.DataFrame) -> pd.DataFrame:
    """Of every model and mode the last iteration, at the highest share and at 0 %."""
    last = frame.iteration == frame.groupby(["model", "task"]).iteration.transform("max")
    top = frame.proportion == frame.groupby(["model", "task", "mode"]).proportion.transform("max")
    return frame[last & (top | (frame.proportion == 0))].reset_index(drop=True)


_NOTE = (
    "The gap is the score on the test set minus that on HANS; against the control above 0, the blind spot grew relative"
    " to the task. The control is the 0 % chain at the same iteration, same seeds and items. HANS is scored with two"
    " answers, the test set with three: a model that forgets falls towards 33 % here and 50 % there, which narrows the"
    " gap by itself. The two-way columns score both with two answers. Look at the halves apart: a model that follows the"
    " heuristics is right where the label is entailment, and wrong where it is not; one that turns to the other answer"
    " moves both. Brackets are 95 % intervals (Student's t, seeds and items random; with one seed, items only), not"
    " corrected for the number of rows."
)
_PART_NOTE = (
    "As above, for a part of HANS; the test set is that of the same gold labels. Gap and change are those of the"
    " three-way score."
)
