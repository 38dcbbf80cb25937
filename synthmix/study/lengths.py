"""How long a task's documents and items are, in a model's tokens; what a plan's cost rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthmix.config import DataConfig, ModelConfig
from synthmix.data.records import load_split, split_size
from synthmix.models.flops import local_file
from synthmix.tasks import Document, Example, Task

#: Records read of a split, evenly spread over it, and characters a token where no tokenizer is at hand (English, with a
#: vocabulary of 50,000).
SAMPLE, CHARACTERS_A_TOKEN = 256, 4.0
#: Documents with most characters, among which the one with most tokens is looked for.
LONGEST = 32

#: Tokens of each of some texts.
Count = Callable[[Sequence[str]], list[float]]


@dataclass(frozen=True)
class Items:
    """A split that is scored: ``n`` items, and the mean tokens of a prompt, of the gold completion, and of the choices of
    a question without the last token of each, which is not read (0 where answers are written)."""

    n: int
    prompt: float
    completion: float
    choices: float


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a training document (header and EOS included) and of its parts, and the scored splits.

    ``seen`` is the mean length of the document that a token stands in: longer documents hold more of the tokens.
    """

    document: float
    seen: float
    header: float
    prompt: float
    completion: float
    characters: float
    splits: dict[str, Items]


def counter(model: ModelConfig) -> Count:
    """A model's tokenizer, where it is on this machine; else :func:`by_characters`."""
    path = local_file(model, "tokenizer.json")
    return by_characters if path is None else _tokenizer(path)


def by_characters(texts: Sequence[str]) -> list[float]:
    """Tokens by the number of characters; a text that is not empty has one at least."""
    return [max(1.0, len(text) / CHARACTERS_A_TOKEN) if text else 0.0 for text in texts]


@lru_cache(maxsize=8)
def _tokenizer(path: Path) -> Count:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def count(texts: Sequence[str]) -> list[float]:
        return [float(len(encoded)) for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return count


def measure(task: Task, data: DataConfig, model: ModelConfig, limit: int | None) -> Lengths:
    """Lengths of a task's documents, none longer than ``limit`` (what training cuts) or the model's context.

    Raises:
        DataError: data that cannot be read.
    """
    settings = tuple(vars(data).items())
    count = counter(model)
    documents = [task.render(example.record) for example in _read(task, "train", settings).sample]
    header, bodies, completions = _parts(documents, count)
    ends = [min(h + b + c + 1, limit or model.context) for h, b, c in zip(header, bodies, completions, strict=True)]
    splits = {
        split: _items(task, split, settings, count, model.context) for split in ("validation", "test", *task.probes)
    }
    return Lengths(
        document=_mean(ends),
        seen=sum(n * n for n in ends) / sum(ends),
        header=_mean(header),
        prompt=_mean([min(h + b, model.context) for h, b in zip(header, bodies, strict=True)]),
        completion=_mean(completions),
        characters=_mean([float(len(document.text)) for document in documents]),
        splits=splits,
    )


def longest(task: Task, data: DataConfig, model: ModelConfig, limit: int | None) -> int:
    """Tokens of the longest document that a cell may train on: of the data, or as long as samples may become.

    Those with most characters are tokenized; none is longer than ``limit`` or the model's context.

    Raises:
        DataError: data that cannot be read.
    """
    documents = _read(task, "train", tuple(vars(data).items())).longest
    lengths = [sum(parts) + 1 for parts in zip(*_parts(list(documents), counter(model)), strict=True)]
    return int(min(max(task.max_document_tokens, *lengths), limit or model.context, model.context))


def _items(task: Task, split: str, settings: tuple[tuple[str, Any], ...], count: Count, context: int) -> Items:
    found = _read(task, split, settings)
    examples, n = found.sample, found.n
    header, bodies, completions = _parts([task.render(example.record) for example in examples], count)
    prompts = [min(h + b, context) for h, b in zip(header, bodies, strict=True)]
    choices = 0.0
    if task.answering == "choice":
        offered = [text for example in examples for text in task.choices(example.record)]
        choices = sum(max(0.0, tokens - 1) for tokens in count(offered)) / len(examples)
    return Items(n, _mean(prompts), _mean(completions), choices)


def _parts(documents: list[Document], count: Count) -> tuple[list[float], list[float], list[float]]:
    """Tokens of the headers, bodies and completions; parts are tokenized one by one, as in training."""
    return (
        count([document.header for document in documents]),
        count([document.body for document in documents]),
        count([document.completion for document in documents]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class _Split:
    """Some records of a split, how many it has, and of a training set the documents with most characters."""

    sample: tuple[Example, ...]
    n: int
    longest: tuple[Document, ...]


@lru_cache(maxsize=64)
def _read(task: Task, split: str, settings: tuple[tuple[str, Any], ...]) -> _Split:
    data = DataConfig(**dict(settings))
    if task.source is None:  # any number can be made: a few, then
        n = split_size(split, data)
        few: dict[str, Any] = {f"{split}_examples": min(n, SAMPLE)}
        examples = load_split(task, split, dataclasses.replace(data, **few))
    else:
        examples = load_split(task, split, data)
        n = len(examples)
    documents = [task.render(example.record) for example in examples] if split == "train" else []
    long = sorted(documents, key=lambda document: len(document.text), reverse=True)[:LONGEST]
    taken = len(examples)
    sample = tuple(examples[i * taken // min(taken, SAMPLE)] for i in range(min(taken, SAMPLE)))
    return _Split(sample, n, tuple(long))
