"""Simulated studies with known truth: intervals hold it, decisions err as rarely as they say. The quick version.

The simulations are those of experiments/statistics, which has the full figures; here with fewer studies, so that bounds
leave room for chance: three standard errors, or more.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from synthmix.statistics import Paired, difference, mean_interval

FOLDER = Path(__file__).parents[2] / "experiments" / "statistics"
NAMES = ("_studies", "_intervals", "_decisions", "_curves", "_tables")


@pytest.fixture(scope="module")
def proof() -> Iterator[dict[str, ModuleType]]:
    """The modules of the experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in NAMES}


def most(rate: float, studies: int) -> float:
    """What a rate is not seen to exceed in so many independent studies, but for one time in a thousand."""
    return rate + 3.1 * math.sqrt(rate * (1 - rate) / studies)


def test_a_study_is_judged_as_the_package_judges_it(proof: dict[str, ModuleType]) -> None:
    studies = proof["_studies"]
    tasks = studies.like(partial=0.3, losses=proof["_intervals"].CURVE)
    scores = studies.draw(tasks, "same")
    judged = studies.judge(scores)
    gaps = [[studies.crossed(table - task[0]) for table in task[1:]] for task in scores]
    levels = [[studies.crossed(table) for table in task] for task in scores]
    for way in (studies.OWN, studies.TASK, studies.STUDY):
        noise, of_levels = studies.noises(gaps, "difference")[way][2], studies.noises(levels, "level")[way][2]
        found = difference(Paired(list(scores[2][4]), list(scores[2][0])), "k", noise=noise, resamples=2)
        assert found.relative is not None
        points = (found.points.estimate, found.points.error, found.freedom)
        assert judged["difference", way][:, 2, 3] == pytest.approx(points)
        assert judged["relative", way][:2, 2, 3] == pytest.approx((found.relative.estimate, found.relative.error))
        level = mean_interval(list(scores[2][4]), "k", noise=of_levels)
        assert judged["level", way][:2, 2, 4] == pytest.approx((level.estimate, level.error))
        one = studies.Estimates(*(judged["difference", way][:, None]))
        assert one.p_value()[0, 2, 3] == pytest.approx(found.p_value)
        assert one.p_equivalence(0.03)[0, 2, 3] == pytest.approx(found.equivalence(0.03))
    seeds = studies.Estimates(*(judged["difference", studies.SEEDS][:, None]))
    assert seeds.p_value()[0, 2, 3] == pytest.approx(found.p_seeds)


def test_rates_count_a_study_once(proof: dict[str, ModuleType]) -> None:
    """Ten equal answers in each of four studies are four answers."""
    rate = proof["_studies"].rate(np.repeat([[1.0], [0.0], [1.0], [1.0]], 10, axis=1))
    assert (rate.rate, rate.studies) == (0.75, 4) and rate.error == pytest.approx(0.25)
    assert proof["_studies"].rate(np.array([[1.0, np.nan], [0.0, 0.0]])).rate == 0.5


@pytest.mark.parametrize("noise", ["small", "large"])
def test_intervals_hold_the_truth_where_a_bootstrap_over_three_seeds_does_not(
    proof: dict[str, ModuleType], noise: str
) -> None:
    found = proof["_intervals"].grid(3, noise, 60)
    for quantity in ("level", "difference", "relative"):
        assert 0.91 <= found[quantity]["whole study"]["rate"] <= 0.98, quantity
    if noise == "large":
        assert found["difference"]["bootstrap"]["rate"] < 0.93


def test_calibration_error_is_held(proof: dict[str, ModuleType]) -> None:
    for sharpness in (1.0, 1.7):
        assert proof["_intervals"].calibration(3, 300, sharpness, 60)["rate"] >= 0.87


def test_families_without_an_effect_seldom_hold_a_claim(proof: dict[str, ModuleType]) -> None:
    for noise in ("none", "small"):
        found = proof["_decisions"].family_error(3, noise, 120)
        assert found["whole study"]["rate"] <= most(0.05, 120), noise
    assert found["own seeds"]["rate"] > 2 * found["whole study"]["rate"]


def test_equivalence_is_seldom_shown_at_the_margin_and_mostly_where_it_is_true(proof: dict[str, ModuleType]) -> None:
    decisions = proof["_decisions"]
    assert decisions.equivalence(-0.03, 1000, "none", 60)["whole study"]["rate"] <= most(0.05, 120)
    assert decisions.equivalence(0.0, 3000, "none", 10)["whole study"]["rate"] > 0.9


@pytest.mark.slow
def test_safe_is_not_said_of_losses_beyond_the_margin(proof: dict[str, ModuleType]) -> None:
    found = proof["_decisions"].verdicts("none", 2000, 6)
    assert found["-5"]["safe"]["rate"] == found["-10"]["safe"]["rate"] == found["0"]["degraded"]["rate"] == 0
    assert found["-10"]["degraded"]["rate"] == 1 and found["0"]["safe"]["rate"] > 0.2
    assert found["-3"]["safe"]["rate"] <= most(0.01, 30)


def test_items_find_a_loss_that_a_t_test_over_three_seeds_misses(proof: dict[str, ModuleType]) -> None:
    found = proof["_decisions"].power("none", 500, 40)
    ours, seeds = found["whole study"], found["t over seeds"]
    assert ours["at 5 %"]["rate"] > 0.7 and seeds["at 5 %"]["rate"] < 0.6
    assert ours["corrected"]["rate"] > 0.2 and seeds["corrected"]["rate"] < 0.05


def test_the_number_that_is_asked_for_has_about_the_power_that_was_wanted(proof: dict[str, ModuleType]) -> None:
    decisions = proof["_decisions"]
    for points, more, noise in ((-0.05, "items", "none"), (-0.05, "seeds", "small"), (0.0, "items", "none")):
        assert 0.65 <= decisions.planned(points, False, more, noise, 40)["whole study"]["rate"] <= 0.9
    assert decisions.planned(-0.05, False, "items", "large", 2) == {"needed": None}  # no number of items decides


def test_a_known_break_and_safe_proportion_are_recovered(proof: dict[str, ModuleType]) -> None:
    found = proof["_curves"].curve("flat to 20 %, then steep", "small", 1000, 30)
    assert found["shapes"]["flat then line"] > 0.8 and found["break"]["median absolute error"] < 0.04
    assert found["break"]["rate"] > 0.8
    assert found["isotonic"]["rate"] > 0.8 and found["isotonic"]["median estimate"] == pytest.approx(0.267, abs=0.03)
    flat = proof["_curves"].curve("none", "small", 1000, 30)
    assert flat["shapes"]["constant"] > 0.7 and flat["isotonic"]["rate"] > 0.8


def test_tables_are_written_between_their_markers(proof: dict[str, ModuleType], tmp_path: Path) -> None:
    tables, page = proof["_tables"], tmp_path / "README.md"
    page.write_text(f"before\n\n{tables.BEGIN}\nstale\n{tables.END}\n\nafter\n")
    record = {"edges": {"3%": {"rate": 0.941, "error": 0.01, "studies": 100, "all wrong": 0.25}}}
    for _ in range(2):
        tables.into(page, tables.markdown(record))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert text.count("| 3% | 94.1 | 0.25 |") == 1


# -- slow: as many studies as the claim names -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("noise", ["none", "small", "large"])
def test_intervals_cover_93_to_97_percent_in_1000_studies(proof: dict[str, ModuleType], seeds: int, noise: str) -> None:
    intervals, studies = proof["_intervals"], proof["_studies"]
    seed_sd, run_sd = intervals.NOISE[noise]
    tasks = studies.like(seeds=seeds, seed_sd=seed_sd, run_sd=run_sd, losses=intervals.CURVE)
    found = intervals.coverage(tasks, 1000, resampled=False)
    for quantity in ("level", "difference", "relative"):
        assert 0.93 <= found[quantity]["whole study"]["rate"] <= 0.97, quantity


@pytest.mark.slow
def test_family_wise_error_stays_at_5_percent_in_1000_studies(proof: dict[str, ModuleType]) -> None:
    uneven = "two tasks of five with noisy runs, three with none"
    for seeds, noise in ((2, "small"), (3, "small"), (3, uneven), (5, "large")):
        found = proof["_decisions"].family_error(seeds, noise, 1000)
        assert found["whole study"]["rate"] <= most(0.05, 1000), (seeds, noise)


@pytest.mark.slow
def test_benjamini_hochberg_bounds_the_false_share_of_claims(proof: dict[str, ModuleType]) -> None:
    found = proof["_decisions"].mixed_family("small", 500)
    assert found["benjamini-hochberg"]["false share of claims"]["rate"] <= most(0.05, 500)
    assert found["holm"]["any false claim"]["rate"] <= most(0.05, 500)
    assert found["bonferroni"]["found"]["rate"] <= found["holm"]["found"]["rate"]
    assert found["holm"]["found"]["rate"] < found["benjamini-hochberg"]["found"]["rate"]
