"""Diversity of every pool, at a fixed number of texts."""

from __future__ import annotations

from collections.abc import Sequence

from synthmix.callbacks.base import CellCallback, CellContext
from synthmix.metrics import diversity_report


class DiversityLogger(CellCallback):
    """Logs ``diversity/*`` of the texts that a cell's model writes.

    Self-BLEU grows and distinct-n falls with the number of texts, so all cells are measured on the same number: the
    first ``n`` of the pool, which every cell writes.

    Args:
        n: texts measured.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def on_cell_generated(self, cell: CellContext, texts: Sequence[str], reference: Sequence[str]) -> None:
        measured = list(texts[: self.n])
        if not measured:
            return
        report = diversity_report(measured, list(reference), len(measured))
        cell.results["diversity"] = report
        cell.log({f"diversity/{name}": value for name, value in report.items()})
