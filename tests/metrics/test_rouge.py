"""ROUGE-L against Google's rouge-score, on random and on real texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from synthmix.metrics.rouge import lcs_length, rouge_l, rouge_words

REFERENCE = RougeScorer(["rougeL"], use_stemmer=False)
WORDS = ["the", "The", "cat", "sat,", "10,000", "x-ray", "é", "İ", "!", "naïve", "\n", ""]
sentences = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join) | st.text(max_size=40)


def official(prediction: str, reference: str) -> float:
    return float(REFERENCE.score(reference, prediction)["rougeL"].fmeasure)


@given(sentences, sentences)
def test_equals_rouge_score(prediction: str, reference: str) -> None:
    assert rouge_l(prediction, reference) == pytest.approx(official(prediction, reference), abs=1e-12)


@given(sentences)
def test_words_equal_rouge_score(text: str) -> None:
    from rouge_score.tokenize import tokenize

    assert rouge_words(text) == tokenize(text, None)


@given(st.lists(st.sampled_from("abc"), max_size=80), st.lists(st.sampled_from("abc"), max_size=80))
def test_lcs_equals_the_table(first: list[str], second: list[str]) -> None:
    """Longer than a machine word, so that carries cross its border."""
    row = [0] * (len(second) + 1)
    for a in first:
        above, row = row, [0] * (len(second) + 1)
        for j, b in enumerate(second):
            row[j + 1] = above[j] + 1 if a == b else max(above[j + 1], row[j])
    assert lcs_length(first, second) == row[-1] == lcs_length(second, first)


def test_equals_rouge_score_on_real_paragraphs(real_data: Path) -> None:
    lines = (real_data / "text/wikitext-2.test.txt").read_text(encoding="utf-8").split("\n")
    texts = [line for line in lines if len(line) > 300][:60]
    for first, second in zip(texts, texts[1:], strict=False):
        assert rouge_l(first, second) == pytest.approx(official(first, second), abs=1e-12)
        assert rouge_l(first, first) == 1.0
        assert 0.0 < rouge_l(first[: len(first) // 2], first) < 1.0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        # Lin 2004, section 3.1: LCS 3 and 2 of 4 words
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("one two three four", "one two", 2 / 3),
        ("", "some words", 0),
        ("some words", "", 0),
        ("?!", "?!", 0),
    ],
)
def test_vectors(prediction: str, reference: str, score: float) -> None:
    assert rouge_l(prediction, reference) == pytest.approx(score)
