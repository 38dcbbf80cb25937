"""Groups of items that are scored by themselves: questions with an answer and without one, labels, heuristics."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from synthmix.analysis.conditions import Analysis
from synthmix.analysis.load import StudyData

#: Groups so small and many that a table of them is no reading matter; the blind-spot section has those of HANS.
DETAIL = ("subcase",)
#: Further scores of a group that the table shows, as means over seeds.
FURTHER = ("em", "abstains")


def group_conditions(analysis: Analysis) -> pd.DataFrame:
    """The conditions of every group.

    Returns:
        The columns of :attr:`Analysis.conditions` (without calibration) with ``set`` (test, or the name of a probe) and
        ``group`` (``answerable: no``) before them; empty where no task groups its items.
    """
    frames = []
    for split, name, value in _groups(analysis.study):  # of one item there is nothing to say
        found = Analysis(analysis.study, analysis.resamples, split, (name, value), ()).conditions
        further = {score: found[f"{split}_{score}[{name}={value}]"] for score in FURTHER
                   if f"{split}_{score}[{name}={value}]" in found}  # fmt: skip
        frames.append(found.assign(set=split, group=f"{name}: {value}", **further))
    if not frames:
        return pd.DataFrame(columns=["set", "group"])
    joined = pd.concat(frames, ignore_index=True)
    return joined.sort_values(
        ["task", "model", "iteration", "mode", "proportion", "set"], kind="stable", ignore_index=True
    )


def _groups(study: StudyData) -> Iterator[tuple[str, str, str]]:
    """(split, group, value) of all groups of a study's items; one cell of each task tells."""
    seen: set[tuple[str, str, str]] = set()
    for _, cells in study.done.groupby("task"):
        first = str(cells["name"].iloc[0])
        columns = [c for c in study.item_columns(first) if c.startswith("group_")]
        if not columns:
            continue
        frame = study.read_items(["split", *columns], cells=[first])
        for column in columns:
            name = column.removeprefix("group_")
            if name in DETAIL:
                continue
            sizes = frame.groupby(["split", column], observed=True).size()
            seen |= {
                (str(s), name, str(v))
                for (s, v), n in zip(list(sizes.index), sizes, strict=True)
                if s != "validation" and n > 1
            }
    yield from sorted(seen)
