"""The protocol that every task keeps: record -> document, text -> record, prediction -> score.

A *record* is one item as its owner publishes it (a dict of JSON values). A *document* is the text that a model is
trained on: prompt + completion (+ EOS, which the tokenizer adds). Training text, synthetic text and evaluation prompt
all come from :meth:`Task.render`, so they cannot drift apart, and :meth:`Task.parse` is its inverse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from synthmix.errors import DataError

Record = dict[str, Any]
Split = Literal["train", "validation", "test"]
#: How an answer is obtained: by comparing the log-likelihoods of given completions, or by greedy generation.
Answering = Literal["choice", "generation"]


@dataclass(frozen=True)
class Example:
    """One record with the name it has in its data set: ``id`` is unique within (task, split)."""

    id: str
    record: Record


@dataclass(frozen=True)
class Document:
    """Training text in its three parts; ``text`` is their concatenation.

    ``ended`` says that the text is whole, so that training ends it with EOS; a sample that a model was not allowed to
    finish is not. Each part is tokenized by itself, so the tokens of an evaluation prompt (``header + body``) or of
    the generation header are always a prefix of the training tokens. No part is ever stripped.
    """

    header: str
    body: str
    completion: str
    ended: bool = True

    @property
    def prompt(self) -> str:
        """What the model is given when it is asked: everything before the completion."""
        return self.header + self.body

    @property
    def text(self) -> str:
        """The whole training text."""
        return self.header + self.body + self.completion


class Malformed(Exception):
    """Text that is not a document of the task; ``str(error)`` is a short reason, fit for counting."""


@dataclass(frozen=True)
class Source:
    """Where a real data set comes from: a Hub repository, or files under ``$SYNTHMIX_DATA``.

    ``files`` and ``hub_splits`` map a split (train, validation, test) to a file below the data folder, and to the
    Hub's split name. A split that is absent is carved out of train (``validation``) by a keyed draw.
    """

    hub: str
    hub_config: str | None = None
    hub_splits: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What was read from a model's completion.

    ``value`` is compared with the gold answer; None means that nothing could be read, and ``why`` says why.
    ``span`` is the part of the completion (start, end, in characters) that states the answer, for confidences
    that look at the answer alone.
    """

    value: str | None
    why: str = ""
    span: tuple[int, int] | None = None


class Task(ABC):
    """One task of a study. Subclasses are stateless; one file each under ``synthmix/tasks``."""

    #: Name in configurations and directories, e.g. ``gsm8k``.
    name: ClassVar[str]
    #: What the paper calls it (Commonsense, Math, Factual, Reading, Code).
    family: ClassVar[str]
    answering: ClassVar[Answering]
    #: Name of the main score, between 0 and 1: ``accuracy``, ``f1``, ``pass@1``.
    metric: ClassVar[str]
    #: Text that starts every document; ``full`` generation continues it.
    header: ClassVar[str]
    #: Completions end at EOS or before one of these.
    stop: ClassVar[tuple[str, ...]] = ()
    #: Longest completion, and longest whole document, that generation writes (tokens).
    max_new_tokens: ClassVar[int] = 256
    max_document_tokens: ClassVar[int] = 512
    #: True if a completion is a program whose own tests decide; see :meth:`program`.
    executes: ClassVar[bool] = False
    #: Raised when the records or the documents of a seed change: cells of the old ones are then other cells.
    version: ClassVar[int] = 1
    #: None for tasks that make their own records (nano).
    source: ClassVar[Source | None] = None
    #: Field name -> accepted type(s); checked for every record that is read.
    fields: ClassVar[dict[str, type | tuple[type, ...]]] = {}

    # -- records ----------------------------------------------------------------------------------------------------

    def check(self, record: Record, path: str | None = None, line: int | None = None) -> None:
        """Raises :class:`DataError` naming file and line if a field is missing or has a wrong type."""
        for name, types in self.fields.items():
            if name not in record:
                raise DataError(f"field '{name}' is missing; the record has {sorted(record)}", path, line)
            if not isinstance(record[name], types):
                expected = " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))
                given = type(record[name]).__name__
                raise DataError(f"field '{name}' is {given}: {record[name]!r}; expected {expected}", path, line)

    def from_source(self, raw: Record) -> Record:
        """The record as the rest of the code sees it; the owner's layout in, ours out (identity by default)."""
        return raw

    def generate_split(self, split: str, n: int, seed: int, difficulty: float) -> list[Example]:
        """``n`` fresh examples of a split; only for tasks without a :attr:`source`."""
        raise DataError(f"task '{self.name}' reads its records from files or the Hub; it does not make them")

    # -- text -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def render(self, record: Record) -> Document:
        """The training document of a record."""

    @abstractmethod
    def parse(self, text: str) -> Record:
        """Inverse of ``render(record).text``: ``parse(render(r).text) == canonical(r)``.

        Raises:
            Malformed: with a short reason, if ``text`` is not a whole document of this task.
        """

    def canonical(self, record: Record) -> Record:
        """The part of a record that its document states (without ids, annotator notes and the like)."""
        return record

    def question(self, record: Record) -> str:
        """The text by which two records count as the same item (contamination, duplicates)."""
        return self.render(record).prompt

    # -- answers ----------------------------------------------------------------------------------------------------

    def choices(self, record: Record) -> list[str]:
        """The completions to compare (``answering == 'choice'``)."""
        raise TypeError(f"{self.name} is answered by generation")

    @abstractmethod
    def gold(self, record: Record) -> str:
        """The right answer, as it is written to the item table."""

    def extract(self, completion: str, strict: bool = True) -> Answer:
        """The answer stated by a generated completion. ``strict`` wants the task's own marker, otherwise the last
        thing that could be an answer counts."""
        raise TypeError(f"{self.name} is answered by choice")

    def score(self, answer: str | None, record: Record) -> float:
        """Between 0 and 1; 0 for None. By default: equal to the gold answer."""
        return float(answer is not None and answer == self.gold(record))

    def secondary_scores(self, answer: str | None, record: Record) -> dict[str, float]:
        """Scores reported beside the main one, e.g. ``{'em': 1.0}``."""
        return {}

    def program(self, answer: str, record: Record) -> str:
        """The Python program that decides whether ``answer`` is right: it ends normally if and only if every test of
        the record passes (``executes`` tasks; :meth:`score` is then not called)."""
        raise TypeError(f"{self.name} is not scored by running code")

    def steps(self, record: Record) -> int:
        """Number of reasoning steps that a record states (complexity); 1 where the task has no notion of it."""
        return 1
