"""Answer scores against the official vectors, torchmetrics' port of the SQuAD 1.1 scorer, and the SQuAD 2.0 dev set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text.squad import _compute_exact_match_score, _compute_f1_score, _normalize_text

from synthmix.metrics import exact_match, normalize_answer, token_f1

WORDS = ["a", "the", "An", "Tower", "tower", "10,000", "10000", "x-ray", "!", "é"]
answers = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("the Eiffel Tower", "Eiffel tower!", 1, 1),
        ("10,000", "10000", 1, 1),
        # "a" is an article, so these are "b c" and "b c d".
        ("a b c", "b c d", 0, 0.8),
        ("", "unanswerable", 0, 0),
        ("", "", 1, 1),
        ("unanswerable", "", 0, 0),
        ("the", "", 1, 1),
        ("b b b", "b", 0, 0.5),
        ("theatre", "atre", 0, 0),
        ("well-known", "wellknown", 1, 1),
        ("well known", "well-known", 0, 0),
    ],
)
def test_vectors(prediction: str, gold: str, em: float, f1: float) -> None:
    assert exact_match(prediction, gold) == em
    assert token_f1(prediction, gold) == pytest.approx(f1)


@given(st.one_of(answers, st.text(max_size=20)))
def test_normaliser_equals_torchmetrics(text: str) -> None:
    assert normalize_answer(text) == _normalize_text(text)


@given(answers, answers.filter(normalize_answer))
def test_scores_equal_torchmetrics_for_answerable_questions(prediction: str, gold: str) -> None:
    assert exact_match(prediction, gold) == float(_compute_exact_match_score(prediction, gold))
    # Its F1 is an int 0 or a tensor; a prediction without words scores 0 in both.
    assert token_f1(prediction, gold) == pytest.approx(float(_compute_f1_score(prediction, gold)), abs=1e-6)


@given(answers, answers)
def test_f1_is_symmetric_and_at_least_exact_match(a: str, b: str) -> None:
    assert token_f1(a, b) == pytest.approx(token_f1(b, a))
    assert exact_match(a, b) <= token_f1(a, b) + 1e-12 <= 1 + 2e-12
    assert exact_match(a, a) == token_f1(a, a) == 1.0


@given(st.text(max_size=20))
def test_normalising_the_result_of_an_ascii_text_changes_nothing(text: str) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert normalize_answer(normalize_answer(ascii_text)) == normalize_answer(ascii_text)


def test_best_gold_counts() -> None:
    golds = ["Saint Bernadette", "Bernadette Soubirous", "Bernadette"]
    assert exact_match("bernadette", golds) == 1.0
    assert token_f1("Soubirous", golds) == pytest.approx(2 / 3)


def test_golds_without_words() -> None:
    # The official scorer leaves them out, so abstaining is not rewarded by a sloppy annotation ...
    assert exact_match("", ["the", "Paris"]) == token_f1("", ["the", "Paris"]) == 0.0
    # ... unless nothing else is left.
    assert exact_match("", ["the"]) == exact_match("", []) == token_f1("", []) == 1.0
    assert exact_match("Paris", []) == token_f1("Paris", []) == 0.0


def test_nfd_is_the_nq_open_variant() -> None:
    composed, decomposed = "Beyonc\u00e9", "Beyonce\u0301"
    assert exact_match(composed, decomposed) == 0.0
    assert exact_match(composed, decomposed, nfd=True) == token_f1(composed, decomposed, nfd=True) == 1.0


@pytest.fixture(scope="module")
def squad_questions(real_data: Path) -> list[dict]:
    articles = json.loads((real_data / "squad_v2" / "dev-v2.0.json").read_text())["data"]
    return [qa for article in articles for paragraph in article["paragraphs"] for qa in paragraph["qas"]]


def test_always_abstaining_on_squad_2(squad_questions: list[dict]) -> None:
    golds = [[answer["text"] for answer in qa["answers"]] for qa in squad_questions]
    for metric in (exact_match, token_f1):
        assert 100 * sum(metric("", g) for g in golds) / len(golds) == pytest.approx(50.07, abs=0.005)
        assert all(metric(g[0], g) == 1.0 for g in golds if g)
