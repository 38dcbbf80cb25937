"""Simulated studies whose truth is known: what the statistics are tried on.

On task k, the training run of seed s at share p answers item i with the logit

    eta = theta[k, p] + seed[k, s] + run[k, s, p] + item[k, i] + response[k, i, p]

This is the Rasch model with training runs for persons: ``item`` is an item's ease, ``seed`` the level of a seed at all
shares, ``run`` a training run's own deviation from it, and ``response`` an item's own reaction to a share, the same in
all seeds. All four are normal with mean 0, and independent. The expected score is ``m = 1 / (1 + exp(-eta))``. A score
is 1 with that probability and 0 else; a part of the scores may be partial credit instead, from a beta distribution with
mean m. The confidence of an answer is ``1 / (1 + exp(-(sharpness * eta + shift)))``: calibrated with 1 and 0.

``theta`` is not given but solved for, so that the mean over all items and runs is the wanted level: a share's effect is
set on the scale of the score, and so is the break of the curve. Truth is computed by quadrature, never by drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import expit, logit

from synthmix import keys
from synthmix.statistics.equivalence import MARGIN_RELATIVE, Spread
from synthmix.statistics.resampling import Array

#: Nodes of a quadrature; with standard deviations up to 3 logits its error is below 1e-6.
_NODES = 128
#: Both parameters of the beta distribution of partial credit add up to this.
_CREDIT = 2.0
#: Standard deviations beyond which a normal density counts as 0.
_TAIL = 9.0


@dataclass(frozen=True)
class Loss:
    """Relative loss at a share p > 0: ``jump + slope * max(0, p - start)``.

    None by default; linear with start 0; flat up to a break at ``start``, then falling, with a start above 0.

    Attributes:
        slope: part of the control's score that a unit of share costs; below 0: a gain.
        start: share beyond which the curve falls.
        jump: part of the control's score that any synthetic data costs.
    """

    slope: float = 0.0
    start: float = 0.0
    jump: float = 0.0

    def at(self, shares: Sequence[float] | Array) -> Array:
        """Relative loss at each share; 0 at share 0."""
        p = np.asarray(shares, dtype=np.float64)
        return np.where(p > 0, self.jump + self.slope * np.maximum(0.0, p - self.start), 0.0)

    def safe_proportion(self, margin: float = MARGIN_RELATIVE) -> float:
        """The share at which the loss reaches a margin; ``inf`` where it never does."""
        if self.jump >= margin:
            return 0.0
        return self.start + (margin - self.jump) / self.slope if self.slope > 0 else math.inf


@dataclass(frozen=True)
class Simulation:
    """Settings of a simulated study, and its truth. Standard deviations are in logits.

    Attributes:
        control: true score of the control on each task.
        losses: the loss on each task; a single one holds for all.
        shares: synthetic shares, the control's 0 first.
        items, seeds: items of a task's test set, and training runs of a condition.
        item_sd, response_sd: of items' ease, and of items' own reactions to a share.
        seed_sd, run_sd: of seeds' levels, and of runs' own deviations; the latter may be given for each share.
        partial: part of the scores that are partial credit.
        sharpness, shift: of the confidence.

    Raises:
        ValueError: true levels outside (0, 1), shares that do not begin with 0 and increase, another number of losses
            than of tasks or of ``run_sd`` than of shares, or settings out of range.
    """

    control: tuple[float, ...] = (0.6,)
    losses: tuple[Loss, ...] = (Loss(),)
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    items: int = 300
    seeds: int = 3
    item_sd: float = 1.5
    response_sd: float = 0.3
    seed_sd: float = 0.1
    run_sd: float | tuple[float, ...] = 0.15
    partial: float = 0.0
    sharpness: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.shares or self.shares[0] != 0 or np.any(np.diff(self.shares) <= 0):
            raise ValueError(f"expected increasing shares from 0 but got {self.shares}")
        if not self.control or len(self.losses) not in (1, len(self.control)):
            raise ValueError(f"expected a loss, or one for each of {len(self.control)} tasks, but got {self.losses}")
        if isinstance(self.run_sd, tuple) and len(self.run_sd) != len(self.shares):
            raise ValueError(f"expected run_sd for each of {len(self.shares)} shares but got {self.run_sd}")
        if np.any(self.levels <= 0) or np.any(self.levels >= 1):
            raise ValueError(f"expected levels between 0 and 1 but got {self.levels.tolist()}")
        if min(self.items, self.seeds, self.item_sd, self.sharpness) <= 0 or not 0 <= self.partial <= 1:
            raise ValueError(
                f"expected items, seeds, item_sd, sharpness above 0 and partial from 0 to 1 but got {self}"
            )
        if min(self.response_sd, self.seed_sd, *self.run_sds) < 0:
            raise ValueError(f"expected standard deviations of 0 or more but got {self}")

    @property
    def run_sds(self) -> tuple[float, ...]:
        """Standard deviation of runs' own deviations at each share."""
        return self.run_sd if isinstance(self.run_sd, tuple) else (self.run_sd,) * len(self.shares)

    # -- truth ------------------------------------------------------------------------------------------------------

    @property
    def levels(self) -> Array:
        """True scores, ``(tasks, shares)``: the mean over all items and all training runs."""
        losses = self.losses * (len(self.control) if len(self.losses) == 1 else 1)
        lost = np.stack([loss.at(self.shares) for loss in losses])
        return np.asarray(self.control, dtype=np.float64)[:, None] * (1 - lost)

    @property
    def differences(self) -> Array:
        """True differences to the control, ``(tasks, shares)``."""
        return self.levels - self.levels[:, :1]

    @property
    def relative(self) -> Array:
        """True differences as parts of the control's score, ``(tasks, shares)``."""
        return self.levels / self.levels[:, :1] - 1

    @cached_property
    def theta(self) -> Array:
        """Logits ``(tasks, shares)`` at which the mean score is :attr:`levels`."""
        sds = [math.hypot(self._item_sd, self._run_sd(share)) for share in range(len(self.shares))]
        return np.array([[_solve(float(m), sd) for m, sd in zip(row, sds, strict=True)] for row in self.levels])

    def level_spread(self, task: int, share: int) -> Spread:
        """True variance components of a score; ``share`` is an index."""
        runs, items = self._run_sd(share), self._item_sd
        item = self._covariance(task, (share, share), items)
        seed = self._covariance(task, (share, share), runs)
        return Spread(seed, item, self._variance(task, share) - item - seed)

    def spread(self, task: int, share: int) -> Spread:
        """True variance components of the difference of a share (an index, not 0) to the control."""
        ours, theirs, both = self.level_spread(task, share), self.level_spread(task, 0), (share, 0)
        item = ours.item + theirs.item - 2 * self._covariance(task, both, self.item_sd)
        seed = ours.seed + theirs.seed - 2 * self._covariance(task, both, self.seed_sd)
        common = self._covariance(task, both, math.hypot(self.item_sd, self.seed_sd))
        total = self._variance(task, share) + self._variance(task, 0) - 2 * common
        return Spread(seed, item, total - item - seed)

    def ece(self, task: int, share: int, bins: int = 10) -> float:
        """True expected calibration error of a training run, averaged over runs, in equal-width bins; ``share`` is an
        index."""
        inner = (logit(np.arange(1, bins) / bins) - self.shift) / self.sharpness
        nodes, weights = _normal()
        runs = self.theta[task, share] + self._run_sd(share) * nodes
        return float(sum(w * self._ece_of_run(float(run), inner) for run, w in zip(runs, weights, strict=True)))

    # -- parts ------------------------------------------------------------------------------------------------------

    @property
    def _item_sd(self) -> float:
        """Of all that belongs to an item at a share."""
        return math.hypot(self.item_sd, self.response_sd)

    def _run_sd(self, share: int) -> float:
        """Of all that belongs to a training run."""
        return math.hypot(self.seed_sd, self.run_sds[share])

    def _covariance(self, task: int, shares: tuple[int, int], shared: float) -> float:
        """Of the expected scores at two shares whose random parts have a standard deviation in common, the rest apart."""
        nodes, weights = _normal()
        means = []
        for share in shares:
            apart = self._item_sd**2 + self._run_sd(share) ** 2 - shared**2
            grid = shared * nodes[:, None] + math.sqrt(max(0.0, apart)) * nodes
            means.append(expit(self.theta[task, share] + grid) @ weights)
        return float((means[0] * means[1]) @ weights - (means[0] @ weights) * (means[1] @ weights))

    def _variance(self, task: int, share: int) -> float:
        """Of one score: that of its expectation, and that about it, which partial credit makes smaller."""
        mean = float(self.levels[task, share])
        expected = self._covariance(task, (share, share), math.hypot(self._item_sd, self._run_sd(share)))
        about = 1 - self.partial + self.partial / (_CREDIT + 1)
        return expected + about * (mean - mean**2 - expected)

    def _ece_of_run(self, theta: float, inner: Array) -> float:
        """Sum over bins of confidence of |mean of score - confidence|, items integrated out (Gauss and Legendre)."""
        low, high = theta - _TAIL * self._item_sd, theta + _TAIL * self._item_sd
        edges = np.concatenate([[low], np.clip(inner, low, high), [high]])
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        half = np.diff(edges)[:, None] / 2
        eta = edges[:-1, None] + half * (1 + nodes)
        density = np.exp(-(((eta - theta) / self._item_sd) ** 2) / 2) / (self._item_sd * math.sqrt(2 * math.pi))
        gap = expit(eta) - expit(self.sharpness * eta + self.shift)
        return float(np.abs((half * weights * density * gap).sum(axis=1)).sum())


@dataclass(frozen=True)
class Simulated:
    """A drawn study.

    Attributes:
        scores, confidence: ``(tasks, shares, seeds, items)``.
    """

    scores: Array
    confidence: Array


def simulate(settings: Simulation, *key: Any) -> Simulated:
    """Draws a study, which is a function of the settings and the key."""
    rng = keys.generator("simulation", repr(settings), *key)
    (tasks, shares), seeds, items = settings.theta.shape, settings.seeds, settings.items
    eta = settings.theta[:, :, None, None] + settings.seed_sd * rng.normal(size=(tasks, 1, seeds, 1))
    eta = eta + np.array(settings.run_sds)[:, None, None] * rng.normal(size=(tasks, shares, seeds, 1))
    ease = settings.item_sd * rng.normal(size=(tasks, 1, 1, items))
    eta = eta + ease + settings.response_sd * rng.normal(size=(tasks, shares, 1, items))
    mean = expit(eta)
    scores = (rng.random(mean.shape) < mean).astype(np.float64)
    if settings.partial > 0:
        some = rng.random(mean.shape) < settings.partial
        scores[some] = rng.beta(_CREDIT * mean[some], _CREDIT * (1 - mean[some]))
    return Simulated(scores, expit(settings.sharpness * eta + settings.shift))


@cache
def _normal() -> tuple[Array, Array]:
    """Nodes and weights of the mean over a standard normal variable (Gauss and Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes, weights / weights.sum()


@cache
def _solve(mean: float, sd: float) -> float:
    """theta with ``E[1 / (1 + exp(-theta - sd * Z))] = mean``; it is further from 0 than the mean's own logit."""
    nodes, weights = _normal()
    reach = abs(float(logit(mean))) * math.sqrt(1 + sd**2) + 1
    return float(optimize.brentq(lambda at: float(expit(at + sd * nodes) @ weights) - mean, -reach, reach, xtol=1e-13))
