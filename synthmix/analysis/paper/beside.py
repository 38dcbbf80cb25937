"""What of a study stands beside the paper's tables: which model, mixing mode, shares and chains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from synthmix.analysis.conditions import CONTROL_MODE, Analysis, of, percent
from synthmix.analysis.paper.published import FAMILIES, Published, load_published
from synthmix.statistics import bonferroni
from synthmix.statistics.equivalence import ALPHA

PUBLISHED = "published"
#: The share at which the paper compares sizes, tasks and iterations.
AT = 0.3
#: What the conditions of an analysis are compared with, in words.
AGAINST = {"chain": "0 %", "baseline": "phase 0"}


@dataclass(frozen=True)
class Beside:
    """What of a study stands beside the published tables.

    Attributes:
        model, mode: the chains that tables 1, 3 and 4 show.
        frame: conditions of the five task families in that mode, all models, with ``family``; iteration 0 included.
        others: tasks of the study that belong to none of the five.
        against: what conditions are compared with, in words.
    """

    published: Published
    model: str
    mode: str
    frame: pd.DataFrame
    others: Sequence[str]
    against: str

    @property
    def chosen(self) -> pd.DataFrame:
        """The conditions of the chosen model."""
        return of(self.frame, model=self.model)

    def about(self, task: str) -> str:
        """A study's row: ``nano-0.9m, nano-math``."""
        return f"{self.model}, {task}"


def choose(analysis: Analysis, published: Published | None = None) -> Beside | None:
    """The model and mode that cover most of the paper's tasks at iteration 1; of equals ``replace``, then the larger."""
    conditions = analysis.conditions
    if conditions.empty:
        return None
    done = analysis.study.done
    families = {task: family for task, family in zip(done.task, done.family, strict=True) if family in FAMILIES}
    frame = conditions.assign(family=conditions.task.map(families))
    others = sorted(set(frame.task[frame.family.isna()]))
    frame = frame[frame.family.notna()]
    synthetic = frame[(frame.iteration == 1) & (frame.proportion > 0)]
    if synthetic.empty:
        return None
    covered = synthetic.groupby(["model", "mode"]).agg(tasks=("task", "nunique"), parameters=("parameters", "max"))
    covered = covered.reset_index().assign(plain=lambda f: f["mode"] == CONTROL_MODE)
    best = covered.sort_values(["tasks", "plain", "parameters", "model"]).iloc[-1]
    mode = str(best["mode"])
    kept = frame[(frame["mode"] == mode) | (frame.proportion == 0)].reset_index(drop=True)
    return Beside(published or load_published(), str(best.model), mode, kept, others, AGAINST[analysis.control])


def starred(beside: Beside) -> pd.DataFrame:
    """The chosen model's conditions at iteration 1, corrected over this table's own family."""
    own = of(beside.chosen, iteration=1).reset_index(drop=True)
    own["p_value"] = own.p_value.where(own.proportion > 0)
    corrected = bonferroni([float(p) for p in own.p_value])
    return own.assign(starred=[p < ALPHA for p in corrected])


def common_share(frame: pd.DataFrame, wanted: float = AT) -> float:
    """The synthetic share nearest to ``wanted`` (of two, the smaller) that half of the models and tasks have, or most."""
    having = frame[frame.proportion > 0].drop_duplicates(["model", "task", "proportion"])
    counts = having.groupby("proportion").size()
    enough = min(counts.max(), len(having.drop_duplicates(["model", "task"])) / 2)
    return float(min(counts.index[counts >= enough], key=lambda p: (round(abs(p - wanted), 9), p)))


def losses(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Conditions of iteration 1 at the share nearest to 30 %, with ``baseline`` (the score at 0 %) and ``source``.

    One share for all, since losses at different shares are no ranking. Also the sources that do not have it.
    """
    first = of(frame, iteration=1)
    first = first.assign(source=first.model + ", " + first.task)
    if not (first.proportion > 0).any():
        return first.iloc[:0].assign(baseline=math.nan), []
    control = of(first, proportion=0.0).set_index("source").score
    rows = of(first, proportion=common_share(first))
    rows = rows.assign(baseline=[control.get(source, math.nan) for source in rows.source])
    synthetic = first.source[first.proportion > 0]
    return rows, [source for source in dict.fromkeys(synthetic) if source not in set(rows.source)]


def chains_of(beside: Beside, wanted: float = AT) -> list[tuple[str, pd.DataFrame]]:
    """Chains of the chosen model with two iterations or more, of each task the share nearest to 30 %: a name, and the
    rows of iterations 0, 1, ..."""
    own, found = beside.chosen, []
    lengths = own[own.proportion > 0].groupby(["task", "proportion"], as_index=False).iteration.max()
    for task in dict.fromkeys(own.sort_values("family", key=_family_order, kind="stable").task):
        shares = list(lengths.proportion[(lengths.task == task) & (lengths.iteration >= 2)])
        if not shares:
            continue
        share = min(shares, key=lambda p: (round(abs(p - wanted), 9), p))
        found.append((f"{beside.about(task)}, {percent(share)} %", chain_of(own, task, share)))
    return found


def chain_of(own: pd.DataFrame, task: str, share: float) -> pd.DataFrame:
    rows = of(own, task=task)
    chain = rows[(rows.iteration == 0) | ((rows.proportion == share) & (rows.iteration > 0))]
    return chain.sort_values("iteration").reset_index(drop=True)


def _family_order(families: pd.Series) -> pd.Series:
    return families.map({family: i for i, family in enumerate(FAMILIES)})


def paper_name(name: str) -> str:
    """``pythia-6.9b`` as the paper writes it."""
    return name.replace("pythia-", "Pythia-").replace("b", "B").replace("m", "M")
