"""Contamination: does a text repeat items that it must not contain, such as the test set?

Two signs: the same question, and a shared run of n words (13 by default; Brown et al. 2020, appendix C). Words are
compared in lower case and without punctuation. Texts must come without what every document of a task shares (a
header, an instruction), or all of them overlap.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_WORD = re.compile(r"\w+")
# Odd, so that multiplying by it loses nothing modulo 2^64.
_MULTIPLIER = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Overlap:
    """What a text shares with an index.

    Attributes:
        question: its normalised question equals an indexed one.
        ngram: the first run of words that it shares with an indexed document, or None.
    """

    question: bool
    ngram: str | None

    def __bool__(self) -> bool:
        return self.question or self.ngram is not None


def overlap_words(text: str) -> list[str]:
    """The words of ``text`` as overlap sees them: NFKC, lower case, runs of letters and digits.

    >>> overlap_words("Tom's 3 APPLES!")
    ['tom', 's', '3', 'apples']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def normalize_question(text: str) -> str:
    """Words of ``text`` with single blanks: equal for questions that differ in case, punctuation and spacing only."""
    return " ".join(overlap_words(text))


class OverlapIndex:
    """An index of documents and questions that other texts are looked up in.

    A document of fewer than ``n`` words (but at least one) counts as a single run, its whole: it overlaps with a text
    of exactly those words, and with nothing longer. A text without words overlaps with nothing, nor does an empty
    question. Runs are kept as 64-bit hashes (8 bytes each, the same in every process); a look-up of m words among R
    runs errs with a probability below m * R / 2^64.

    Args:
        documents: texts whose runs of ``n`` words are indexed.
        questions: questions to be compared as a whole.
        n: words a run, at least 1.

    >>> index = OverlapIndex(["the quick brown fox jumps"], ["Who jumps?"], n=3)
    >>> index.find("A quick, brown fox!").ngram, index.find("Nothing here", question="who jumps").question
    ('quick brown fox', True)
    """

    def __init__(self, documents: Iterable[str], questions: Iterable[str] = (), n: int = 13) -> None:
        if n < 1:
            raise ValueError(f"Expected argument `n` to be at least 1 but got {n}")
        self.n = n
        # Only words of the index need remembering: any other word of a text is hashed and forgotten.
        self._word_hashes: dict[str, int] = {}
        self._questions = {normalized for question in questions if (normalized := normalize_question(question))}
        self._runs = self._index([overlap_words(document) for document in documents])

    def __len__(self) -> int:
        """Number of different runs in the index."""
        return len(self._runs)

    def has_question(self, question: str) -> bool:
        """Whether the index holds this question, up to case, punctuation and spacing."""
        return normalize_question(question) in self._questions

    def shared_ngram(self, text: str) -> str | None:
        """The first run of ``n`` words of ``text`` that the index holds, or None."""
        words = overlap_words(text)
        if not words or not len(self._runs):
            return None
        width = min(self.n, len(words))
        runs = _run_hashes(self._hash(words, remember=False), width)
        hits = np.flatnonzero(_isin_sorted(runs, self._runs))
        return " ".join(words[hits[0] : hits[0] + width]) if len(hits) else None

    def find(self, text: str, question: str | None = None) -> Overlap:
        """Both signs for a text and, where it has one, its question."""
        return Overlap(question is not None and self.has_question(question), self.shared_ngram(text))

    def _index(self, documents: Sequence[list[str]]) -> Hashes:
        long = [words for words in documents if len(words) >= self.n]
        short = [words for words in documents if 0 < len(words) < self.n]
        parts = [_run_hashes(self._hash(words), len(words)) for words in short]
        lengths = np.array([len(words) for words in long], np.int64)
        if len(lengths):
            runs = _run_hashes(self._hash([word for words in long for word in words]), self.n)
            # All long documents were hashed end to end; runs that reach into the next document are no one's.
            left = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())
            parts.append(runs[left[: len(runs)] >= self.n])
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)

    def _hash(self, words: Sequence[str], remember: bool = True) -> Hashes:
        known = self._word_hashes
        hashes = np.empty(len(words), np.uint64)
        for position, word in enumerate(words):
            value = known.get(word)
            if value is None:
                value = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
                if remember:
                    known[word] = value
            hashes[position] = value
        return hashes


def _run_hashes(words: Hashes, width: int) -> Hashes:
    """Hash of every run of ``width`` neighbours, ``(len(words) - width + 1,)``; the width is part of the hash."""
    count = len(words) - width + 1
    total = np.full(count, width, np.uint64)
    for offset in range(width):
        total = total * np.uint64(_MULTIPLIER) + words[offset : offset + count]
    return total


def _isin_sorted(values: Hashes, table: Hashes) -> NDArray[np.bool_]:
    place = np.searchsorted(table, values)
    return table[np.minimum(place, len(table) - 1)] == values
