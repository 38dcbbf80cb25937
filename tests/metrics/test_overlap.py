"""Overlap against a set of tuples, and the rules for short texts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmix.metrics import OverlapIndex
from synthmix.metrics.overlap import normalize_question, overlap_words

document = st.lists(st.sampled_from(["a", "B", "c,", "!"]), max_size=10).map(" ".join)
LONG = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


def runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = overlap_words(text)
    if 0 < len(words) < n:
        return {tuple(words)}
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@given(st.lists(document, max_size=5), document, st.integers(1, 6))
def test_equals_sets_of_tuples(documents: list[str], text: str, n: int) -> None:
    index = OverlapIndex(documents, n=n)
    known = set().union(*(runs(item, n) for item in documents))
    assert len(index) == len(known)
    shared = index.shared_ngram(text)
    assert (shared is not None) == bool(runs(text, n) & known)
    if shared is not None:
        assert tuple(shared.split()) in runs(text, n) & known


def test_thirteen_words_in_a_row() -> None:
    index = OverlapIndex([LONG])
    words = overlap_words(LONG)
    thirteen = " ".join(words[3:16])
    assert index.shared_ngram(f"Well: {thirteen.upper()}? No.") == thirteen
    assert index.shared_ngram("Well " + " ".join(words[3:15]) + " no and some more words to make it long") is None


def test_no_run_reaches_into_the_next_document() -> None:
    assert OverlapIndex(["a b c", "d e f"], n=3).shared_ngram("b c d") is None
    assert OverlapIndex(["a b c", "d e f"], n=3).shared_ngram("x d e f") == "d e f"


def test_short_documents_match_as_a_whole_only() -> None:
    index = OverlapIndex(["Yes.", "in the park", ""], n=13)
    assert index.shared_ngram("yes!") == "yes"
    assert index.shared_ngram("In the PARK") == "in the park"
    assert index.shared_ngram("yes in the park") is None
    assert index.shared_ngram(LONG + " yes") is None
    assert index.shared_ngram("") is None
    # A short text is no run of a long document either.
    assert OverlapIndex([LONG]).shared_ngram("sold clips") is None


def test_questions() -> None:
    index = OverlapIndex([], ["What is  2 + 3?", ""])
    assert index.has_question("what is 2 3")
    assert not index.has_question("What is 2 + 4?")
    assert not index.has_question("") and not index.has_question("?!")
    found = index.find("no such document", "WHAT IS 2+3")
    assert found.question and found.ngram is None and found
    assert not index.find("no such document", "other")
    assert not index.find("no such document")


def test_normalisation_joins_compatible_characters() -> None:
    assert normalize_question("  ＡＢＣ ﬁve!\n") == "abc five"


def test_hashes_do_not_depend_on_the_process() -> None:
    code = f"from synthmix.metrics import OverlapIndex; print(OverlapIndex([{LONG!r}])._runs.tolist())"
    shown = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(2)}
    assert shown == {f"{OverlapIndex([LONG])._runs.tolist()}\n".encode()}


def test_n_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`n`"):
        OverlapIndex([LONG], n=0)
