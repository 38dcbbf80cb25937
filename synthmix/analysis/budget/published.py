"""A budget from the published points: the refit of equation 3's form, moved to a task by table 1.

Equation 3 of arXiv 2510.05133 as printed is not evidence: it misses the points that it is said to fit
(``experiments/paper``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from synthmix import keys
from synthmix.analysis.budget.evidence import SAME_SIZE, Evidence, count, ends, told, whole, within
from synthmix.analysis.conditions import percent
from synthmix.analysis.paper.published import Published, refit
from synthmix.statistics import LEVEL, Array
from synthmix.statistics.scaling import Prediction, ScalingLaw
from synthmix.statistics.shapes import isotonic

#: Items that two runs answer differently, as a share: assumed where nothing about the pairing is published.
DISCORDANCE = 0.10
#: Draws of the published table.
DRAWS = 2000
#: The loss and the task that the published size law is about.
_LAW_MARGIN, _LAW_FAMILY = 0.10, "Math"
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_PUBLISHED_LIMITS = (
    "English; Pythia models fine-tuned on one task; unfiltered synthetic text of the model itself (T = 0.8, nucleus 0.9)"
    " in place of real examples; one iteration; shares up to 50 %. A filter, another language, another mixing mode,"
    " further iterations or pretraining may move it either way.",
    "The published values have no intervals, how many seeds stand behind the safe shares is not said, and table 1, on"
    " which the tasks rest, contradicts table 4 in the one cell that both have (experiments/paper/audit).",
)


@dataclass(frozen=True)
class _Crossings:
    """Where table 1 reaches a loss: first as printed, then in draws of its items' noise; shares, ``(1 + DRAWS,)``.

    Attributes:
        task: of the task, the margin; the largest share where it is not reached.
        reference: of math, 10 %: what the size law is about.
        never: the task as printed does not reach the margin.
    """

    task: Array
    reference: Array
    never: bool


def published_evidence(published: Published, parameters: float, family: str, margin: float) -> Evidence:
    """The refit of the published safe shares at a model size, moved by what table 1 says of a task and a margin.

    The size law is about math and a loss of 10 %. For another task or margin, the share at which table 1 (6.9B) reaches
    the loss, linear between its shares, is set against that of math at 10 %: as a ratio and as a distance, since no
    other size was published for any other task. The smaller of the two is the estimate; the interval covers both, with
    the law's prediction error (Student's t) and the noise of the test items, at an assumed discordance of 10 %.
    """
    law, last = refit(published), published.table1.proportions[-1] / 100
    at, crossings = law.predict(parameters), None
    facts = [_law_words(published, law, at)]
    if (family, margin) != (_LAW_FAMILY, _LAW_MARGIN):
        crossings = _crossings(published, family, margin)
        facts.append(_task_words(published, family, margin, crossings, _carried(at, law.freedom, crossings)))
    least, most = published.budgets.proportions[family]
    facts.append(f"The paper itself recommends {least:g} to {most:g} % for {family} ({published.budgets.source}).")
    share, low, high = (within(end, last) for end in _ends(at, law.freedom, crossings))
    # a law is no evidence that still larger models bear more
    largest = law.predict(min(parameters, max(law.sizes)))
    plan = min(low, within(_ends(largest, law.freedom, crossings)[1], last))
    above = share >= last or (crossings is not None and crossings.never)
    return Evidence(
        share, low, told(high, last), plan, above, False, at.estimate > 0, "published", facts,
        _published_warnings(published, parameters, at), _PUBLISHED_LIMITS,
    )  # fmt: skip


def _ends(at: Prediction, freedom: int, crossings: _Crossings | None) -> tuple[float, float, float]:
    """Estimate and 95 % interval, shares."""
    if crossings is None:
        return at.estimate / 100, at.low / 100, at.high / 100
    carried = _carried(at, freedom, crossings)
    lows, highs = zip(*(np.quantile(draws[1:], _TAILS) for draws in carried), strict=True)
    return min(float(draws[0]) for draws in carried), float(min(lows)), float(max(highs))


def _carried(at: Prediction, freedom: int, crossings: _Crossings) -> tuple[Array, Array]:
    """The size law's share, moved by the ratio and by the distance of two crossings; the estimate, then draws."""
    scale = (at.high - at.estimate) / float(stats.t.ppf(_TAILS[1], freedom)) / 100
    drawn = keys.generator("budget", "law").standard_t(freedom, size=DRAWS)
    law = np.maximum(0, at.estimate / 100 + scale * np.append(0, drawn))
    return law * crossings.task / crossings.reference, np.maximum(0, law + crossings.task - crossings.reference)


def _crossings(p: Published, family: str, margin: float) -> _Crossings:
    scores = p.table1.scores[family]
    task, reference = (_crossing(p, *pair) for pair in ((family, margin), (_LAW_FAMILY, _LAW_MARGIN)))
    return _Crossings(task, reference, 1 - scores[-1] / scores[0] < margin)


def _crossing(p: Published, family: str, margin: float) -> Array:
    x, scores = (np.asarray(v) / 100 for v in (p.table1.proportions, p.table1.scores[family]))
    # half of a pair's variance each, so that a difference has that of the discordance
    error = math.sqrt(DISCORDANCE / (2 * p.tasks[family].test_items))
    noise = error * keys.generator("budget", family).normal(size=(DRAWS, len(x)))
    rows = np.vstack([scores, scores + noise])
    losses = 1 - isotonic(rows) / np.maximum(rows[:, :1], 1e-9)
    return np.array([np.interp(margin, loss, x) for loss in losses])


def _law_words(p: Published, law: ScalingLaw, at: Prediction) -> str:
    a, b = law.intercept.estimate, law.slope.estimate
    return (
        f"Size: least squares on the four safe shares of arXiv {p.paper.arxiv} ({p.safe.source}; {p.safe.task}, a loss of"
        f" {p.safe.margin:g} %) is {a:.1f} % + {b:.1f} % · log10(N / 1e9), R² {law.r_squared:.2f}, {law.freedom} degrees"
        f" of freedom: {whole(at.estimate / 100)} {ends(at.low / 100, at.high / 100)} at this size, a 95 % prediction"
        " interval. Equation 3 as printed misses the same points and is not used."
    )


def _task_words(p: Published, family: str, margin: float, crossings: _Crossings, carried: tuple[Array, Array]) -> str:
    reaches = f"does not reach {percent(margin)} % up to" if crossings.never else f"reaches {percent(margin)} % at"
    ratio, distance = (whole(float(draws[0])) for draws in carried)
    score = p.table1.scores[family][0]
    return (
        f"Task: in {p.table1.source} (6.9B) the loss of {family} {reaches} {whole(float(crossings.task[0]))}, that of"
        f" {_LAW_FAMILY} reaches {percent(_LAW_MARGIN)} % at {whole(float(crossings.reference[0]))}, linear between the"
        f" printed shares. Carried to this size that is {ratio} if their ratio holds at every size and {distance} if"
        " their distance does, neither of which was measured; the smaller is taken, and the interval covers both, with"
        f" the noise of the test items (if {percent(DISCORDANCE)} % of them are answered differently, an assumption)."
        f" A loss of {percent(margin)} % is {margin * score:.1f} points of {family}'s {score:g} there."
    )


def _published_warnings(p: Published, parameters: float, at: Prediction) -> list[str]:
    sizes = sorted(p.models.values())
    warnings = []
    if at.extrapolated and not any(abs(parameters / size - 1) < SAME_SIZE for size in sizes):
        side = sizes[0] / parameters if parameters < sizes[0] else parameters / sizes[-1]
        warnings.append(
            f"Extrapolation: {count(parameters)} parameters lie a factor {side:.3g} outside of the published sizes"
            f" ({count(sizes[0])} to {count(sizes[-1])}); the interval takes the law for true there."
        )
    if at.estimate <= 0:
        warnings.append("The law is at or below 0 % at this size, which says that it does not hold here.")
    return warnings
