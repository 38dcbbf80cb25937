"""One row a condition (model, task, mode, proportion, iteration), over its seeds: what tables and figures print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from synthmix.analysis.load import StudyData
from synthmix.config import CONFIDENCES
from synthmix.metrics import ReliabilityBins, reliability_bins
from synthmix.statistics import (
    RESAMPLES,
    Array,
    Interval,
    bonferroni,
    ece_interval,
    hierarchical_bootstrap,
    paired_difference,
)

CONDITION = ["model", "task", "mode", "proportion", "iteration"]
#: Item columns that hold a confidence; ``confidence`` is the one behind the headline ECE.
ESTIMATORS = ("confidence", *(f"confidence_{name}" for name in CONFIDENCES))
#: An interval is three columns: ``score``, ``score_low``, ``score_high``.
ENDS = ("", "_low", "_high")
ALERTS = ("none", "warning", "critical")
ITEM_COLUMNS = ("split", "item", "score", *ESTIMATORS)
#: The control's mixing mode: with no synthetic data all modes but ``recursive`` are the same.
CONTROL_MODE = "replace"

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Analysis:
    """A study with its statistics, each computed once.

    Attributes:
        study: the loaded study.
        resamples: bootstrap resamples behind every interval.
        split: the items that are looked at: the test set, or one of a task's probes.
        group: only items of this group, as ``("answerable", "no")``; None: all.
        estimators: confidence columns whose ECE is computed.
    """

    study: StudyData
    resamples: int = RESAMPLES
    split: str = "test"
    group: tuple[str, str] | None = None
    estimators: Sequence[str] = ESTIMATORS

    @property
    def bins(self) -> int:
        """Bins of the ECE."""
        return int((self.study.config.get("evaluation") or {}).get("bins", 10))

    @cached_property
    def items(self) -> dict[str, pd.DataFrame]:
        """The items of each finished cell that has any (by hash), sorted by item id; only :data:`ITEM_COLUMNS`."""
        if self.group is None:
            frame = self.study.read_items(ITEM_COLUMNS, split=self.split)
        else:
            column, value = f"group_{self.group[0]}", self.group[1]
            frame = self.study.read_items((*ITEM_COLUMNS, column), split=self.split)
            frame = frame[frame[column] == value] if column in frame else frame.iloc[:0]
        if frame.empty:
            return {}
        groups = frame.sort_values("item", kind="stable").groupby("hash", observed=True)
        return {str(name): group.reset_index(drop=True) for name, group in groups}

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """One row a condition with at least one finished cell.

        Columns: ``model, task, mode, proportion, iteration, metric, parameters``; ``n_seeds, n_items, seeds``;
        ``score, score_low, score_high, score_method``; ``<confidence>_ece`` with ``_low`` and ``_high`` for every
        estimator (nan where it does not exist), ``ece*`` being the headline's; ``difference*`` to the control, in
        the unit of the score, ``relative*``, ``p_value, p_test, p_seeds, p_bonferroni, n_paired_seeds, control``
        (``found``, ``missing``, ``self``, ``none``: a baseline has no control); ``alert`` (the worst of its seeds);
        and means over seeds of every numeric column of ``cells``.
        """
        done = self.study.done
        done = done[done["hash"].isin(list(self.items))]
        rows = [self._row(key, group) for key, group in done.groupby(CONDITION, sort=True)]
        if not rows:
            return pd.DataFrame(columns=[*CONDITION, "control", "p_value", "score", "ece", "n_seeds", "n_items"])
        frame = pd.DataFrame(rows)
        frame["p_bonferroni"] = bonferroni([float(p) for p in frame.p_value])
        return frame.sort_values(["task", "parameters", "model", "iteration", "mode", "proportion"], ignore_index=True)

    @property
    def family(self) -> int:
        """Comparisons with the control: the family of the Bonferroni correction."""
        return int(self.conditions.p_value.notna().sum())

    def reliability(self, condition: pd.Series, estimator: str = "confidence") -> ReliabilityBins | None:
        """Reliability bins over all seeds of a condition; None where the estimator does not exist."""
        frames = [self.items[str(h)] for h in self._cells(tuple(condition[CONDITION])).hash]
        frames = [f[f[estimator].notna()] for f in frames if estimator in f]
        if not any(len(f) for f in frames):
            return None
        both = pd.concat(frames)
        return reliability_bins(both[estimator], both.score, self.bins)

    # -- one condition ----------------------------------------------------------------------------------------------

    def _cells(self, key: Key) -> pd.DataFrame:
        done = self.study.done[self.study.done["hash"].isin(list(self.items))]
        mask = np.ones(len(done), dtype=bool)
        for column, value in zip(CONDITION, key, strict=True):
            mask &= (done[column] == value).to_numpy()
        return done[mask].sort_values("seed")

    def _row(self, key: Key, cells: pd.DataFrame) -> dict[str, Any]:
        cells = cells.sort_values("seed")
        frames = [self.items[str(h)] for h in cells.hash]
        row: dict[str, Any] = {str(k): v for k, v in cells.select_dtypes("number").mean().to_dict().items()}
        row |= dict(zip(CONDITION, key, strict=True))
        row |= {"metric": cells.metric.iloc[0], "parameters": cells.parameters.iloc[0], "seeds": list(cells.seed)}
        score = hierarchical_bootstrap(
            *_columns(frames, "score"), "score", *map(str, key), shared_items=_shared(frames), resamples=self.resamples
        )
        row |= _named("score", score)
        row |= {"n_seeds": score.n_seeds, "n_items": score.n_items, "score_method": score.method}
        for estimator in self.estimators:
            name = "ece" if estimator == "confidence" else f"{estimator}_ece"
            # The headline's own estimator has the headline's interval, to the last digit.
            again = name != "ece" and all(estimator in f and f[estimator].equals(f.confidence) for f in frames)
            row |= (
                {name + end: row["ece" + end] for end in ENDS}
                if again
                else _named(name, self._ece(frames, estimator, key))
            )
        if "alert_level" in cells:
            levels = [level for level in cells.alert_level if level in ALERTS]
            row["alert"] = max(levels, key=ALERTS.index) if levels else ""
        return row | self._against_control(key, cells)

    def _ece(self, frames: Sequence[pd.DataFrame], estimator: str, key: Key) -> Interval | None:
        known = [frame[frame[estimator].notna()] for frame in frames if estimator in frame]
        if len(known) < len(frames) or not all(len(frame) for frame in known):
            return None
        confidence, score = _columns(known, estimator)[0], _columns(known, "score")[0]
        return ece_interval(
            confidence, score, "ece", estimator, *map(str, key),
            bins=self.bins, shared_items=_shared(known), resamples=self.resamples,
        )  # fmt: skip

    def _against_control(self, key: Key, cells: pd.DataFrame) -> dict[str, Any]:
        """The difference to the 0 % chain at the same iteration: same seeds, same items."""
        model, task, mode, proportion, iteration = key
        nothing = {"p_value": math.nan, "p_seeds": math.nan, "p_test": "", "n_paired_seeds": 0}
        nothing |= _named("difference", None) | _named("relative", None)
        if iteration == 0:
            return nothing | {"control": "none"}
        if proportion == 0:
            return nothing | {"control": "self"}
        control = self._cells((model, task, CONTROL_MODE, 0.0, iteration))
        pairs = cells.merge(control, on="seed", suffixes=("", "_control"))
        if pairs.empty:
            return nothing | {"control": "missing"}
        both = [
            self.items[str(a)].merge(self.items[str(b)], on="item", suffixes=("", "_control"))
            for a, b in zip(pairs.hash, pairs.hash_control, strict=True)
        ]
        if not all(len(frame) for frame in both):
            return nothing | {"control": "missing"}
        found = paired_difference(
            *_columns(both, "score", "score_control"), "difference", *map(str, key),
            shared_items=_shared(both), resamples=self.resamples,
        )  # fmt: skip
        row = nothing | {"control": "found", "p_value": found.p_value, "p_test": found.test, "p_seeds": found.p_seeds}
        row |= _named("difference", found.points) | _named("relative", found.relative)
        return row | {"n_paired_seeds": len(pairs)}


def realised(condition: pd.Series) -> float:
    """The synthetic share that a condition was trained on: not the nominal one in ``accumulate``, and after an alert
    that reduced it."""
    share = condition.get("mixture_proportion_realised", math.nan)
    return float(condition.proportion if pd.isna(share) else share)


def off_nominal(conditions: pd.DataFrame) -> pd.DataFrame:
    """Conditions whose realised share is another than the nominal one, by more than half a point."""
    if conditions.empty:
        return conditions
    return conditions[[abs(realised(row) - row.proportion) > 0.005 for _, row in conditions.iterrows()]]


def trained_longer(conditions: pd.DataFrame) -> list[str]:
    """Mixing modes some of whose conditions took more optimizer steps than the control at the same iteration."""
    if "train_steps" not in conditions:
        return []
    found = set()
    for _, row in conditions[conditions.proportion > 0].iterrows():
        control = of(conditions, model=row.model, task=row.task, iteration=row.iteration, proportion=0.0)
        if len(control) and row.train_steps > control.train_steps.iloc[0]:
            found.add(str(row["mode"]))
    return sorted(found)


def label(condition: pd.Series | dict[str, Any], columns: Sequence[str]) -> str:
    """A condition in words, from some of its columns: ``"nano-0.9m, iteration 2, 30 % synthetic"``."""
    words = {
        "model": lambda v: str(v),
        "task": lambda v: str(v),
        "mode": lambda v: str(v),
        "proportion": lambda v: f"{percent(v)} % synthetic",
        "iteration": lambda v: f"iteration {int(v)}",
    }
    return ", ".join(words[column](condition[column]) for column in columns)


def percent(share: float) -> str:
    """A share as a percentage without needless decimals: 0.3 is ``30``, 0.125 is ``12.5``."""
    return f"{100 * share:.4g}"


def of(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Rows where every named column has the given value."""
    mask = np.ones(len(frame), dtype=bool)
    for column, value in wanted.items():
        mask &= (frame[column] == value).to_numpy()
    return frame[mask]


def _columns(frames: Sequence[pd.DataFrame], *names: str) -> tuple[list[Array], ...]:
    return tuple([frame[name].to_numpy(dtype=np.float64) for frame in frames] for name in names)


def _shared(frames: Sequence[pd.DataFrame]) -> bool:
    first = frames[0].item.to_numpy()
    return all(len(f) == len(first) and np.array_equal(f.item.to_numpy(), first) for f in frames[1:])


def _named(name: str, interval: Interval | None) -> dict[str, float]:
    values = (math.nan,) * 3 if interval is None else (interval.estimate, interval.low, interval.high)
    return dict(zip((name + end for end in ENDS), values, strict=True))
