"""Is a known break found, and does the safe proportion's interval hold it?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from _intervals import NOISE, Record
from _studies import rate

from synthmix.statistics.curves import Curve, measured_curve
from synthmix.statistics.safe_proportion import safe_proportion
from synthmix.statistics.shapes import segmented
from synthmix.statistics.simulate import Loss, Simulation, simulate

#: True curves: the safe proportions (10 %) are 37, 27, 25 % and none.
CURVES = {
    "flat to 20 %, then mild": Loss(slope=0.6, start=0.2),
    "flat to 20 %, then steep": Loss(slope=1.5, start=0.2),
    "linear": Loss(slope=0.4),
    "none": Loss(),
}
FITS = ("isotonic", "segmented", "polynomial")


def curve(name: str, noise: str, items: int, studies: int) -> Record:
    """One task at 60 %, six shares, three seeds."""
    loss = CURVES[name]
    seed_sd, run_sd = NOISE[noise]
    task = Simulation(losses=(loss,), items=items, seed_sd=seed_sd, run_sd=run_sd)
    drawn = [_measured(task, study) for study in range(studies)]
    return _breaks(drawn, loss) | {fit: _safe(drawn, loss, fit) for fit in FITS}


def _measured(task: Simulation, *key: Any) -> Curve:
    scores = simulate(task, *key).scores[0]
    return measured_curve(task.shares, list(np.moveaxis(scores, 1, 0)), "proof", *key, resamples=500)


def _breaks(drawn: list[Curve], loss: Loss) -> Record:
    """How often each shape is preferred; how far off a break is, and how often its interval holds it."""
    found = [segmented(one) for one in drawn]
    shapes = Counter(str(one.shape) for one in found)
    record: Record = {"shapes": {name: round(count / len(found), 4) for name, count in shapes.most_common()}}
    breaks = [one.break_at for one in found if one.break_at is not None]
    if loss.start > 0 and len(breaks) > 1:
        held = np.array([at.low <= loss.start <= at.high for at in breaks])
        off = np.array([at.estimate - loss.start for at in breaks])
        record["break"] = rate(held).record() | {
            "median error": round(float(np.median(off)), 4),
            "median absolute error": round(float(np.median(np.abs(off))), 4),
        }
    return record


def _safe(drawn: list[Curve], loss: Loss, fit: Any) -> Record:
    """How often the interval holds the safe proportion; a truth beyond the range is held by an end beyond it."""
    wanted, last = loss.safe_proportion(), float(drawn[0].x[-1])
    intervals = [safe_proportion(one, fit=fit).interval for one in drawn]
    held = [at.high == math.inf if wanted > last else at.low <= wanted <= at.high for at in intervals]
    estimates = np.array([min(at.estimate, last) for at in intervals])
    return rate(np.array(held)).record() | {
        "truth": None if math.isinf(wanted) else round(wanted, 4),
        "median estimate": round(float(np.median(estimates)), 4),
        "open above": round(float(np.mean([at.high == math.inf for at in intervals])), 4),
        "open below": round(float(np.mean([at.low == 0 for at in intervals])), 4),
        "too high": round(float(np.mean([at.low > wanted for at in intervals])), 4),
    }
