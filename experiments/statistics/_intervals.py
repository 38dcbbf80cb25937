"""Do intervals hold the truth?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _studies import QUANTITIES, STUDY, WAYS, bootstrap, draw, judged, like, rate, truth

from synthmix.statistics import ece_interval, mean_interval
from synthmix.statistics.simulate import Loss, Simulation, simulate

Record = dict[str, Any]
#: Standard deviations (logits) of seeds' levels and runs' deviations; a run then differs by 0, 3 and 7 points.
NOISE = {"none": (0.0, 0.0), "small": (0.1, 0.15), "large": (0.3, 0.3)}
#: Flat up to 20 %, then falling: 18 % of the control's score are lost at a half.
CURVE = (Loss(slope=0.6, start=0.2),)


def coverage(tasks: Sequence[Simulation], studies: int, *key: Any, resampled: bool = True) -> Record:
    """Share of 95 % intervals that hold the truth, by quantity and way; ``by task`` for the way of the report."""
    found = judged(tasks, studies, *key)
    held = {name: estimates.holds(truth(tasks, name[0])) for name, estimates in found.items()}
    record: Record = {q: {way: rate(held[q, way]).record() for way in WAYS} for q in QUANTITIES}
    for quantity in QUANTITIES:
        by_task = np.nanmean(held[quantity, STUDY], axis=(0, 2))
        record[quantity]["by task"] = [round(float(value), 4) for value in by_task]
        by_share = np.nanmean(held[quantity, STUDY], axis=(0, 1))
        record[quantity]["by share"] = [round(float(value), 4) for value in by_share]
    if resampled:
        for quantity, value in _by_bootstrap(tasks, studies, *key).items():
            record[quantity]["bootstrap"] = value
    return record


def _by_bootstrap(tasks: Sequence[Simulation], studies: int, *key: Any) -> Record:
    """Of one comparison in each study, another one in the next."""
    held: dict[str, list[bool]] = {name: [] for name in QUANTITIES}
    for study in range(studies):
        task, share = study % len(tasks), 1 + study % (len(tasks[0].shares) - 1)
        ends = bootstrap(draw(tasks, study, *key), task, share, study, *key)
        for name, (low, high) in ends.items():
            wanted = truth(tasks, name)[task, share if name == "level" else share - 1]
            held[name].append(bool(low <= wanted <= high))
    return {name: rate(np.array(values)).record() for name, values in held.items()}


def grid(seeds: int, noise: str, studies: int) -> Record:
    """Five tasks, five shares and a control, 300 items."""
    seed_sd, run_sd = NOISE[noise]
    return coverage(like(seeds=seeds, seed_sd=seed_sd, run_sd=run_sd, losses=CURVE), studies)


def stress(name: str, studies: int) -> Record:
    """Three seeds where an assumption fails, or where the data are of another kind."""
    return coverage(STRESSES[name], studies, resampled=False)


def _noisy(seed_sd: float, run_sd: Any, **settings: Any) -> list[Simulation]:
    return like(seed_sd=seed_sd, run_sd=run_sd, losses=CURVE, **settings)


def _levels(*levels: float, **settings: Any) -> list[Simulation]:
    return [Simulation(control=(level,), losses=CURVE, seed_sd=0.2, run_sd=0.2, **settings) for level in levels]


STRESSES: dict[str, list[Simulation]] = {
    "two tasks of five with noisy runs, three with none": _noisy(0, 0)[:3] + _noisy(0.4, 0.4)[3:],
    "two tasks with twice the others' run noise": _noisy(0.15, 0.15)[:3] + _noisy(0.3, 0.3)[3:],
    "run noise grows fourfold from 0 % to 50 %": _noisy(0.1, (0.1, 0.16, 0.22, 0.28, 0.34, 0.4)),
    "seeds differ, runs of a seed do not": _noisy(0.4, 0.0),
    "runs differ, seeds do not": _noisy(0.0, 0.4),
    "one share a task": _noisy(0.3, 0.3, shares=(0.0, 0.3)),
    "two tasks": _noisy(0.3, 0.3)[:2],
    "half of the scores are partial credit": _noisy(0.2, 0.2, partial=0.5),
    "items react alike to a share": _noisy(0.2, 0.2, response_sd=0.0),
    "100 items": _noisy(0.2, 0.2, items=100),
    "1,000 items": _noisy(0.2, 0.2, items=1000),
    "164 items, levels 3, 10, 20, 90, 97 %": _levels(0.03, 0.1, 0.2, 0.9, 0.97, items=164),
}


def edges(level: float, items: int, studies: int) -> Record:
    """Levels close to 0, as :func:`synthmix.statistics.mean_interval` gives them: three seeds alone, cut at 0."""
    task = Simulation(control=(level,), shares=(0.0, 0.1), items=items)
    held, zero = [], 0
    for study in range(studies):
        scores = list(simulate(task, study).scores[0, 0])
        interval = mean_interval(scores, study, resamples=200)
        held.append(interval.low <= level <= interval.high)
        zero += interval.estimate == 0
    return rate(np.array(held)).record() | {"all wrong": round(zero / studies, 4)}


def calibration(seeds: int, items: int, sharpness: float, studies: int) -> Record:
    """The calibration error's interval; sharpness 1 is a calibrated model, more an overconfident one."""
    task = Simulation(seeds=seeds, items=items, sharpness=sharpness, shares=(0.0,))
    wanted = task.ece(0, 0)
    held = []
    for study in range(studies):
        drawn = simulate(task, study)
        interval = ece_interval(list(drawn.confidence[0, 0]), list(drawn.scores[0, 0]), study, resamples=300)
        held.append(interval.low - 1e-9 <= wanted <= interval.high)
    return rate(np.array(held)).record() | {"truth": round(wanted, 4)}
