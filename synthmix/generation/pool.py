"""A pool of synthetic examples: written one line an attempt, in order, and continued where it stopped.

Attempt i depends on (pool, i) alone, so a pool that is continued, or made longer for another study, is the same pool;
a smaller share of it is a prefix of a larger one. Filters keep to that: see :class:`Filter`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from synthmix.files import append_jsonl, cut_torn_line, read_jsonl_prefix, write_atomic
from synthmix.generation.backends import backend_version
from synthmix.generation.engine import Completion, Writer
from synthmix.generation.prompts import PromptWriter
from synthmix.generation.sampling import Sampling
from synthmix.metrics.overlap import OverlapIndex
from synthmix.tasks import Malformed, Task

#: Attempts asked of the engine at a time: enough to fill it, few enough that little is thrown away at the end.
CHUNK = 512
#: Attempts judged at a time where a filter wants verdicts: programs share a server, questions a batch.
JUDGED = 64


@dataclass(frozen=True)
class Sample:
    """One attempt, as it stands in ``synthetic.jsonl``.

    ``copies`` and ``overlap`` name the splits (train, test) with which the sample shares its question, or a 13-gram.
    ``verdict`` says whether it holds (``""``) or what is wrong; None where nobody looked. ``filter_tokens`` were
    written to find that out, on top of its own ``tokens``.
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
    verdict: str | None = None
    filter_tokens: int = 0


#: ``(verdict, tokens written to find it)`` of each sample; a verdict is None for malformed text.
Judge = Callable[[Sequence[Sample]], Sequence[tuple[str | None, int]]]


class Filter(ABC):
    """Says which attempts become part of a pool.

    A filter goes over the attempts in order, a block at a time, and decides on a block from what stands in it and in
    the blocks before. So its decisions do not depend on where a pool was interrupted or how long it will get: a longer
    pool begins with the shorter one. Nothing else is looked at: verdicts are part of a sample, and so of the file.
    """

    #: Attempts decided together; a block starts at a multiple of it. Only whole blocks are decided.
    block: int = 1
    #: Whether samples need a verdict before they are decided.
    judged: bool = False

    @abstractmethod
    def decide(self, block: Sequence[Sample]) -> list[str]:
        """Why each sample of the next block is dropped; an empty string keeps it."""

    def remember(self, block: Sequence[Sample]) -> None:  # noqa: B027 - most filters have no memory
        """Takes note of a decided block, the next one in order, for the decisions that follow."""


@dataclass
class PoolStats:
    """What a pool cost and holds; ``capped`` says that the cap on attempts ended it before it held ``wanted`` samples,
    which is what its study needed of it. Tokens are those of the attempts, ``filter_tokens`` what their verdicts cost on
    top; ``verified`` of ``judged`` samples were found to hold."""

    tries: int = 0
    kept: int = 0
    malformed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    overlap: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    filter_tokens: int = 0
    judged: int = 0
    verified: int = 0
    capped: bool = False
    wanted: int = 0

    def add(self, sample: Sample) -> None:
        self.tries += 1
        self.tokens += sample.tokens
        self.filter_tokens += sample.filter_tokens
        self.kept += sample.kept
        self.malformed += not sample.wellformed
        self.judged += sample.verdict is not None
        self.verified += sample.verdict == ""
        self.dropped.update([sample.dropped] if sample.dropped else [])
        self.reasons.update([sample.why] if sample.why else [])
        self.copies.update(sample.copies)
        self.overlap.update(sample.overlap)

    def to_dict(self) -> dict[str, Any]:
        """``tokens_per_kept`` counts both kinds of tokens; None where nothing was kept."""
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
            "filter_tokens": self.filter_tokens,
            "tokens_per_kept": (self.tokens + self.filter_tokens) / self.kept if self.kept else None,
            "judged": self.judged,
            "verified": self.verified,
            "capped": self.capped,
            "wanted": self.wanted,
        }


class Pool:
    """The synthetic examples of one cell, in ``folder/synthetic.jsonl``.

    Args:
        folder: the cell's folder.
        task: the task whose documents are written.
        filter: says which of them are kept; see :mod:`synthmix.generation.filters`.
        train, test: overlap indices of the external training set and of the test set.
    """

    def __init__(self, folder: Path, task: Task, filter: Filter, train: OverlapIndex, test: OverlapIndex) -> None:
        self.path = folder / "synthetic.jsonl"
        self.task, self.filter = task, filter
        self.indices = {"train": train, "test": test}
        cut_torn_line(self.path)
        self.samples = [Sample(**line) for line in read_jsonl_prefix(self.path)]
        self._cut_begun_block()
        self.stats = PoolStats()
        for sample in self.samples:
            self.stats.add(sample)
        for start in range(0, len(self.samples), filter.block):
            filter.remember(self.samples[start : start + filter.block])

    def _cut_begun_block(self) -> None:
        """Takes back a block that a killed process had begun to write: it is decided, and written, as a whole."""
        begun = len(self.samples) % self.filter.block
        if begun:
            self.samples = self.samples[:-begun]
            lines = self.path.read_bytes().splitlines(keepends=True)
            os.truncate(self.path, sum(map(len, lines[: len(self.samples)])))

    def suffices(self, wanted: int) -> bool:
        """Whether ``wanted`` samples are kept."""
        return self.stats.kept >= wanted

    def extend(
        self,
        wanted: int,
        max_tries: float,
        generator: Writer,
        prompts: PromptWriter,
        sampling: Sampling,
        judge: Judge | None = None,
        advance: Callable[[int], None] = lambda kept: None,
        chunk: int = CHUNK,
    ) -> None:
        """Writes attempts until ``wanted`` samples are kept or ``max_tries`` times as many attempts are made, in whole
        blocks.

        The cap matters: on a collapsed model a filter may never let enough through. ``judge`` is needed by filters that
        want verdicts. ``chunk`` attempts are asked of the generator at a time.
        """
        assert judge is not None or not self.filter.judged, "this filter wants verdicts"
        cap = self._up(int(max_tries * wanted))
        while not self.suffices(wanted) and self.stats.tries < cap:
            start, end = self.stats.tries, self._end(wanted, cap, chunk)
            completions = generator.generate([prompts.request(i) for i in range(start, end)], sampling)
            attempts = (self._read(c, prompts) for c in _in_order(completions, requests_start=start))
            for block in self._blocks(attempts, judge):
                if self.suffices(wanted):
                    break
                self._write(block)
                advance(min(self.stats.kept, wanted))
        self.stats.capped, self.stats.wanted = self.stats.kept < wanted, wanted

    def _up(self, attempts: int) -> int:
        return -(-attempts // self.filter.block) * self.filter.block

    def _end(self, wanted: int, cap: int, chunk: int) -> int:
        """The attempt before which the next request to the engine ends."""
        missing, start = wanted - self.stats.kept, self.stats.tries
        # a filter that lets half through needs twice as many attempts
        rate = max(self.stats.kept / start, 0.1) if start else 1.0
        count = min(max(int(missing / rate) + 1 if start else missing, 1), chunk)
        return min(self._up(start + count), cap)

    def _blocks(self, attempts: Iterable[Sample], judge: Judge | None) -> Iterator[list[Sample]]:
        """New attempts, judged, in lists that are decided together."""
        waiting: list[Sample] = []
        together = self.filter.block if self.filter.block > 1 else JUDGED if self.filter.judged else 1
        for attempt in attempts:
            waiting.append(attempt)
            if len(waiting) == together:
                yield from self._decidable(waiting, judge)
                waiting = []
        if waiting:
            yield from self._decidable(waiting, judge)

    def _decidable(self, attempts: list[Sample], judge: Judge | None) -> Iterator[list[Sample]]:
        if self.filter.judged and judge is not None:
            verdicts = judge(attempts)
            attempts = [
                replace(attempt, verdict=verdict, filter_tokens=tokens)
                for attempt, (verdict, tokens) in zip(attempts, verdicts, strict=True)
            ]
        if self.filter.block > 1:
            yield attempts
        else:
            yield from ([attempt] for attempt in attempts)

    def _write(self, block: list[Sample]) -> None:
        decided = [
            replace(sample, kept=not why, dropped=why)
            for sample, why in zip(block, self.filter.decide(block), strict=True)
        ]
        for sample in decided:
            append_jsonl(self.path, asdict(sample))
            self.samples.append(sample)
            self.stats.add(sample)
        self.filter.remember(decided)

    def _read(self, completion: Completion, prompts: PromptWriter) -> Sample:
        """An attempt, not yet decided."""
        index = int(completion.id.rpartition(":")[2])
        prefix = prompts.prefix(index)
        text = prefix + completion.text
        record, why = self._parse(text, completion.stop_reason)
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
            kept=False,
            dropped="",
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


def write_data_card(folder: Path, task: Task, config: dict[str, Any], told: dict[str, Any]) -> None:
    """``synthetic.md``: what the pool is, how it was made (``config``), and its numbers (``told``, as in ``pool.json``),
    levers included."""
    lines = [
        f"# Synthetic examples for {task.name}",
        "",
        "Written by the model in `model/`; not human data. One JSON object a line in `synthetic.jsonl`, every attempt",
        "in order; `kept` says whether it is part of the pool, `dropped` and `why` say what was wrong with it.",
        "",
        "## How it was made",
        "",
        *[f"- {name}: {backend_version(value) if name == 'backend' else value}" for name, value in config.items()],
        "",
        "## What it holds",
        "",
        "```json",
        json.dumps(told, indent=2),
        "```",
        "",
    ]
    write_atomic(folder / "synthetic.md", "\n".join(lines))
