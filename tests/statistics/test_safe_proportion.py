"""The safe proportion: exact on curves without noise, censored where it must be, and its coverage in simulated studies.

The table of coverages that the docstrings quote: ``pytest -m slow -s tests/statistics/test_safe_proportion.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from synthmix import keys
from synthmix.statistics import Array
from synthmix.statistics.curves import Curve, Method, measured_curve
from synthmix.statistics.safe_proportion import SafeProportion, safe_proportion
from synthmix.statistics.shapes import segmented
from synthmix.statistics.simulate import Loss, Simulation, simulate

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def exact(means: Sequence[float], x: Sequence[float] = SHARES, error: float = 1e-6, n: int = 200) -> Curve:
    """A curve whose draws hardly differ from its means."""
    draws = np.asarray(means) + keys.generator("exact").normal(0, error, (n, len(means)))
    return Curve(np.asarray(x), np.asarray(means), np.eye(len(means)) * error**2, draws, 300, 3, "test")


# -- on curves whose answer is known --------------------------------------------------------------------------------


def test_it_is_read_off_the_lines_between_points() -> None:
    safe = safe_proportion(exact([0.60, 0.60, 0.58, 0.50, 0.45, 0.40]))
    assert safe.interval.estimate == pytest.approx(0.2 + 0.1 * (0.58 - 0.54) / (0.58 - 0.50), abs=1e-6)
    assert safe.interval.low == pytest.approx(safe.interval.high, abs=1e-3) and not (safe.above or safe.below)
    assert (safe.first, safe.last, safe.margin) == (0.1, 0.5, 0.1)


def test_a_wider_margin_allows_more() -> None:
    curve = exact([0.6, 0.57, 0.54, 0.51, 0.48, 0.45])
    found = [safe_proportion(curve, margin).interval.estimate for margin in (0.06, 0.12, 0.2)]
    assert found == pytest.approx([0.12, 0.24, 0.4], abs=1e-6)


@pytest.mark.parametrize("fit", ["isotonic", "polynomial", "segmented"])
def test_every_fit_finds_the_same_on_a_line(fit: str) -> None:
    safe = safe_proportion(exact([0.6, 0.57, 0.54, 0.51, 0.48, 0.45]), fit=fit)  # type: ignore[arg-type]
    assert safe.interval.estimate == pytest.approx(0.2, abs=1e-4) and safe.fit == fit


def test_the_fits_find_a_break_and_a_parabola() -> None:
    broken = exact([0.6 - 0.5 * max(0.0, p - 0.23) for p in SHARES])
    assert safe_proportion(broken, fit="segmented").interval.estimate == pytest.approx(0.23 + 0.12, abs=2e-3)
    bent = exact([0.6 - 0.8 * p**2 for p in SHARES])
    assert safe_proportion(bent, fit="polynomial").interval.estimate == pytest.approx(math.sqrt(0.06 / 0.8), abs=1e-4)


def test_above_the_measured_shares_nothing_is_extrapolated() -> None:
    """Five points lost of 60 at 50 %: on its way to 10 %, which no measured share has."""
    safe = safe_proportion(exact([0.60, 0.59, 0.58, 0.57, 0.56, 0.55]))
    assert safe.above and not safe.below
    assert math.isinf(safe.interval.estimate) and math.isinf(safe.interval.high) and safe.interval.low == 0.5


def test_below_the_first_share_the_interval_begins_at_0() -> None:
    safe = safe_proportion(exact([0.6, 0.5, 0.5, 0.5, 0.5, 0.5]))
    assert safe.below and not safe.above
    assert safe.interval.low == 0 and safe.interval.high <= 0.1


def test_an_interval_may_reach_beyond_the_measured_shares_on_one_side() -> None:
    safe = safe_proportion(exact([0.60, 0.60, 0.59, 0.57, 0.55, 0.535], error=0.02))
    assert not safe.above and 0.1 < safe.interval.low < 0.5 and math.isinf(safe.interval.high)


def test_a_rise_after_the_crossing_does_not_make_a_larger_share_safe() -> None:
    safe = safe_proportion(exact([0.60, 0.58, 0.50, 0.59, 0.58, 0.40]))
    assert safe.interval.estimate < 0.45


def test_without_a_score_there_is_no_relative_loss() -> None:
    with pytest.raises(ValueError, match="control scores 0"):
        safe_proportion(exact([0.0, 0.0, 0.1, 0.0, 0.0, 0.0]))


def test_a_smooth_fit_takes_five_shares() -> None:
    curve = exact([0.6, 0.57, 0.5], x=(0.0, 0.2, 0.3))
    assert 0.2 < safe_proportion(curve).interval.estimate < 0.3
    for fit in ("polynomial", "segmented"):
        with pytest.raises(ValueError, match="five points"):
            safe_proportion(curve, fit=fit)  # type: ignore[arg-type]


# -- coverage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bend(Loss):
    """A smooth loss: ``slope * share²``."""

    def at(self, shares: Sequence[float] | Array) -> Array:
        return self.slope * np.asarray(shares) ** 2

    def safe_proportion(self, margin: float = 0.1) -> float:
        return math.sqrt(margin / self.slope)


BREAK, LINE, BEND, SLIGHT = Loss(0.9, 0.2), Loss(0.45), Bend(1.2), Loss(0.1)
#: Standard deviations, in logits, of seeds' levels and of runs' own deviations: none, as usual, large.
RUNS = {"none": (0.0, 0.0), "usual": (0.1, 0.15), "large": (0.3, 0.3)}


@dataclass(frozen=True)
class Coverage:
    """Of simulated studies: how many intervals of the safe proportion hold the truth, their median estimate and width;
    the share of studies in which a break is claimed, how many of its intervals hold the truth, and its median."""

    safe: float
    estimate: float
    width: float
    claimed: float
    held: float
    place: float


def coverage(
    loss: Loss, runs: str, seeds: int = 3, items: int = 300, method: Method = "random effects", studies: int = 300,
    fit: str = "isotonic", breaks: bool = True, resamples: int = 400,
) -> Coverage:  # fmt: skip
    seed_sd, run_sd = RUNS[runs]
    settings = Simulation((0.65,), (loss,), SHARES, items, seeds, seed_sd=seed_sd, run_sd=run_sd)
    truth, rows = loss.safe_proportion(), []
    truth = truth if truth <= SHARES[-1] else math.inf
    for trial in range(studies):
        scores = simulate(settings, "coverage", trial).scores[0]  # (shares, seeds, items)
        curve = measured_curve(SHARES, list(scores.swapaxes(0, 1)), trial, method=method, resamples=resamples)
        safe: SafeProportion = safe_proportion(curve, fit=fit)  # type: ignore[arg-type]
        at = segmented(curve).break_at if breaks else None
        ends = safe.interval.low, safe.interval.high
        rows.append([ends[0] <= truth <= ends[1], safe.interval.estimate, min(ends[1], 0.5) - ends[0]])
        rows[-1] += [at is not None] + (
            [math.nan] * 2 if at is None else [at.low <= loss.start <= at.high, at.estimate]
        )
    held, estimate, width, claimed, *_ = np.array(rows, dtype=float).T
    known = np.array(rows, dtype=float)[claimed > 0, 4:]
    of_break = (known[:, 0].mean(), float(np.median(known[:, 1]))) if len(known) else (math.nan, math.nan)
    return Coverage(held.mean(), float(np.median(estimate)), width.mean(), claimed.mean(), *of_break)


def test_intervals_hold_the_truth_and_the_break_is_recovered() -> None:
    found = coverage(Loss(1.4, 0.2), "usual", studies=60, resamples=200)
    assert found.safe >= 0.9 and found.estimate == pytest.approx(Loss(1.4, 0.2).safe_proportion(), abs=0.02)
    assert found.claimed > 0.8 and found.held >= 0.9 and found.place == pytest.approx(0.2, abs=0.02)


def test_a_line_is_rarely_taken_for_a_break() -> None:
    assert coverage(LINE, "usual", studies=60, resamples=50).claimed <= 0.05


def test_a_loss_that_never_reaches_the_margin_is_censored() -> None:
    found = coverage(SLIGHT, "usual", studies=60, breaks=False)
    assert found.safe >= 0.9 and math.isinf(found.estimate)


#: (loss, runs, seeds, items): the studies whose coverage the docstrings quote.
STUDIES = [
    (BREAK, "none", 3, 300), (BREAK, "usual", 3, 200), (BREAK, "usual", 3, 300), (BREAK, "usual", 3, 500),
    (BREAK, "large", 3, 300), (LINE, "none", 3, 300), (LINE, "usual", 3, 300), (LINE, "large", 3, 300),
    (BEND, "none", 3, 300), (BEND, "usual", 3, 300), (BEND, "large", 3, 300),
    (BREAK, "usual", 2, 300), (BREAK, "large", 2, 300), (BREAK, "large", 5, 300),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random effects", "bootstrap"])
@pytest.mark.parametrize(("loss", "runs", "seeds", "items"), STUDIES)
def test_coverage(loss: Loss, runs: str, seeds: int, items: int, method: Method) -> None:
    found = coverage(loss, runs, seeds, items, method)
    shape = "bend" if isinstance(loss, Bend) else f"start {loss.start}"
    print(
        f"\n{shape}, runs {runs}, {seeds} seeds, {items} items, {method}: safe {found.safe:.1%} (median"
        f" {found.estimate:.3f}, truth {loss.safe_proportion():.3f}, width {found.width:.3f}), break claimed"
        f" {found.claimed:.1%}, held {found.held:.1%}, median {found.place:.3f}"
    )
    assert found.safe >= (0.92 if method == "random effects" else 0.8)
    if method == "random effects" and loss is BREAK and found.claimed > 0.3:
        assert found.held >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["polynomial", "segmented"])
@pytest.mark.parametrize("loss", [BREAK, LINE, BEND], ids=["break", "line", "bend"])
def test_coverage_of_the_other_fits(loss: Loss, fit: str) -> None:
    for runs in ("usual", "large"):
        found = coverage(loss, runs, fit=fit, breaks=False, studies=200)
        print(f"\n{fit}, {loss}, runs {runs}: {found.safe:.1%}, median {found.estimate:.3f}, width {found.width:.3f}")
        assert found.safe >= 0.85
