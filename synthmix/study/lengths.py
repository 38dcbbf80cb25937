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
    documents = [task.render(example.record) for example in _sample(task, "train", settings)[0]]
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


def _items(task: Task, split: str, settings: tuple[tuple[str, Any], ...], count: Count, context: int) -> Items:
    examples, n = _sample(task, split, settings)
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


@lru_cache(maxsize=64)
def _sample(task: Task, split: str, settings: tuple[tuple[str, Any], ...]) -> tuple[tuple[Example, ...], int]:
    """Some records of a split, and how many it has."""
    data = DataConfig(**dict(settings))
    if task.source is None:  # any number can be made: a few, then
        n = split_size(split, data)
        few: dict[str, Any] = {f"{split}_examples": min(n, SAMPLE)}
        return tuple(load_split(task, split, dataclasses.replace(data, **few))), n
    examples = load_split(task, split, data)
    n = len(examples)
    return tuple(examples[i * n // min(n, SAMPLE)] for i in range(min(n, SAMPLE))), n
