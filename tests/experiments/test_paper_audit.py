"""The audit of the paper: each contradiction recomputed apart, and the recorded page against the command."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from synthmix.analysis.paper.published import Published, load_published

FOLDER = Path(__file__).parents[2] / "experiments" / "paper"


@pytest.fixture(scope="module")
def audit() -> Iterator[ModuleType]:
    """The command as a module; its neighbours are found as they are from the command line."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("audit")
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and FOLDER in Path(str(sys.modules[name].__file__)).parents:
                del sys.modules[name]


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(FOLDER / "published.yaml")


@pytest.fixture(scope="module")
def numbers(audit: ModuleType, published: Published) -> dict[str, Any]:
    found: dict[str, Any] = audit.numbers(audit.findings(published))
    return found


# -- the nine -------------------------------------------------------------------------------------------------------


def test_1_equation_3(numbers: dict[str, Any]) -> None:
    x, y = np.log10([0.41, 1.4, 6.9, 12]), np.array([15.0, 18, 23, 27])
    printed = 12 + 3.5 * x
    total = ((y - y.mean()) ** 2).sum()
    found = numbers["equation3"]
    assert list(found["eq3"].values()) == pytest.approx(printed)
    assert (
        found["eq3_r_squared"]
        == pytest.approx(1 - ((y - printed) ** 2).sum() / total)
        == pytest.approx(-1.83, abs=0.005)
    )
    line = stats.linregress(x, y)
    half = stats.t.ppf(0.975, 2) * line.stderr
    assert found["slope"] == pytest.approx([line.slope, line.slope - half, line.slope + half])
    assert (line.intercept, line.slope, found["refit_r_squared"]) == pytest.approx((17.5, 7.8, 0.965), abs=0.05)
    assert all(share < 25 for share in (v["eq3"] for v in found["outlook"].values())), "section 5.2 says 25 to 35 %"


def test_2_one_cell_two_values(numbers: dict[str, Any]) -> None:
    found = numbers["table1_table4"]
    error = math.sqrt(0.193 * 0.807 / 1319 + 0.238 * 0.762 / 1319)
    assert (found["table1"], found["table4"]) == (0.193, 0.238)
    assert found["z"] == pytest.approx(0.045 / error) and found["p"] == pytest.approx(2 * stats.norm.sf(0.045 / error))


def test_3_relative_losses(numbers: dict[str, Any]) -> None:
    relative, points = numbers["losses"]["relative"], numbers["losses"]["points"]
    assert relative["Math"]["20"] == pytest.approx(0.0539, abs=5e-5)
    assert relative["Code"]["20"] == pytest.approx(0.0688, abs=5e-5)
    assert max(loss["20"] for loss in points.values()) == pytest.approx(0.013)


def test_4_ranks(numbers: dict[str, Any]) -> None:
    found = numbers["ranks"]
    assert found["order"][:2] == ["Code", "Math"] and found["printed"][:2] == ["Math", "Code"]
    assert abs(found["z_code_math"]) < 1, "and the data could not order them anyway"


def test_5_humaneval(numbers: dict[str, Any]) -> None:
    found = numbers["humaneval"]
    assert found["standard_error"] == pytest.approx(0.0306, abs=5e-5)
    assert found["z"] == pytest.approx(0.042 / math.sqrt(0.189 * 0.811 / 164 + 0.147 * 0.853 / 164))
    best = mcnemar([[24, 7], [0, 133]], exact=True).pvalue
    assert found["mcnemar_best_p"] == pytest.approx(best) and best > found["alpha"] == 0.05 / 20
    assert found["seed_sd_needed"] == pytest.approx(0.042 * math.sqrt(3) / stats.t.isf(0.05 / 40, 2))
    assert found["impossible_means"] == [17.6, 14.7]
    needed = list(found["paired_problems_needed"].values())
    assert needed == sorted(needed) and found["unpaired_problems_needed"] > needed[-1] > 164


def test_6_not_significant_is_not_safe(numbers: dict[str, Any]) -> None:
    tasks = numbers["not_significant"]["tasks"]
    error = math.sqrt((0.583 * 0.417 + 0.571 * 0.429) / 1221)
    lower = stats.norm.sf((0.03 - 0.012) / error)
    assert tasks["Commonsense"]["p_unpaired"] == pytest.approx(lower)
    assert [task for task, found in tasks.items() if found["p_unpaired"] < 0.05] == ["Reading"]
    assert tasks["Code"]["p_paired"] > 0.05, "HumanEval shows nothing in any way"


def test_7_what_is_missing(numbers: dict[str, Any]) -> None:
    assert numbers["missing"] == {"without_training_set": ["Code"], "run_and_not_printed": [40.0]}


def test_8_slopes(numbers: dict[str, Any]) -> None:
    found = numbers["slopes"]
    assert found["slopes"]["Math"] == pytest.approx([0.04, 0.09, 0.35, 0.255])
    assert found["below"] == pytest.approx([0.04, 0.09]) and found["above"] == pytest.approx([0.215, 0.35])
    for task, bends in found["bends"].items():
        cubic = np.polyfit([0, 10, 20, 30, 50], load_published(FOLDER / "published.yaml").table1.scores[task], 3)
        assert bends["cubic"] == pytest.approx(-cubic[1] / (3 * cubic[0]), rel=1e-6)
        assert not 20 <= bends["cubic"] <= 25


def test_9_directions(numbers: dict[str, Any]) -> None:
    assert numbers["directions"] == {"self_bleu": [0.28, 0.31, 0.37, 0.42], "alert_at": 1, "loss_at": 2, "lead": 1}


def test_further_findings(numbers: dict[str, Any]) -> None:
    assert [20, 2, 3] in numbers["base_rate"]["tables"]
    for hits, false, missed in numbers["base_rate"]["tables"]:
        # a tie may have been rounded either way
        assert abs(100 * hits / (hits + false) - 91) <= 0.5 and abs(100 * hits / (hits + missed) - 87) <= 0.5
        assert hits + false + missed <= 60
    assert numbers["decay"]["relative"][2] < numbers["decay"]["relative"][1] < 0, (
        "relatively the last step is the larger"
    )
    assert numbers["runs"] == {"described": 90, "stated": 180, "iteration_conditions": 12}


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_record_is_what_the_command_writes(audit: ModuleType, published: Published, tmp_path: Path) -> None:
    """The page and the numbers in the repository are those of today's code; figures depend on matplotlib's version."""
    page = audit.write_audit(tmp_path / "audit", published)
    recorded = FOLDER / "audit"
    assert page.read_text(encoding="utf-8") == (recorded / "README.md").read_text(encoding="utf-8")
    assert (page.parent / "audit.json").read_bytes() == (recorded / "audit.json").read_bytes()
    assert {path.name for path in page.parent.iterdir()} == {path.name for path in recorded.iterdir()}


def test_two_runs_write_the_same_bytes(audit: ModuleType, published: Published, tmp_path: Path) -> None:
    folders = [audit.write_audit(tmp_path / name, published).parent for name in ("a", "b")]
    first, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == again


def test_the_page_follows_the_numbers(audit: ModuleType, tmp_path: Path) -> None:
    """Nothing is written down: another table 1 gives another page."""
    changed = (FOLDER / "published.yaml").read_text(encoding="utf-8")
    changed = changed.replace("Code: [18.9, 18.3, 17.6, 14.7, 10.4]", "Code: [18.9, 18.3, 17.7, 17.7, 17.7]")
    (tmp_path / "published.yaml").write_text(changed, encoding="utf-8")
    other = audit.numbers(audit.findings(load_published(tmp_path / "published.yaml")))
    assert other["humaneval"]["drop"] == pytest.approx(0.012) and other["humaneval"]["impossible_means"] == []
    assert other["slopes"]["slopes"]["Code"][-1] == 0


def test_every_quotation_is_in_the_page_with_its_section(audit: ModuleType, published: Published) -> None:
    page = audit.page(published, audit.findings(published))
    unused = [name for name in published.quotes if published.quote(name) not in page]
    assert not unused
    assert page.count("**Result.**") == 14 and "nan" not in page.split()


def test_figures_show_the_numbers(audit: ModuleType, published: Published) -> None:
    drawn = audit.figures(published)
    assert set(drawn) == set(audit.drawings.CAPTIONS) == set(audit.drawings.ALT)
    assert "17.5 % + 7.8 %" in drawn["equation3"] and "−1.83" in drawn["equation3"]
    for name, svg in drawn.items():
        assert svg.startswith("<svg") and "prefers-color-scheme" in svg, name
        assert not [word for word in ("http://", "https://", "nan") if word in svg.replace("http://www.w3.org", "")]


# -- what a test set can tell ---------------------------------------------------------------------------------------


def test_errors_against_simulated_pairs(audit: ModuleType) -> None:
    resolution = importlib.import_module("resolution")
    rng, n, drop, discordance = np.random.default_rng(5), 400, 0.04, 0.10
    lost, gained = (discordance + drop) / 2, (discordance - drop) / 2
    changes = rng.choice([-1, 1, 0], p=[lost, gained, 1 - discordance], size=(20_000, n)).mean(axis=1)
    assert changes.std() == pytest.approx(resolution.paired_error(-drop, n, discordance), rel=0.02)
    assert resolution.paired_error(0.3, n, 0.1) == pytest.approx(math.sqrt((0.3 - 0.09) / n)), (
        "so many items must change"
    )


def test_sample_sizes_have_the_power_that_they_are_for(audit: ModuleType) -> None:
    resolution = importlib.import_module("resolution")
    n = resolution.items_for_difference(0.04, 0.05, 0.10)
    rng = np.random.default_rng(6)
    counts = rng.multinomial(n, [0.07, 0.03, 0.90], size=4000)
    lost, gained = counts[:, 0], counts[:, 1]
    found = (lost - gained) ** 2 / (lost + gained) > stats.chi2.isf(0.05, 1)
    assert found.mean() == pytest.approx(0.80, abs=0.02)
    n = resolution.items_for_equivalence(0.10, 0.03)
    means = rng.multinomial(n, [0.05, 0.05, 0.90], size=4000)
    error = resolution.paired_error(0.0, n, 0.10)
    passed = abs(means[:, 0] - means[:, 1]) / n + stats.norm.isf(0.05) * error < 0.03
    assert passed.mean() == pytest.approx(0.80, abs=0.02)


@settings(deadline=None)
@given(st.integers(20, 600), st.integers(0, 600))
def test_every_mean_that_exists_is_possible(n: int, right: int) -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        granularity = importlib.import_module("resolution").granularity
    finally:
        sys.path.remove(str(FOLDER))
    right = min(right, n)
    assert granularity(round(100 * right / n, 1), n).possible


def test_impossible_means_are_those_that_no_count_rounds_to(audit: ModuleType) -> None:
    granularity = importlib.import_module("resolution").granularity
    possible = {f"{100 * k / 164:.1f}" for k in range(165)}
    for tenth in range(1001):
        text = f"{tenth / 10:.1f}"
        assert granularity(tenth / 10, 164).possible == (text in possible), text


def test_wilson_intervals_of_the_forecast_tables(audit: ModuleType, published: Published) -> None:
    low, high = proportion_confint(20, 22, method="wilson")
    assert f"| 20 | 2 | 3 | 23 of at most 60 | {100 * low:.0f} to {100 * high:.0f} |" in audit.page(
        published, audit.findings(published)
    )


def test_the_command_line(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit.py", str(tmp_path / "out")])
    audit.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "README.md")
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["equation3"]["freedom"] == 2
