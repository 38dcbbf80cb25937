"""What listens to a cell: loggers of calibration and diversity, the early warning, the record of every number, W&B."""

from synthmix.callbacks.base import CellCallback, CellContext
from synthmix.callbacks.calibration import CalibrationLogger
from synthmix.callbacks.diversity import DiversityLogger
from synthmix.callbacks.early_warning import Alert, EarlyWarning
from synthmix.callbacks.jsonl import JsonlLogger
from synthmix.callbacks.progress import StepProgress
from synthmix.callbacks.wandb import WandbReplay

__all__ = [
    "Alert",
    "CalibrationLogger",
    "CellCallback",
    "CellContext",
    "DiversityLogger",
    "EarlyWarning",
    "JsonlLogger",
    "StepProgress",
    "WandbReplay",
]
