"""``metrics.jsonl``: every logged number of a cell, and the only record of it."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from synthmix.files import append_jsonl, cut_torn_line


class JsonlLogger(Logger):
    """Appends one line a call: ``{"time", "phase", "iteration", "step", <name>: <value>}``.

    After a resume a step may stand there twice; the later line is the one that counts.
    """

    def __init__(self, path: Path, iteration: int) -> None:
        super().__init__()
        self.path, self.iteration = path, iteration
        cut_torn_line(path)

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.write("train", metrics, step)

    def write(self, phase: str, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends numbers of a phase (``train``, ``evaluate``, ``generate``)."""
        line = {"time": round(time.time(), 3), "phase": phase, "iteration": self.iteration, "step": step}
        append_jsonl(self.path, line | {name: float(value) for name, value in metrics.items()})
