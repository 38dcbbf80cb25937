"""The budget adviser: what it reads, what it says, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from synthmix.analysis.budget.advice import advise, parse_parameters, parse_task
from synthmix.analysis.budget.evidence import count, ends, told, whole
from synthmix.analysis.budget.published import published_evidence
from synthmix.analysis.budget.study import study_evidence
from synthmix.analysis.conditions import Analysis
from synthmix.analysis.load import load_study
from synthmix.analysis.paper.published import FAMILIES, Published, load_published
from synthmix.analysis.shapes.chains import share_chains
from synthmix.cli import main
from synthmix.errors import UserError
from synthmix.statistics.safe_proportion import safe_proportion

MakeStore = Callable[..., Path]
SIZES, SHARES = (4.1e8, 1.4e9, 6.9e9, 1.2e10), (15, 18, 23, 27)


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published()


# -- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("410M", 4.1e8), ("6.9B", 6.9e9), ("6.9b", 6.9e9), ("1.4e9", 1.4e9), ("900000", 9e5), ("900_000", 9e5),
        ("1,400,000,000", 1.4e9), ("70 B", 7e10), ("1T", 1e12), ("281k", 281e3), (".5B", 5e8),
        ("pythia-410m", 405_334_016), ("nano-0.9m", 943_440),
    ],
)  # fmt: skip
def test_sizes_and_names(text: str, parameters: float) -> None:
    assert parse_parameters(text) == pytest.approx(parameters)


@settings(deadline=None)
@given(st.floats(min_value=1e3, max_value=1e13))
def test_any_number_is_its_own_size(parameters: float) -> None:
    assert parse_parameters(repr(parameters)) == parameters
    assert parse_parameters(f"{parameters / 1e6!r}M") == pytest.approx(parameters)


@pytest.mark.parametrize("text", ["", "0", "-3", "nan", "inf", "1e999", "B", "410X", "4 1 0M", "six billion", "--"])
def test_no_size(text: str) -> None:
    with pytest.raises(UserError, match="expected a number of parameters above 0"):
        parse_parameters(text)


def test_a_name_that_is_nearly_one() -> None:
    with pytest.raises(UserError, match="Did you mean 'pythia-410m'"):
        parse_parameters("pythia-410")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("gsm8k", ("gsm8k", "Math")), ("math", (None, "Math")), ("Reading", (None, "Reading")), ("nli", ("nli", "NLI"))],
)
def test_tasks_and_families(text: str, expected: tuple[str | None, str]) -> None:
    assert parse_task(text) == expected


def test_a_task_that_is_nearly_one() -> None:
    with pytest.raises(UserError, match="unknown task 'gsm9k'. Did you mean 'gsm8k'"):
        parse_task("gsm9k")


# -- the published points -------------------------------------------------------------------------------------------


def test_math_is_the_refit_with_its_prediction_interval(published: Published) -> None:
    """Against the textbook formula, computed here from scipy alone."""
    found = published_evidence(published, 3e9, "Math", 0.10)
    x, y = np.log10(np.array(SIZES) / 1e9), np.array(SHARES) / 100
    line, at = stats.linregress(x, y), math.log10(3)
    left = np.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / 2)
    half = stats.t.ppf(0.975, 2) * left * math.sqrt(1 + 1 / 4 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    estimate = line.intercept + line.slope * at
    assert (found.share, found.low, found.high) == pytest.approx((estimate, estimate - half, estimate + half))
    assert found.plan == found.low and not found.warnings and found.supported


@pytest.mark.parametrize(("size", "share"), zip(SIZES, SHARES, strict=True))
def test_the_published_points_lie_in_their_intervals_and_equation_3_does_not_show(
    published: Published, size: float, share: float
) -> None:
    found = published_evidence(published, size, "Math", 0.10)
    assert found.high is not None and found.low < share / 100 < found.high
    printed = (12 + 3.5 * math.log10(size / 1e9)) / 100
    assert abs(found.share - share / 100) < 0.02 < abs(found.share - printed)


def test_tasks_follow_table_1(published: Published) -> None:
    """At 6.9B the order is that of the crossings of 10 %, each found here from the table alone."""
    shares = np.array(published.table1.proportions) / 100
    crossing = {t: np.interp(0.10, published.table1.relative(t), shares) for t in FAMILIES}
    at = {t: published_evidence(published, 6.9e9, t, 0.10) for t in FAMILIES}
    assert sorted(FAMILIES, key=crossing.__getitem__) == sorted(FAMILIES, key=lambda t: at[t].share)
    assert [*sorted(FAMILIES, key=lambda t: at[t].share)] == ["Code", "Math", "Factual", "Commonsense", "Reading"]
    for task in FAMILIES:
        ratio = at["Math"].share * crossing[task] / crossing["Math"]
        distance = at["Math"].share + crossing[task] - crossing["Math"]
        assert at[task].share == pytest.approx(min(ratio, distance))
        assert at[task].low < at[task].share


def test_fewer_items_mean_a_wider_interval(published: Published) -> None:
    """HumanEval's 164 problems against GSM8K's 1,319, on shares that are nearly the same."""
    code, math_ = (published_evidence(published, 6.9e9, task, 0.0999) for task in ("Code", "Math"))
    assert code.high is not None and math_.high is not None
    assert code.high - code.low > 2 * (math_.high - math_.low)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(FAMILIES), st.floats(0.02, 0.3), st.floats(4e8, 1.2e10))
def test_a_smaller_margin_never_allows_more(family: str, margin: float, size: float) -> None:
    published = load_published()
    strict, mild = (published_evidence(published, size, family, m) for m in (margin / 2, margin))
    assert strict.share <= mild.share + 1e-12
    assert 0 <= strict.low <= strict.share <= 0.5


def test_a_loss_that_is_never_reached(published: Published) -> None:
    found = published_evidence(published, 6.9e9, "Reading", 0.20)
    assert found.above and found.high is None and "does not reach 20 % up to 50 %" in found.facts[1]


def test_larger_than_all_is_planned_as_the_largest(published: Published) -> None:
    far, largest = (published_evidence(published, n, "Math", 0.10) for n in (7e10, 1.2e10))
    assert far.share > largest.share and far.plan == largest.low
    assert "a factor 5.83 outside of the published sizes (410M to 12B)" in far.warnings[0]


def test_far_below_all_there_is_no_share(published: Published) -> None:
    found = published_evidence(published, 9e5, "Math", 0.10)
    assert not found.supported and found.share == found.low == found.plan == 0
    assert "a factor 456 outside" in found.warnings[0] and "does not hold here" in found.warnings[1]
    assert "No share: this evidence says nothing" in advise("900000", "Math").text()


def test_a_size_by_name_is_no_extrapolation(published: Published) -> None:
    """pythia-410m has 405,334,016 parameters, 410M in the paper's words."""
    assert not advise("pythia-410m", "gsm8k").evidence.warnings


def test_the_same_question_has_the_same_answer(published: Published) -> None:
    first, again = (published_evidence(published, 3e9, "Code", 0.07) for _ in range(2))
    assert first == again


# -- a study --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(make_store: MakeStore) -> Path:
    return make_store(
        tasks=("nano-math", "nano-code"), models=("nano-0.9m", "nano-3m"), proportions=(0.0, 0.1, 0.2, 0.3, 0.5),
        iterations=1, seeds=(0, 1, 2), effect=0.4,
    )  # fmt: skip


def measured(root: Path, model: str, task: str, margin: float) -> tuple[float, float, float]:
    """The safe proportion of one curve, computed with no help of the adviser."""
    for chain in share_chains(Analysis(load_study("sketch", root), estimators=())):
        if (chain.about["model"], chain.about["task"], chain.about["iteration"]) == (model, task, 1):
            assert chain.curve is not None
            found = safe_proportion(chain.curve, margin).interval
            return found.estimate, found.low, found.high
    raise AssertionError("no such curve")


def test_a_model_of_the_study_has_its_own_curve(store: Path) -> None:
    found = study_evidence(load_study("sketch", store), 9e5, "nano-math", "Math", 0.10)
    estimate, low, high = measured(store, "nano-0.9m", "nano-math", 0.10)
    assert (found.share, found.low, found.plan) == pytest.approx((estimate, low, low))
    assert found.high == told(high, 0.5) and found.source == "study" and not found.warnings
    assert "3 seeds, 200 items" in found.facts[0]
    truth = 0.10 * 0.65 / 0.4  # the simulated score is base - effect p, to first order
    assert found.low < truth < (found.high or 1)


def test_a_family_finds_its_task_and_a_size_its_nearest(store: Path) -> None:
    found = study_evidence(load_study("sketch", store), 2.5e6, None, "Code", 0.10)
    small, large = (measured(store, model, "nano-code", 0.10) for model in ("nano-0.9m", "nano-3m"))
    assert found.share == pytest.approx(min(large[0], 0.5)) and found.low == pytest.approx(min(small[1], large[1]))
    assert "the value is that of nano-3m, and nothing corrects for size" in found.warnings[0]
    assert "both sides" in found.warnings[0]


def test_outside_the_studys_sizes(store: Path) -> None:
    found = study_evidence(load_study("sketch", store), 3.1e8, "nano-math", "Math", 0.10)
    assert "a factor 100 outside of the study's sizes (900,000 to 3.1M)" in found.warnings[0]


def test_below_the_first_and_above_the_last_share(make_store: MakeStore) -> None:
    steep = make_store(tasks=("nano-math",), proportions=(0.0, 0.3, 0.5), iterations=1, effect=1.2)
    found = advise("0.9M", "Math", "sketch", root=str(steep))
    assert found.evidence.below and found.evidence.share == 0.3 and found.evidence.plan == 0
    assert "Less than 30 % of the training set" in found.text() and "no share to be safe" in found.text()
    flat = make_store(tasks=("nano-math",), proportions=(0.0, 0.3, 0.5), iterations=1, effect=0.0)
    found = advise("0.9M", "Math", "sketch", root=str(flat))
    assert found.evidence.above and found.evidence.share == 0.5 and found.evidence.high is None
    assert "50 % of the training set or more" in found.text() and ", –]" in found.text()


def three_sizes(root: Path) -> Path:
    """The same store, its seeds in pairs told to be models of three sizes."""
    sizes = {0: ("a", 1e6), 1: ("b", 1e7), 2: ("c", 1e8)}
    plan = root / "studies" / "sketch" / "plan.json"
    tree = json.loads(plan.read_text())
    for cell in tree["cells"]:
        name, parameters = sizes[cell["seed"] // 2]
        cell |= {"model": name, "parameters": parameters}
        result = root / "cells" / cell["name"] / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"model": name, "parameters": parameters}))
    plan.write_text(json.dumps(tree))
    return root


def test_three_sizes_make_a_law(make_store: MakeStore) -> None:
    root = three_sizes(
        make_store(tasks=("nano-math",), seeds=range(6), iterations=1, proportions=(0, 0.1, 0.3, 0.5), items=500)
    )
    found = study_evidence(load_study("sketch", root), 3e7, None, "Math", 0.10)
    points = [measured(root, model, "nano-math", 0.10)[0] for model in "abc"]
    line = stats.linregress([6, 7, 8], points)
    expected = line.intercept + line.slope * math.log10(3e7)
    assert found.share == pytest.approx(min(max(expected, 0), 0.5))
    assert "1 degrees of freedom" in found.facts[1] and "least squares on 3" in found.facts[1]
    exact = study_evidence(load_study("sketch", root), 1e7, None, "Math", 0.10)
    assert exact.share == pytest.approx(points[1]), "a size of the study needs no law"


@pytest.mark.parametrize(
    ("changes", "task", "expected"),
    [
        ({"proportions": (0.0, 0.3)}, "Math", "no curve over the synthetic share for nano-math: 2 shares; three"),
        ({"planned": ("replace-0.it1",)}, "Math", "no finished 0 % control"),
        ({"base": -1.0, "effect": 0.0}, "Math", "every item has the same score"),
        ({"planned": ("it1",)}, "Math", "no finished cell of a Math task at iteration 1. Tasks with some: none"),
        ({}, "gsm8k", "no finished cell of task 'gsm8k' at iteration 1. Tasks with some: nano-math"),
        ({}, "Code", "no finished cell of a Code task at iteration 1. Tasks with some: nano-math"),
    ],
)
def test_a_study_without_a_curve(make_store: MakeStore, changes: dict, task: str, expected: str) -> None:
    root = make_store(tasks=("nano-math",), iterations=1, items=40, **changes)
    with pytest.raises(UserError, match=f"study sketch: {expected}" if "curve" in expected else expected):
        advise("0.9M", task, "sketch", root=str(root))


def test_two_tasks_of_one_family(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math", "nano-facts"), iterations=1, items=40)
    for path in (root / "cells").glob("*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"family": "Math"}))
    with pytest.raises(UserError, match="several tasks of Math: nano-facts, nano-math; name one with --task"):
        advise("0.9M", "Math", "sketch", root=str(root))


def test_one_seed_is_said(make_store: MakeStore) -> None:
    root = make_store(tasks=("nano-math",), iterations=1, seeds=(0,), items=80)
    assert "One training run a share" in advise("0.9M", "Math", "sketch", root=str(root)).text()


# -- words and the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [(4.1e8, "410M"), (6.9e9, "6.9B"), (281_152, "281,152"), (9.9999e8, "1B"), (1.5e12, "1.5T"), (9.7e6, "9.7M")],
)
def test_parameters_in_words(parameters: float, words: str) -> None:
    assert count(parameters) == words


def test_shares_in_words() -> None:
    assert (whole(0.234), whole(-0.06), ends(0.18, None), ends(-0.23, 0.304)) == (
        "23 %",
        "−6 %",
        "[18, –]",
        "[−23, 30]",
    )


def test_the_command_answers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["budget", "--model", "6.9B", "--task", "gsm8k"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "gsm8k (Math), a loss under 10 %", "About 24 % of the training set [18, 30]", "Plan with at most 18 %",
        "17.5 % + 7.8 % · log10(N / 1e9)", "Equation 3 as printed", "recommends 10 to 15 %", "Not covered", "English",
        "one iteration", "unfiltered",
    ):  # fmt: skip
        assert words in " ".join(shown.split()), words
    assert max(map(len, shown.splitlines())) <= 100 and not any(line.startswith("%") for line in shown.split("\n"))


def test_the_command_answers_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(store / "studies" / "sketch")
    assert main(["budget", "--model", "nano-0.9m", "--task", "nano-math", "--from", folder, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["evidence"]["source"] == "study" and answer["family"] == "Math" and answer["parameters"] == 943_440
    assert 0 <= answer["evidence"]["low"] <= answer["evidence"]["share"] <= 0.5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "410X", "--task", "Math"], "model '410X': expected a number of parameters above 0"),
        (["--model", "pythia-12", "--task", "Math"], "Did you mean 'pythia-12b'?"),
        (["--model", "1B", "--task", "Maths"], "unknown task 'Maths'. Did you mean 'Math'?"),
        (["--model", "1B", "--task", "nli"], "task 'nli' (NLI): nothing is published about its kind"),
        (["--model", "1B", "--task", "Math", "--margin", "10"], "margin = 10: expected a share of the score"),
        (["--model", "1B", "--task", "Math", "--margin", "nan"], "margin = nan: expected a share of the score"),
        (["--model", "1B", "--task", "Math", "--margin", "ten"], "invalid float value: 'ten'"),
        (["--model", "1B", "--task", "Math", "--from", "gone"], "unknown study 'gone'"),
        (["--model", "1B"], "the following arguments are required: --task"),
    ],
)
def test_bad_input_ends_with_status_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["budget", *words])
    except SystemExit as left:
        status = int(left.code or 0)
    assert status == 2 and expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "something was written"


def test_the_document_prints_what_the_command_says() -> None:
    """docs/budget.md, row by row: estimate and ends of every family at three sizes."""
    text = (Path(__file__).parents[2] / "docs" / "budget.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| | Code"))
    families = [cell.strip() for cell in header.split("|")[2:-1]]
    rows = [line for line in text.splitlines() if line.startswith("| `synthmix budget")]
    assert len(rows) == 3 and sorted(families) == sorted(FAMILIES)
    for line in rows:
        size = line.split("--model ")[1].split()[0]
        for family, cell in zip(families, line.split("|")[2:-1], strict=True):
            found = advise(size, family).evidence
            assert cell.strip() == f"{whole(found.share)} {ends(found.low, found.high)}", (size, family)
