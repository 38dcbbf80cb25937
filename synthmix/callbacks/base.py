"""Hooks of a cell, which go on where Lightning's hooks of a fit end.

A callback here is told when the trained model was evaluated, when its pool was written, and when the cell ends. Those
phases run without a Trainer, on the exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

Log = Callable[[dict[str, float]], None]


@dataclass
class CellContext:
    """What a callback may know of the cell, and where it puts what it finds.

    ``log`` writes numbers to ``metrics.jsonl`` (namespaces ``eval/ calibration/ diversity/ monitoring/ pool/``), ``say``
    a line to the user; ``results`` becomes part of ``result.json``. ``baseline`` and ``parent`` are the results of those
    cells, or None.
    """

    name: str
    hash: str
    group: str
    task: str
    iteration: int
    seed: int
    folder: Path
    log: Log
    say: Callable[[str], None]
    config: dict[str, Any]
    baseline: dict[str, Any] | None = None
    parent: dict[str, Any] | None = None
    results: dict[str, Any] = field(default_factory=dict)


class CellCallback(L.Callback):
    """Does nothing at every hook; subclass and override."""

    def on_cell_evaluated(self, cell: CellContext, split: str, rows: Sequence[dict[str, Any]]) -> None:
        """Called once a split (validation, test) is scored, with one row an item."""

    def on_cell_generated(self, cell: CellContext, texts: Sequence[str], reference: Sequence[str]) -> None:
        """Called once the pool is written, with its texts and the external training texts, both without headers."""

    def on_cell_end(self, cell: CellContext) -> None:
        """Called last, once the cell is done: its result is on the disk."""
