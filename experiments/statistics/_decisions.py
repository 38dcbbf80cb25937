"""Are decisions wrong as rarely, and right as often, as they say?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from _intervals import NOISE, STRESSES, Record
from _studies import OWN, SEEDS, STUDY, WAYS, Estimates, draw, judged, like, noises, rate, truth

from synthmix.analysis.comparisons import compared, judge_family
from synthmix.statistics import (
    MARGIN_POINTS,
    Array,
    Paired,
    Spread,
    benjamini_hochberg,
    bonferroni,
    crossed,
    deciding_error,
    difference,
    holm,
)
from synthmix.statistics.equivalence import ALPHA
from synthmix.statistics.simulate import Loss, Simulation

#: Comparisons of a simulated study: five tasks, five shares.
FAMILY = 25
#: True differences of verdicts' tasks, in points of a control at 60 %.
LOSSES = (0.0, -0.01, -0.03, -0.05, -0.10)


def step(points: float, control: float = 0.6, **settings: Any) -> Simulation:
    """A task that every share costs the same number of points."""
    return Simulation(control=(control,), losses=(Loss(jump=-points / control),), **settings)


def _noise(name: str) -> dict[str, float]:
    return dict(zip(("seed_sd", "run_sd"), NOISE[name], strict=True))


def differences(tasks: Sequence[Simulation], studies: int, *key: Any) -> dict[str, Estimates]:
    found = judged(tasks, studies, *key, quantities=("difference",))
    return {way: found["difference", way] for way in WAYS}


def family_error(seeds: int, noise: str, studies: int) -> Record:
    """No effect anywhere: how often 25 comparisons hold a false claim, after Holm's correction.

    Where all 25 are null, Bonferroni's makes the same false claims: a family's first is that of its least p-value.
    """
    uneven = STRESSES.get(noise)
    if uneven is None:
        tasks = like(seeds=seeds, **_noise(noise))
    else:
        tasks = [replace(task, losses=(Loss(),), seeds=seeds) for task in uneven]
    return {
        way: rate(_any_claim(found.p_value(), bonferroni)).record()
        for way, found in differences(tasks, studies).items()
    }


def _corrected(p_values: Array, correct: Any) -> Array:
    """Corrected p-values; a study (the first axis) is one family."""
    flat = p_values.reshape(len(p_values), -1)
    return np.array([correct(row) for row in flat]).reshape(p_values.shape)


def _any_claim(p_values: Array, correct: Any) -> Array:
    return (_corrected(p_values, correct) < ALPHA).reshape(len(p_values), -1).any(axis=1)


def mixed_family(noise: str, studies: int) -> Record:
    """Two tasks lose 8 points at every share, three lose nothing: false claims among 15 true nulls, and those found."""
    tasks = [step(-0.08, **_noise(noise))] * 2 + [step(0.0, **_noise(noise))] * 3
    p_values = differences(tasks, studies)[STUDY].p_value()
    null = np.isclose(truth(tasks, "difference"), 0)
    record = {}
    for name, correct in (("bonferroni", bonferroni), ("holm", holm), ("benjamini-hochberg", benjamini_hochberg)):
        claimed = _corrected(p_values, correct) < ALPHA
        false, every = claimed[:, null].sum(axis=1), claimed.reshape(studies, -1).sum(axis=1)
        record[name] = {
            "any false claim": rate(false > 0).record(),
            "false share of claims": rate(false / np.maximum(every, 1)).record(),
            "found": rate(claimed[:, ~null]).record(),
        }
    return record


def equivalence(points: float, items: int, noise: str, studies: int) -> Record:
    """How often one comparison is called equivalent (3 points, no correction) at a true difference."""
    tasks = [step(points, control=level, items=items, **_noise(noise)) for level in (0.3, 0.45, 0.6, 0.75, 0.6)]
    found = differences(tasks, studies)
    return {way: rate(found[way].p_equivalence(MARGIN_POINTS) < ALPHA).record() for way in (OWN, STUDY, SEEDS)}


def verdicts(noise: str, items: int, studies: int) -> Record:
    """What a report says of true differences: :func:`synthmix.analysis.comparisons.judge_family`, 25 comparisons."""
    tasks = [step(points, items=items, **_noise(noise)) for points in LOSSES]
    said = np.array([_verdicts(draw(tasks, study)) for study in range(studies)])
    words = ("safe", "undecided", "degraded", "improved")
    return {f"{100 * p:g}": {word: rate(said[:, k] == word).record() for word in words} for k, p in enumerate(LOSSES)}


def _verdicts(scores: Sequence[Array]) -> Array:
    """``(tasks, shares)`` words."""
    pairs = [[Paired(list(table), list(task[0])) for table in task[1:]] for task in scores]
    noise = noises([[pair.crossed for pair in row if pair.crossed] for row in pairs], "difference")[STUDY]
    rows = []
    for own, row in zip(noise, pairs, strict=True):
        for pair in row:
            counts = {"n_paired_seeds": pair.seeds, "n_paired_items": pair.items}
            rows.append(compared(difference(pair, "proof", noise=own, resamples=2)) | counts)
    return judge_family(pd.DataFrame(rows)).verdict.to_numpy().reshape(len(scores), -1)


def power(noise: str, items: int, studies: int, points: float = -0.05) -> Record:
    """How often a loss is shown: each comparison at 5 %, and after Bonferroni's correction for 25."""
    tasks = [step(points, control=level, items=items, **_noise(noise)) for level in (0.3, 0.45, 0.6, 0.75, 0.6)]
    record = {}
    for way, found in differences(tasks, studies).items():
        lost, p_value = found.value < 0, found.p_value()
        record[way] = {
            "at 5 %": rate((p_value < ALPHA) & lost).record(),
            "corrected": rate((p_value < ALPHA / p_value[0].size) & lost).record(),
        }
    return record


def planned(points: float, corrected: bool, more: str, noise: str, studies: int) -> Record:
    """Power of a study as large as the formula asks for (80 %), from its true variances.

    Args:
        points: true difference: 0 is to be shown equivalent, a loss to be shown.
        corrected: at Bonferroni's level for 25 comparisons.
        more: ``items``, with three seeds; or ``seeds``, with 300 items.
    """
    alpha = ALPHA / FAMILY if corrected else ALPHA
    task = step(points, **_noise(noise))
    needed = _needed(task.spread(0, 1), deciding_error(points, MARGIN_POINTS, alpha), task, more)
    if not np.isfinite(needed):
        return {"needed": None}
    tasks = [replace(task, **{more: int(np.ceil(needed))})] * 5  # type: ignore[arg-type]
    found = differences(tasks, studies)
    decided = {way: rate(_decided(found[way], points, alpha)).record() for way in (OWN, STUDY)}
    return {"needed": int(np.ceil(needed))} | decided


def _needed(spread: Spread, error: float, task: Simulation, more: str) -> float:
    return spread.items_for(error, task.seeds) if more == "items" else spread.seeds_for(error, task.items)


def _decided(found: Estimates, points: float, alpha: float) -> Array:
    """Rightly: equivalent where that is true, or different in the right direction."""
    equivalent = (found.p_equivalence(MARGIN_POINTS) < alpha) & (abs(points) < MARGIN_POINTS)
    return equivalent | ((found.p_value() < alpha) & (found.value * points > 0))


def asked(points: float, noise: str, studies: int) -> Record:
    """Seeds that a study of three seeds and 300 items asks for, from its own estimates, against the true number."""
    task = step(points, **_noise(noise))
    truly = _needed(task.spread(0, 1), deciding_error(points, MARGIN_POINTS), task, "seeds")
    numbers = []
    for study in range(studies):
        scores = draw([task] * 5, study)
        tables = [[crossed(table - one[0]) for table in one[1:]] for one in scores]
        for row, noise_of_row in zip(tables, noises(tables, "difference")[STUDY], strict=True):
            numbers += [
                _needed(c.spread(noise_of_row), deciding_error(c.mean, MARGIN_POINTS), task, "seeds") for c in row
            ]
    low, middle, high = (float(value) for value in np.quantile(numbers, (0.1, 0.5, 0.9), method="inverted_cdf"))
    return {"truly": math.ceil(truly), "10 %": _count(low), "median": _count(middle), "90 %": _count(high)}


def _count(number: float) -> int | None:
    return math.ceil(number) if math.isfinite(number) else None
