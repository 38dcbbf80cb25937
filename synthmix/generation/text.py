"""From token ids back to text: completions as they stand after their prompt, and stop strings as they appear."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

#: What a byte-level tokenizer shows for bytes that do not (yet) form a character.
REPLACEMENT = "�"


class TextReader:
    """Decodes completions exactly as they follow their prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._pieces: list[str] | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """Plain decoding: special tokens visible, no spaces cleaned up."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def text(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """The text that ``ids`` add to the prompt.

        SentencePiece tokenizers drop the leading space of whatever they decode, so the prompt's last token is decoded
        with the completion and taken off again.
        """
        if not ids:
            return ""
        if prompt_ids and prompt_ids[-1] not in self._special:
            anchor = self.decode(prompt_ids[-1:])
            whole = self.decode([prompt_ids[-1], *ids])
            if REPLACEMENT not in anchor and whole.startswith(anchor):
                return whole[len(anchor) :]
        return self.decode(ids)

    def pieces(self) -> list[str]:
        """What each token adds to a text, by id; decoded once."""
        if self._pieces is None:
            size = len(self.tokenizer)
            anchor = next((i for i in range(size) if i not in self._special and self.decode([i]).isalpha()), None)
            before = [] if anchor is None else [anchor]
            start = len(self.decode(before)) if before else 0
            decoded = self.tokenizer.batch_decode(
                [[*before, i] for i in range(size)], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            self._pieces = [text[start:] for text in decoded]
        return self._pieces


class StopFinder:
    """Notices stop strings while a text is being written.

    A stop string can only be completed by a token whose text contains its last character, so nothing is decoded for
    any other token.

    Args:
        reader: decodes.
        stop: the stop strings; with none, no token is ever looked at.
    """

    def __init__(self, reader: TextReader, stop: Sequence[str]) -> None:
        self.reader = reader
        self.stop = tuple(string for string in stop if string)
        #: Token ids that may complete a stop string.
        self.enders: frozenset[int] = self._enders() if self.stop else frozenset()
        # A token adds a byte at least, and a character before the stop string may be cut in up to four.
        self.tail = max((len(string.encode()) for string in self.stop), default=0) + 4

    def _enders(self) -> frozenset[int]:
        last = {string[-1] for string in self.stop}
        # Bytes of a character outside ASCII may be spread over tokens that show nothing of it by themselves.
        if any(ord(character) > 127 for character in last):
            last.add(REPLACEMENT)
        return frozenset(i for i, piece in enumerate(self.reader.pieces()) if last & set(piece))

    def found(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> bool:
        """True if the end of the completion ``ids`` holds a stop string; what comes from the prompt does not count."""
        short = len(ids) <= self.tail
        text = self.reader.text(prompt_ids, ids) if short else self.reader.text(ids[: -self.tail], ids[-self.tail :])
        return any(string in text for string in self.stop)
