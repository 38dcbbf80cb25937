"""Training progress for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L


class StepProgress(L.Callback):
    """Calls ``advance(optimizer steps done)`` after each step.

    Beside Lightning's RichProgressBar because several cells of one machine share one display, which Lightning's does
    not allow.
    """

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.advance(trainer.global_step)
