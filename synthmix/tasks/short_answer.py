"""What question answering with short free answers shares: one line to read, token F1 and exact match to score it."""

from __future__ import annotations

from typing import ClassVar

from synthmix.metrics.answers import exact_match, token_f1
from synthmix.tasks.base import Answer, Answering, Record, Task


def first_line(completion: str) -> Answer:
    """The first line of a completion without surrounding blanks, with its place; no value if there is nothing on it."""
    line = completion.split("\n", 1)[0]
    value = line.strip()
    if not value:
        return Answer(None, "empty answer")
    start = line.index(value)
    return Answer(value, span=(start, start + len(value)))


class ShortAnswerTask(Task):
    """Greedy generation up to the end of the line, against one gold answer (``record["answer"]``).

    The score is SQuAD's token F1; ``em`` (exact match after the official normalisation) stands beside it. Where the
    gold answer is empty, both are 1 for an abstention and 0 for anything else, as in SQuAD 2.0's official script.
    """

    answering: ClassVar[Answering] = "generation"
    metric: ClassVar[str] = "f1"
    stop: ClassVar[tuple[str, ...]] = ("\n",)

    def gold(self, record: Record) -> str:
        return str(record["answer"])

    def extract(self, completion: str, strict: bool = True) -> Answer:
        """The first line; there is no marker, so strict and flexible agree."""
        return first_line(completion)

    def score(self, answer: str | None, record: Record) -> float:
        return 0.0 if answer is None else float(token_f1(answer, [self.gold(record)]))

    def secondary_scores(self, answer: str | None, record: Record) -> dict[str, float]:
        return {"em": 0.0 if answer is None else float(exact_match(answer, [self.gold(record)]))}
