"""Simulated studies, judged as a report judges a study: estimates with their errors, by every way of getting these.

A study is a list of tasks (:class:`synthmix.statistics.simulate.Simulation` of one task each), so that tasks may differ
in all settings but the number of shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from synthmix.statistics import Array, Crossed, SeedNoise, crossed, seed_noise, wilson
from synthmix.statistics.moderation import SHARED_CONTROL
from synthmix.statistics.resampling import resample
from synthmix.statistics.simulate import Simulation, simulate

#: Ways to get a standard error. The first three are those of the package, in studies of one comparison, one task, and
#: all tasks; the fourth is the paired t-test (for levels: the t interval) over seeds alone.
OWN, TASK, STUDY, SEEDS = "own seeds", "one task", "whole study", "t over seeds"
WAYS = (OWN, TASK, STUDY, SEEDS)
QUANTITIES = ("level", "difference", "relative")


@dataclass(frozen=True)
class Estimates:
    """Estimates with standard errors and degrees of freedom, ``(studies, tasks, shares)`` each."""

    value: Array
    error: Array
    freedom: Array

    def p_value(self, truth: Array | float = 0.0) -> Array:
        """Two-sided, of a true value."""
        off = np.abs(self.value - truth)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(off == 0, 0.0, off / self.error)
        return 2 * stats.t.sf(ratio, self.freedom)

    def holds(self, truth: Array) -> Array:
        """1 where the 95 % interval holds a true value, 0 where not; nan without an estimate (a control of 0)."""
        return np.where(np.isfinite(self.value), self.p_value(truth) >= 0.05, np.nan)

    def p_equivalence(self, margin: float) -> Array:
        """As :func:`synthmix.statistics.tost`, for whole arrays; the tests compare them."""
        with np.errstate(divide="ignore"):
            return stats.t.sf((margin - np.abs(self.value)) / self.error, self.freedom)


Judged = dict[tuple[str, str], Estimates]


@dataclass(frozen=True)
class Rate:
    """How often something happens in simulated studies, with its standard error over studies."""

    rate: float
    error: float
    studies: int

    def record(self) -> dict[str, float]:
        return {"rate": round(self.rate, 4), "error": round(self.error, 4), "studies": self.studies}


def rate(happened: Array) -> Rate:
    """Over all entries of ``(studies, ...)`` but nan; those of one study count as dependent."""
    of_studies = np.nanmean(np.asarray(happened, dtype=np.float64).reshape(len(happened), -1), axis=1)
    spread = float(of_studies.std(ddof=1)) / np.sqrt(len(of_studies)) if len(of_studies) > 1 else float("nan")
    return Rate(float(of_studies.mean()), float(spread), len(of_studies))


def like(count: int = 5, **settings: Any) -> list[Simulation]:
    """Tasks that differ in their level alone."""
    levels = (0.3, 0.45, 0.6, 0.75, 0.6)
    return [Simulation(control=(levels[k % len(levels)],), **settings) for k in range(count)]


def draw(tasks: Sequence[Simulation], *key: Any) -> list[Array]:
    """Scores ``(shares, seeds, items)`` of each task."""
    return [simulate(task, k, *key).scores[0] for k, task in enumerate(tasks)]


def truth(tasks: Sequence[Simulation], quantity: str) -> Array:
    """``(tasks, shares)``; differences are without the control."""
    if quantity == "level":
        return np.concatenate([task.levels for task in tasks])
    found = [task.differences if quantity == "difference" else task.relative for task in tasks]
    return np.concatenate(found)[:, 1:]


def judged(tasks: Sequence[Simulation], studies: int, *key: Any, quantities: Sequence[str] = QUANTITIES) -> Judged:
    """Estimates of a number of drawn studies, by quantity and way."""
    each = [judge(draw(tasks, study, *key), quantities) for study in range(studies)]
    return {name: Estimates(*np.stack([one[name] for one in each], axis=1)) for name in each[0]}


def judge(scores: Sequence[Array], quantities: Sequence[str] = QUANTITIES) -> dict[tuple[str, str], Array]:
    """One study: ``(3, tasks, shares)`` values, errors, degrees of freedom, by quantity and way."""
    found = {}
    gaps = [[crossed(table - task[0]) for table in task[1:]] for task in scores]
    for quantity in quantities:
        tables = gaps if quantity == "difference" else [[crossed(t) for t in _tables(x, quantity)] for x in scores]
        values = np.array([_values(x, quantity) for x in scores])
        noise = noises(tables if quantity == "level" else gaps, quantity)
        for way in WAYS:
            errors = _over_seeds(scores, quantity) if way == SEEDS else _errors(tables, noise[way])
            found[quantity, way] = np.concatenate([values[None], errors])
    return found


def noises(groups: Sequence[Sequence[Crossed]], quantity: str) -> dict[str, list[SeedNoise | None]]:
    """What the seeds of the other comparisons say, for each task and way."""
    correlation = None if quantity == "level" else SHARED_CONTROL
    alone = [seed_noise([group], correlation)[0] for group in groups]
    return {OWN: [None] * len(groups), TASK: alone, STUDY: seed_noise(groups, correlation)}


def bootstrap(scores: Sequence[Array], task: int, share: int, *key: Any, resamples: int = 1000) -> dict[str, Array]:
    """Ends of the percentile intervals of one comparison, and of its level, by quantity."""
    both = np.stack([scores[task][share], scores[task][0]], axis=1)
    draws = resample(list(both), key, True, resamples)
    drawn = {"level": draws[:, 0], "difference": draws[:, 0] - draws[:, 1], "relative": draws[:, 0] / draws[:, 1] - 1}
    return {name: np.percentile(values, [2.5, 97.5]) for name, values in drawn.items()}


def _tables(task: Array, quantity: str) -> list[Array]:
    if quantity == "level":
        return list(task)
    control = task[0].mean() or np.nan
    return [(table - table.mean() / control * task[0]) / control for table in task[1:]]


def _values(task: Array, quantity: str) -> Array:
    means = task.mean(axis=(1, 2))
    by: dict[str, Callable[[], Array]] = {
        "level": lambda: means,
        "difference": lambda: means[1:] - means[0],
        "relative": lambda: means[1:] / (means[0] or np.nan) - 1,
    }
    return by[quantity]()


def _errors(tables: Sequence[Sequence[Crossed]], noise: Sequence[SeedNoise | None]) -> Array:
    found = [[_error(c, one) for c in row] for row, one in zip(tables, noise, strict=True)]
    return np.moveaxis(np.array(found), -1, 0)


def _error(table: Crossed, noise: SeedNoise | None) -> tuple[float, float]:
    """As the package has it: where nothing differs, Wilson's bound stands for an error."""
    if table.of_seeds == table.of_items == table.rest == 0:
        return wilson(0, table.items).high / float(stats.norm.ppf(0.975)), np.inf
    return table.error(noise)


def _over_seeds(scores: Sequence[Array], quantity: str) -> Array:
    """Standard error from the seeds' values alone, and seeds - 1."""
    means = np.stack([task.mean(axis=-1) for task in scores])
    gaps = means[:, 1:] - means[:, :1]
    # A seed whose control scores 0 has no relative difference, and the test over seeds then none at all.
    relative = gaps / np.where(means[:, :1] > 0, means[:, :1], np.nan)
    of_seeds = {"level": means, "difference": gaps, "relative": relative}[quantity]
    error = of_seeds.std(axis=-1, ddof=1) / np.sqrt(of_seeds.shape[-1])
    return np.stack([error, np.full_like(error, of_seeds.shape[-1] - 1)])
