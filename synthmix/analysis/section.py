"""A part of the report that answers one question: sentences, figures, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthmix.analysis.drawing import Figure
from synthmix.analysis.printing import Table


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        name: short and unique; the anchor on the page.
        title: the heading.
        sentences: what was found, and what this part cannot say; each computed from the data.
        figures, tables: in the order in which they are printed.
    """

    name: str
    title: str
    sentences: Sequence[str]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
