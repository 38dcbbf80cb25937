"""One row a condition (model, task, mode, proportion, iteration), over its seeds: what tables and figures print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from synthmix.analysis.comparisons import ENDS, compared, judge_family, named, nothing
from synthmix.analysis.load import StudyData
from synthmix.config import CONFIDENCES
from synthmix.metrics import ReliabilityBins, reliability_bins
from synthmix.statistics import (
    RESAMPLES,
    Array,
    Crossed,
    Interval,
    Paired,
    SeedNoise,
    crossed,
    difference,
    ece_interval,
    mean_interval,
    seed_noise,
)
from synthmix.statistics.equivalence import MARGIN_POINTS, MARGIN_RELATIVE

CONDITION = ["model", "task", "mode", "proportion", "iteration"]
#: Item columns that hold a confidence; ``confidence`` is the one behind the headline ECE.
ESTIMATORS = ("confidence", *(f"confidence_{name}" for name in CONFIDENCES))
ALERTS = ("none", "warning", "critical")
ITEM_COLUMNS = ("split", "item", "score", *ESTIMATORS)
#: The control's mixing mode: with no synthetic data all modes but ``recursive`` are the same.
CONTROL_MODE = "replace"

#: What a condition is compared with: the 0 % chain at the same iteration, or the phase 0 model that it began from.
CONTROLS = ("chain", "baseline")

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
        control: what conditions are compared with, one of :data:`CONTROLS`.
        margin: a difference of less counts as none, in the unit of the score; ``margin_relative`` as a share of the
            control's score.
    """

    study: StudyData
    resamples: int = RESAMPLES
    split: str = "test"
    group: tuple[str, str] | None = None
    estimators: Sequence[str] = ESTIMATORS
    control: str = "chain"
    margin: float = MARGIN_POINTS
    margin_relative: float = MARGIN_RELATIVE

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
        estimator (nan where it does not exist), ``ece*`` being the headline's; against the control, in the unit of
        the score, ``difference*``, ``bootstrap*`` (the same by the hierarchical bootstrap), ``relative*``, ``p_value,
        p_test, freedom, p_seeds`` (paired t-test over seeds), ``mcnemar`` (seeds in which it is below 0.05), ``d_z,
        d_av``, ``p_equivalence*``, ``n_paired_seeds, n_paired_items, n_unpaired_items, control`` (``found``,
        ``missing``, ``self``, ``none``: a baseline has no control) and the columns of
        :func:`synthmix.analysis.comparisons.judge_family`; ``alert`` (the worst of its seeds); and means over seeds
        of every numeric column of ``cells``.
        """
        keyed = {key: self._cells(key) for key in self._keys}
        if not keyed:
            return pd.DataFrame(columns=[*CONDITION, "control", "p_value", "score", "ece", "n_seeds", "n_items"])
        frame = pd.DataFrame([self._row(key, cells) for key, cells in keyed.items()])
        frame = judge_family(frame, self.margin)
        return frame.sort_values(["task", "parameters", "model", "iteration", "mode", "proportion"], ignore_index=True)

    @cached_property
    def noise(self) -> dict[Key, SeedNoise | None]:
        """How much seeds differ, by control of the comparisons; see :mod:`synthmix.statistics.moderation`."""
        groups: dict[Key, list[Crossed]] = {}
        for key, pair in self._pairs.items():
            if pair is not None and pair.crossed:
                groups.setdefault(tuple(self._control_key(key)), []).append(pair.crossed)
        return dict(zip(groups, seed_noise(list(groups.values())), strict=True))

    @cached_property
    def level_noise(self) -> dict[Key, SeedNoise | None]:
        """How much seeds differ in the conditions' own scores, by model and task."""
        groups: dict[Key, list[Crossed]] = {}
        for key in self._keys:
            if (table := _crossed(self._frames(self._cells(key)))) is not None:
                groups.setdefault(key[:2], []).append(table)
        return dict(zip(groups, seed_noise(list(groups.values()), correlation=None), strict=True))

    @property
    def family(self) -> int:
        """Comparisons with the control: the family of the Bonferroni correction."""
        return int(self.conditions.p_value.notna().sum())

    def reliability(self, condition: pd.Series, estimator: str = "confidence") -> ReliabilityBins | None:
        """Reliability bins over all seeds of a condition; None where the estimator does not exist."""
        frames = self._frames(self._cells(tuple(condition[CONDITION])))
        frames = [f[f[estimator].notna()] for f in frames if estimator in f]
        if not any(len(f) for f in frames):
            return None
        both = pd.concat(frames)
        return reliability_bins(both[estimator], both.score, self.bins)

    # -- one condition ----------------------------------------------------------------------------------------------

    @cached_property
    def _done(self) -> pd.DataFrame:
        """Finished cells that have items of this split and group, and their seeds in order."""
        done = self.study.done
        return done[done["hash"].isin(list(self.items))].sort_values("seed", kind="stable")

    @cached_property
    def _cells_by_key(self) -> dict[Key, pd.DataFrame]:
        return {tuple(key): cells for key, cells in self._done.groupby(CONDITION, sort=True)}

    @property
    def _keys(self) -> list[Key]:
        return list(self._cells_by_key)

    def _cells(self, key: Key) -> pd.DataFrame:
        return self._cells_by_key.get(key, self._done.iloc[:0])

    def _frames(self, cells: pd.DataFrame) -> list[pd.DataFrame]:
        return [self.items[str(h)] for h in cells["hash"]]

    def _row(self, key: Key, cells: pd.DataFrame) -> dict[str, Any]:
        frames = self._frames(cells)
        row: dict[str, Any] = {str(k): v for k, v in cells.select_dtypes("number").mean().to_dict().items()}
        row |= dict(zip(CONDITION, key, strict=True))
        row |= {"metric": cells.metric.iloc[0], "parameters": cells.parameters.iloc[0], "seeds": list(cells.seed)}
        score = mean_interval(
            *_columns(frames, "score"), "score", *map(str, key),
            shared_items=_shared(frames), noise=self.level_noise.get(key[:2]), resamples=self.resamples,
        )  # fmt: skip
        row |= named("score", score)
        row |= {"n_seeds": score.n_seeds, "n_items": score.n_items, "score_method": score.method}
        for estimator in self.estimators:
            name = "ece" if estimator == "confidence" else f"{estimator}_ece"
            # The headline's own estimator has the headline's interval, to the last digit.
            again = name != "ece" and all(estimator in f and f[estimator].equals(f.confidence) for f in frames)
            row |= (
                {name + end: row["ece" + end] for end in ENDS}
                if again
                else named(name, self._ece(frames, estimator, key))
            )
        if "alert_level" in cells:
            levels = [level for level in cells.alert_level if level in ALERTS]
            row["alert"] = max(levels, key=ALERTS.index) if levels else ""
        return row | self._against_control(key)

    def _ece(self, frames: Sequence[pd.DataFrame], estimator: str, key: Key) -> Interval | None:
        if not all(estimator in frame and frame[estimator].notna().any() for frame in frames):
            return None
        confidence, score = _columns(frames, estimator)[0], _columns(frames, "score")[0]
        return ece_interval(
            confidence, score, "ece", estimator, *map(str, key),
            bins=self.bins, shared_items=_shared(frames), resamples=self.resamples,
        )  # fmt: skip

    def _against_control(self, key: Key) -> dict[str, Any]:
        """The difference to the control: same seeds, same items."""
        reference = self._control_key(key)
        if isinstance(reference, str):
            return nothing() | {"control": reference}
        pair = self._pairs[key]
        if pair is None:
            return nothing() | {"control": "missing"}
        noise = self.noise.get(reference)
        found = difference(pair, "difference", *map(str, key), noise=noise, resamples=self.resamples)
        counts = {"n_paired_seeds": pair.seeds, "n_paired_items": pair.items, "n_unpaired_items": self._unpaired[key]}
        return nothing() | compared(found, self.margin, self.margin_relative) | counts | {"control": "found"}

    def _control_key(self, key: Key) -> Key | str:
        """The condition that another is compared with, or why there is none."""
        model, task, _mode, proportion, iteration = key
        if iteration == 0:
            return "none"
        if self.control == "baseline":
            return (model, task, "baseline", 0.0, 0)
        return "self" if proportion == 0 else (model, task, CONTROL_MODE, 0.0, iteration)

    @cached_property
    def _pairs(self) -> dict[Key, Paired | None]:
        """Scores of each condition beside its control's, on the items and seeds that both have."""
        found: dict[Key, Paired | None] = {}
        for key in self._keys:
            reference = self._control_key(key)
            if not isinstance(reference, str):
                found[key] = self._pair(self._cells(key), self._cells(reference))
        return found

    def _pair(self, cells: pd.DataFrame, control: pd.DataFrame) -> Paired | None:
        both = [joined for a, b in self._paired_hashes(cells, control) if len(joined := self._joined(a, b))]
        if not both:
            return None
        ours, theirs = _columns(both, "score", "score_control")
        return Paired(ours, theirs, _shared(both))

    def _paired_hashes(self, cells: pd.DataFrame, control: pd.DataFrame) -> list[tuple[str, str]]:
        theirs = dict(zip(control.seed, control["hash"], strict=True))
        ours = zip(cells.seed, cells["hash"], strict=True)
        return [(str(own), str(theirs[seed])) for seed, own in ours if seed in theirs]

    def _joined(self, own: str, control: str) -> pd.DataFrame:
        ours, theirs = self.items[own], self.items[control][["item", "score"]]
        if ours.item.equals(theirs.item):
            return ours[["item", "score"]].assign(score_control=theirs.score)
        return ours[["item", "score"]].merge(theirs, on="item", suffixes=("", "_control"))

    @cached_property
    def _unpaired(self) -> dict[Key, int]:
        """Items of a condition or its control that the other has not, over all seeds."""
        counts = {}
        for key in self._pairs:
            hashes = self._paired_hashes(self._cells(key), self._cells(self._control_key(key)))  # type: ignore[arg-type]
            counts[key] = sum(
                0 if self.items[a].item.equals(self.items[b].item) else len(set(self.items[a].item) ^ set(self.items[b].item))
                for a, b in hashes
            )  # fmt: skip
        return counts


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


def _crossed(frames: Sequence[pd.DataFrame]) -> Crossed | None:
    """Mean squares of a condition's scores; None where they have no seeds or items to tell apart."""
    if len(frames) < 2 or not _shared(frames) or len(frames[0]) < 2:
        return None
    return crossed(np.stack(_columns(frames, "score")[0]))
