"""Early warning: the validation ECE against that of the phase 0 baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from synthmix.callbacks.base import CellCallback, CellContext
from synthmix.config import MonitoringConfig

LEVELS = ("none", "warning", "critical")


@dataclass(frozen=True)
class Alert:
    """What a cell's calibration says about the next iteration.

    ``ece_rise`` is relative to the baseline (0.5: half as much again; None where there is no baseline, or its ECE is
    0). ``factor`` is what the next iteration's proportion is multiplied by, over the whole chain so far; ``halted``
    ends the chain.
    """

    level: str
    ece_rise: float | None
    factor: float = 1.0
    halted: bool = False


class EarlyWarning(CellCallback):
    """Compares validation ECE with the baseline's (paper 2510.05133, section 4.4: +50 % warns, +100 % is critical).

    Whether this signal forecasts a loss of accuracy is what a study finds out: the thresholds are the paper's, not ours.
    """

    def __init__(self, config: MonitoringConfig) -> None:
        self.config = config

    def judge(self, ece: float, baseline: float | None) -> tuple[str, float | None]:
        """Level and relative rise for an ECE, given the baseline's."""
        if not baseline:
            return "none", None
        rise = ece / baseline - 1
        critical, warning = rise > self.config.critical, rise > self.config.warning
        return ("critical" if critical else "warning" if warning else "none"), rise

    def on_cell_evaluated(self, cell: CellContext, split: str, rows: Sequence[dict[str, Any]]) -> None:
        if split != "validation":
            return
        baseline = cell.baseline["validation"]["ece"] if cell.baseline else None
        level, rise = self.judge(cell.results["validation"]["ece"], baseline)
        factor = cell.parent["alert"]["factor"] if cell.parent else 1.0
        critical = level == "critical"
        if critical and self.config.action == "reduce":
            factor *= self.config.reduce_to
        alert = Alert(level, rise, factor, halted=critical and self.config.action == "halt")
        cell.results["alert"] = asdict(alert)
        cell.log({"monitoring/alert": float(LEVELS.index(level)), "monitoring/ece_rise": rise or 0.0})
