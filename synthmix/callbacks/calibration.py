"""Calibration of every evaluated split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from synthmix.callbacks.base import CellCallback, CellContext
from synthmix.evaluation.summary import summarize
from synthmix.metrics import BrierScore, ExpectedCalibrationError, OverconfidenceGap

#: Which numbers of a summary are about calibration; the others are logged under ``eval/``.
_CALIBRATION = ("ece", "overconfidence", "brier", "confidence")


class CalibrationLogger(CellCallback):
    """Logs ``calibration/*`` and ``eval/*`` of every split that a cell evaluates.

    In any other Trainer it reads ``{"confidence": (N,), "correct": (N,)}`` from the outputs of ``validation_step`` and
    logs ``calibration/ece``, ``calibration/overconfidence`` and ``calibration/brier`` at the end of the epoch.

    Args:
        bins: equal-width bins of the ECE (paper 2510.05133: ten).
    """

    def __init__(self, bins: int = 10) -> None:
        self.bins = bins
        self.metrics = {
            "ece": ExpectedCalibrationError(n_bins=bins),
            "overconfidence": OverconfidenceGap(),
            "brier": BrierScore(),
        }
        self._seen = False

    def on_cell_evaluated(self, cell: CellContext, split: str, rows: Sequence[dict[str, Any]]) -> None:
        summary = summarize(rows, self.bins)
        cell.results[split] = summary
        named = {}
        for name, value in summary.items():
            space = "calibration" if name.startswith(_CALIBRATION) else "eval"
            named[f"{space}/{split}_{name}"] = value
        cell.log(named)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = False
        for metric in self.metrics.values():
            metric.reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if not isinstance(outputs, dict) or not {"confidence", "correct"} <= set(outputs):
            return
        self._seen = True
        for metric in self.metrics.values():
            metric.update(torch.as_tensor(outputs["confidence"]).cpu(), torch.as_tensor(outputs["correct"]).cpu())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._seen:
            for name, metric in self.metrics.items():
                pl_module.log(f"calibration/{name}", metric.compute())
