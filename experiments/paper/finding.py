"""What a finding of the audit is, and how its arithmetic is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One contradiction.

    Attributes:
        name: short and unique; the key in ``audit.json``.
        title: what was found, in one line.
        quotes: the paper's sentences, with their sections.
        arithmetic: Markdown paragraphs and tables: from the published numbers to the result.
        result: what follows, and what does not.
        numbers: every recomputed number.
        figures: stems of the figures that belong to it.
    """

    name: str
    title: str
    quotes: Sequence[str]
    arithmetic: Sequence[str]
    result: str
    numbers: dict[str, Any]
    figures: Sequence[str] = field(default_factory=tuple)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are set right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def signed(value: float, digits: int = 1) -> str:
    """With a real minus sign, and a plus: ``−4.2``, ``+1.0``; zero has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def plain(value: float, digits: int = 1) -> str:
    """With a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")
