"""Tokens and n-grams of many texts at once, as integer arrays: what every diversity metric counts on.

All n-grams of an order get dense ids by one sort, and an n-gram of order n is (id of its first n - 1 tokens, its last
token). So a thousand texts are counted in milliseconds, without a tuple or a Counter an n-gram.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
TokenizerName = Literal["word", "whitespace"]

#: A run of letters, digits and underscores, or one character that is neither that nor white space.
WORD = re.compile(r"\w+|[^\w\s]")
#: ``word``: :data:`WORD`, case kept, so "It's 3.5" is It ' s 3 . 5. ``whitespace``: ``str.split``.
TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"word": WORD.findall, "whitespace": str.split}


def tokenize(text: str, tokenizer: TokenizerName = "word") -> list[str]:
    """Tokens of ``text``. Raises ValueError for an unknown tokenizer.

    >>> tokenize("Tom's 3 apples.")
    ['Tom', "'", 's', '3', 'apples', '.']
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"Expected argument `tokenizer` to be one of {sorted(TOKENIZERS)} but got {tokenizer!r}")
    return TOKENIZERS[tokenizer](text)


@dataclass(frozen=True)
class Corpus:
    """Tokenized texts, end to end.

    Attributes:
        tokens: ``(T,)``, dense token ids of all texts.
        lengths: ``(N,)``, tokens a text; they sum to T.
    """

    tokens: Ints
    lengths: Ints

    @classmethod
    def from_texts(cls, texts: Sequence[str], tokenizer: TokenizerName = "word") -> Corpus:
        """Tokenizes ``texts``; ids are given in order of first appearance."""
        if isinstance(texts, str):
            raise ValueError("Expected argument `texts` to be a sequence of strings but got one string")
        ids: dict[str, int] = {}
        lists = [[ids.setdefault(token, len(ids)) for token in tokenize(text, tokenizer)] for text in texts]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        flat = (token for tokens in lists for token in tokens)
        return cls(np.fromiter(flat, np.int64, int(lengths.sum())), lengths)

    def orders(self, max_n: int) -> Iterator[NgramTable]:
        """The n-grams of order 1, 2, ... ``max_n``. No n-gram reaches over the end of its text."""
        if max_n < 1:
            raise ValueError(f"Expected the n-gram order to be at least 1 but got {max_n}")
        width = int(self.tokens.max(initial=0)) + 1
        text = np.repeat(np.arange(len(self.lengths)), self.lengths)
        # Tokens left in the text from each position on: an n-gram starts where at least n are left.
        left = np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(len(self.tokens))
        start = np.arange(len(self.tokens))
        table = NgramTable.from_keys(self.tokens, text, len(self.lengths))
        yield table
        for n in range(2, max_n + 1):
            keep = left[start] >= n
            start = start[keep]
            keys = table.ids[keep] * width + self.tokens[start + n - 1]
            table = NgramTable.from_keys(keys, text[start], len(self.lengths))
            yield table

    def order(self, n: int) -> NgramTable:
        """The n-grams of order ``n`` alone."""
        *_, table = self.orders(n)
        return table


@dataclass(frozen=True)
class NgramTable:
    """The n-grams of one order.

    Attributes:
        ids: ``(P,)``, id of the n-gram at each position, in reading order; ids are 0 ... G - 1.
        totals: ``(N,)``, n-grams a text.
        pair_gram, pair_text, pair_count: ``(Q,)``, how often a text holds an n-gram, for each (n-gram, text) with a
            count above zero; sorted by n-gram, then text.
    """

    ids: Ints
    totals: Ints
    pair_gram: Ints
    pair_text: Ints
    pair_count: Ints

    @classmethod
    def from_keys(cls, keys: Ints, text: Ints, n_texts: int) -> NgramTable:
        """``keys`` ``(P,)`` names the n-gram at each position, ``text`` ``(P,)``, ascending, the text it stands in."""
        # Stable: within an n-gram positions stay in reading order, so those of one text are neighbours.
        order = np.argsort(keys, kind="stable")
        sorted_keys, sorted_text = keys[order], text[order]
        new_gram = _changes(sorted_keys)
        gram = np.cumsum(new_gram) - 1
        ids = np.empty_like(gram)
        ids[order] = gram
        first = np.flatnonzero(new_gram | _changes(sorted_text))
        count = np.diff(first, append=len(keys))
        return cls(ids, np.bincount(text, minlength=n_texts), gram[first], sorted_text[first], count)

    def counts(self) -> Ints:
        """``(G,)``: how often each n-gram occurs in all texts together."""
        return np.bincount(self.ids)

    def excess(self) -> Ints:
        """``(N,)``: for each text the occurrences of n-grams that it has beyond what any one other text has.

        Only the text with the largest count of an n-gram has more of it than every other, and its surplus is the
        largest count minus the second largest. So two counts an n-gram answer "the maximum over all other texts" for
        every text.
        """
        surplus = np.zeros(len(self.totals), np.int64)
        if len(self.pair_gram) == 0:
            return surplus
        starts = np.flatnonzero(_changes(self.pair_gram))
        largest = np.maximum.reduceat(self.pair_count, starts)
        at_largest = np.flatnonzero(self.pair_count == largest[self.pair_gram])
        # With a tie any of the holders will do: the second largest is then the same number, and the surplus 0.
        holder = np.empty(len(starts), np.int64)
        holder[self.pair_gram[at_largest]] = at_largest
        rest = self.pair_count.copy()
        rest[holder] = 0
        second = np.maximum.reduceat(rest, starts)
        np.add.at(surplus, self.pair_text[holder], largest - second)
        return surplus


def _changes(values: Ints) -> NDArray[np.bool_]:
    """True where a value differs from the one before it (and at the first)."""
    changed = np.ones(len(values), bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
