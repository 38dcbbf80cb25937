"""Cells that make a curve: over the synthetic share at one iteration, or over the iterations of one share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from synthmix.analysis.conditions import CONDITION, CONTROL_MODE, Analysis, label, of, percent, realised
from synthmix.analysis.printing import minus
from synthmix.statistics import Array, Interval
from synthmix.statistics.curves import Curve, measured_curve

#: Points that a shape takes at least.
FEWEST = 3
#: A realised share this far from the nominal one takes its place.
OFF_NOMINAL = 0.005
#: Sentences on single chains, at most; the tables have the rest.
MAX_SENTENCES = 6


@dataclass(frozen=True)
class Chain:
    """Cells that differ in their share or in their iteration alone.

    Attributes:
        about: ``model, task, mode, parameters, metric`` and ``iteration`` or ``proportion``.
        points: nominal shares or iterations on the curve.
        curve: the scores; None where there is none.
        reason: why there is none; empty where there is one.
        left_out: what of the finished cells is not on the curve, in words; may be empty.
        constant: all items of all cells have the same score.
    """

    about: dict[str, Any]
    points: tuple[float, ...]
    curve: Curve | None
    reason: str = ""
    left_out: str = ""
    constant: bool = False


def share_chains(analysis: Analysis) -> list[Chain]:
    """Every (model, task, mode, iteration) with a share above 0, the 0 % chain as its first point."""
    return list(_chains(analysis, "iteration", "proportion", _with_control))


def iteration_chains(analysis: Analysis) -> list[Chain]:
    """Every (model, task, mode, share) after phase 0, with phase 0 as its first point."""
    return list(_chains(analysis, "proportion", "iteration", _with_baseline))


def name_of(chain: Chain, chains: Sequence[Chain]) -> str:
    """A chain in words: its task, then what tells the study's chains apart."""
    columns = [c for c in CONDITION if c in chain.about and (c in ("task", "model") or _varies(c, chains))]
    return label(chain.about, sorted(columns, key=["task", "model", "mode", "iteration", "proportion"].index))


def brackets(low: float, high: float, show: Callable[[float], str]) -> str:
    """``[12, 31]``; an end that cannot be told is a dash."""
    ends = (show(end) if np.isfinite(end) else "–" for end in (low, high))
    return f"[{', '.join(ends)}]"


def points_interval(interval: Interval) -> str:
    """An interval of a difference, in points: ``−3.2 points [−6.0, −0.4]``."""
    return f"{signed(interval.estimate)} points {brackets(interval.low, interval.high, signed)}"


def signed(share: float) -> str:
    """A difference in points, with its sign."""
    return minus(f"{100 * share:+.1f}")


def listed(words: Sequence[object], last: str = "and") -> str:
    """``a, b and c``."""
    texts = [str(word) for word in words]
    return f" {last} ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


# -- parts ----------------------------------------------------------------------------------------------------------


def _varies(column: str, chains: Sequence[Chain]) -> bool:
    return column in ("iteration", "proportion") or len({chain.about[column] for chain in chains}) > 1


def _chains(
    analysis: Analysis, fixed: str, along: str, first: Callable[[pd.DataFrame, dict[str, Any]], pd.DataFrame]
) -> Iterator[Chain]:
    known = list(analysis.items)  # first, for reading items may find cells damaged
    done = analysis.study.done
    done = done[done["hash"].isin(known)]
    kept = done[done.iteration > 0] if along == "iteration" else done[(done.iteration > 0) & (done.proportion > 0)]
    columns = ["task", "parameters", "model", fixed, "mode"]
    for key, cells in kept.groupby(columns, sort=True, dropna=False):
        about = dict(zip(columns, key, strict=True)) | {"metric": cells.metric.iloc[0]}
        yield _chain(analysis, about, pd.concat([first(done, about), cells]), along)


def _with_control(done: pd.DataFrame, about: dict[str, Any]) -> pd.DataFrame:
    same = {name: about[name] for name in ("model", "task", "iteration")}
    return of(done, mode=CONTROL_MODE, proportion=0.0, **same)


def _with_baseline(done: pd.DataFrame, about: dict[str, Any]) -> pd.DataFrame:
    return of(done, model=about["model"], task=about["task"], iteration=0)


def _chain(analysis: Analysis, about: dict[str, Any], cells: pd.DataFrame, along: str) -> Chain:
    points = tuple(sorted(float(p) for p in set(cells[along])))
    noun = "share" if along == "proportion" else "iteration"
    if not points or points[0] != 0:
        return Chain(about, points, None, "no finished 0 % control" if noun == "share" else "no finished phase 0")
    if len(points) < FEWEST:
        return Chain(about, points, None, f"{len(points)} {noun}s")
    points, seeds, hashes = _complete(cells, along, points)
    if len(points) < FEWEST:
        return Chain(about, points, None, f"{len(points)} {noun}s with a seed in common")
    tables, shared, left = _tables(analysis, hashes)
    out = [*_dropped(cells, along, points, seeds, noun), *left]
    if not tables:
        return Chain(about, points, None, "no two items that all cells answered")
    places = _places(cells, points) if along == "proportion" else list(points)
    if np.any(np.diff(places) <= 0):
        return Chain(about, points, None, "realised shares that do not rise with the nominal ones")
    key = (along, *map(str, about.values()))
    curve = measured_curve(places, tables, *key, shared_items=shared, resamples=analysis.resamples)
    constant = min(table.min() for table in tables) == max(table.max() for table in tables)
    return Chain(about, points, curve, left_out="; ".join(out), constant=constant)


def _complete(
    cells: pd.DataFrame, along: str, points: Sequence[float]
) -> tuple[tuple[float, ...], tuple[int, ...], list[list[str]]]:
    """The largest complete grid of points and seeds that has the first point; hashes a seed, then a point."""
    found = {(float(p), int(s)): str(h) for p, s, h in zip(cells[along], cells.seed, cells["hash"], strict=True)}
    having = {p: frozenset(s for q, s in found if q == p) for p in points}
    best: tuple[tuple[float, ...], tuple[int, ...]] = ((), ())
    for wanted in sorted({seeds & having[points[0]] for seeds in having.values()}, key=sorted):
        kept = tuple(p for p in points if wanted and wanted <= having[p])
        if (len(kept) >= FEWEST, len(kept) * len(wanted)) > (len(best[0]) >= FEWEST, len(best[0]) * len(best[1])):
            best = kept, tuple(sorted(wanted))
    return *best, [[found[p, s] for p in best[0]] for s in best[1]]


def _dropped(
    cells: pd.DataFrame, along: str, points: Sequence[float], seeds: Sequence[int], noun: str
) -> Iterator[str]:
    lost = sorted(set(cells[along].astype(float)) - set(points))
    if lost:
        words = [f"{percent(p)} %" if noun == "share" else f"{p:g}" for p in lost]
        yield f"{noun} {listed(words)} is left out" if len(lost) == 1 else f"{noun}s {listed(words)} are left out"
    gone = sorted(set(cells.seed.astype(int)) - set(seeds))
    if gone:
        yield f"{'seed' if len(gone) == 1 else 'seeds'} {listed(gone)} not finished everywhere"


def _tables(analysis: Analysis, hashes: Sequence[Sequence[str]]) -> tuple[list[Array], bool, list[str]]:
    """Scores of each seed ``(points, items)`` on the items that all its cells answered; whether seeds share them."""
    rows = [[_scores(analysis, name) for name in names] for names in hashes]
    first, most = rows[0][0].index, max(len(row) for names in rows for row in names)
    if all(row.index.equals(first) for names in rows for row in names):
        return [np.stack([row.to_numpy() for row in names]) for names in rows], True, []
    joined = pd.concat([row for names in rows for row in names], axis=1, join="inner")
    if 2 * len(joined) >= most and len(joined) > 1:
        split = np.split(joined.to_numpy().T, len(rows))
        return split, True, [f"only the {len(joined):,} of {most:,} items that all its cells answered"]
    apart = [pd.concat(names, axis=1, join="inner").to_numpy().T for names in rows]
    if min(table.shape[1] for table in apart) < 2:
        return [], False, []
    return apart, False, ["seeds answered other items"]


def _scores(analysis: Analysis, name: str) -> pd.Series:
    items = analysis.items[name]
    scores = pd.Series(items.score.to_numpy(dtype=np.float64), index=pd.Index(items.item.astype(str)))
    return scores[scores.notna() & ~scores.index.duplicated()]


def _places(cells: pd.DataFrame, points: Sequence[float]) -> list[float]:
    """The shares that were trained on, means over seeds; the nominal ones where they differ by no more than rounding."""
    places = []
    for point in points:
        share = realised(of(cells, proportion=point).mean(numeric_only=True))
        places.append(share if abs(share - point) > OFF_NOMINAL else point)
    return places
