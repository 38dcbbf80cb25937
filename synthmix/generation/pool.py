"""A pool of synthetic examples: written one line an attempt, in order, and continued where it stopped.

Attempt i depends on (pool, i) alone, so a pool that is continued, or made longer for another study, is the same pool;
a smaller share of it is a prefix of a larger one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synthmix.files import append_jsonl, cut_torn_line, read_jsonl_prefix, write_atomic
from synthmix.generation.engine import Completion, Generator
from synthmix.generation.prompts import PromptWriter
from synthmix.generation.sampling import Sampling
from synthmix.metrics.overlap import OverlapIndex, normalize_question
from synthmix.tasks import Malformed, Task

#: Attempts asked of the engine at a time: enough to fill it, few enough that little is thrown away at the end.
CHUNK = 512


@dataclass(frozen=True)
class Sample:
    """One attempt, as it stands in ``synthetic.jsonl``.

    ``copies`` and ``overlap`` name the splits (train, test) with which the sample shares its question, or a 13-gram.
    """

    id: str
    index: int
    text: str
    stop: str
    tokens: int
    logprob_mean: float
    wellformed: bool
    why: str
    copies: list[str]
    overlap: list[str]
    kept: bool
    dropped: str
    prefix: int = 0  #: characters of ``text`` that the model did not write
    record: dict[str, Any] | None = field(default=None)


@dataclass
class PoolStats:
    """What a pool cost and holds; ``capped`` says that the cap on attempts ended it before it held ``wanted`` samples,
    which is what its study needed of it."""

    tries: int = 0
    kept: int = 0
    malformed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    overlap: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    capped: bool = False
    wanted: int = 0

    def add(self, sample: Sample) -> None:
        self.tries += 1
        self.tokens += sample.tokens
        self.kept += sample.kept
        self.malformed += not sample.wellformed
        self.dropped.update([sample.dropped] if sample.dropped else [])
        self.reasons.update([sample.why] if sample.why else [])
        self.copies.update(sample.copies)
        self.overlap.update(sample.overlap)

    def to_dict(self) -> dict[str, Any]:
        wellformed = 1 - self.malformed / self.tries if self.tries else 0.0
        return {
            "tries": self.tries,
            "kept": self.kept,
            "malformed": self.malformed,
            "wellformed_rate": wellformed,
            "dropped": dict(self.dropped),
            "reasons": dict(self.reasons),
            "copies_train": self.copies["train"],
            "copies_test": self.copies["test"],
            "overlap_train": self.overlap["train"],
            "overlap_test": self.overlap["test"],
            "tokens": self.tokens,
            "capped": self.capped,
            "wanted": self.wanted,
        }


class Pool:
    """The synthetic examples of one cell, in ``folder/synthetic.jsonl``.

    Args:
        folder: the cell's folder.
        task: the task whose documents are written.
        filter: ``none`` (malformed text stays, as raw text), ``wellformed``, or ``dedup`` (well-formed, and no
            question twice).
        train, test: overlap indices of the external training set and of the test set.
    """

    def __init__(self, folder: Path, task: Task, filter: str, train: OverlapIndex, test: OverlapIndex) -> None:
        self.path = folder / "synthetic.jsonl"
        self.task, self.filter = task, filter
        self.indices = {"train": train, "test": test}
        cut_torn_line(self.path)
        self.samples = [Sample(**line) for line in read_jsonl_prefix(self.path)]
        self.stats = PoolStats()
        self._seen: set[str] = set()
        for sample in self.samples:
            self._count(sample)

    def _count(self, sample: Sample) -> None:
        self.stats.add(sample)
        if sample.kept and sample.record is not None:
            self._seen.add(normalize_question(self.task.question(sample.record)))

    def extend(
        self,
        wanted: int,
        max_tries: float,
        generator: Generator,
        prompts: PromptWriter,
        sampling: Sampling,
        advance: Callable[[int], None] = lambda kept: None,
    ) -> None:
        """Writes attempts until ``wanted`` samples are kept or ``max_tries`` times as many attempts are made.

        The cap matters: on a collapsed model a filter may never let enough through.
        """
        cap = int(max_tries * wanted)
        while self.stats.kept < wanted and self.stats.tries < cap:
            missing, start = wanted - self.stats.kept, self.stats.tries
            # a filter that lets half through needs twice as many attempts
            rate = max(self.stats.kept / start, 0.1) if start else 1.0
            count = min(max(int(missing / rate) + 1 if start else missing, 1), CHUNK, cap - start)
            requests = [prompts.request(start + i) for i in range(count)]
            for completion in _in_order(generator.generate(requests, sampling), requests_start=start):
                if self.stats.kept >= wanted:
                    break
                self._append(self._read(completion, prompts))
                advance(self.stats.kept)
        self.stats.capped, self.stats.wanted = self.stats.kept < wanted, wanted

    def _append(self, sample: Sample) -> None:
        append_jsonl(self.path, asdict(sample))
        self.samples.append(sample)
        self._count(sample)

    def _read(self, completion: Completion, prompts: PromptWriter) -> Sample:
        index = int(completion.id.rpartition(":")[2])
        prefix = prompts.prefix(index)
        text = prefix + completion.text
        record, why = self._parse(text, completion.stop_reason)
        dropped = self._drop(record, why)
        question = self.task.question(record) if record is not None else None
        emitted = completion.logprobs
        return Sample(
            id=completion.id,
            index=index,
            text=text,
            stop=completion.stop_reason,
            tokens=len(completion.token_ids),
            logprob_mean=sum(emitted) / len(emitted) if emitted else 0.0,
            wellformed=record is not None,
            why=why,
            copies=self._splits(lambda known: question is not None and known.has_question(question)),
            overlap=self._splits(lambda known: known.shared_ngram(text[len(self.task.header) :]) is not None),
            kept=not dropped,
            dropped=dropped,
            prefix=len(prefix),
            record=record,
        )

    def _parse(self, text: str, stop: str) -> tuple[dict[str, Any] | None, str]:
        if stop == "length":
            return None, "no end of text"
        try:
            return self.task.parse(text), ""
        except Malformed as error:
            return None, str(error)

    def _drop(self, record: dict[str, Any] | None, why: str) -> str:
        if self.filter == "none":
            return ""
        if record is None:
            return why
        if self.filter == "dedup" and normalize_question(self.task.question(record)) in self._seen:
            return "duplicate question"
        return ""

    def _splits(self, matches: Callable[[OverlapIndex], bool]) -> list[str]:
        return [split for split, known in self.indices.items() if matches(known)]

    def kept(self) -> list[Sample]:
        """The samples that are part of the pool; a mixture takes the first n of them."""
        return [sample for sample in self.samples if sample.kept]


def _in_order(completions: Iterator[Completion], requests_start: int) -> Iterator[Completion]:
    """Completions by index: they finish in any order, but the pool is written in one."""
    waiting: dict[int, Completion] = {}
    due = requests_start
    for completion in completions:
        waiting[int(completion.id.rpartition(":")[2])] = completion
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def read_pool(folder: Path) -> list[Sample]:
    """The kept samples of a finished cell, without its overlap indices."""
    samples = [Sample(**line) for line in read_jsonl_prefix(folder / "synthetic.jsonl")]
    return [sample for sample in samples if sample.kept]


def write_data_card(folder: Path, task: Task, config: dict[str, Any], stats: PoolStats) -> None:
    """``synthetic.md``: what the pool is, how it was made, and what is known to be wrong with it."""
    lines = [
        f"# Synthetic examples for {task.name}",
        "",
        "Written by the model in `model/`; not human data. One JSON object a line in `synthetic.jsonl`, every attempt",
        "in order; `kept` says whether it is part of the pool, `dropped` and `why` say what was wrong with it.",
        "",
        "## How it was made",
        "",
        *[f"- {name}: {value}" for name, value in config.items()],
        "",
        "## What it holds",
        "",
        "```json",
        json.dumps(stats.to_dict(), indent=2),
        "```",
        "",
    ]
    write_atomic(folder / "synthetic.md", "\n".join(lines))
