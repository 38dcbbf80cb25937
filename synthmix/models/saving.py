"""When a fit saves beside its epochs' ends, and how it ends when its process is asked to; who its ranks are."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.callbacks import Callback

from synthmix import interrupts, ranks
from synthmix.data.batching import MicroBatch

#: Seconds of training that a kill without warning may cost where epochs are long.
CHECKPOINT_S = 1800.0
_DUE = 1


class SaveAndStop(Callback):
    """Writes a checkpoint between two optimizer steps: every so often, and once a rank was asked to stop.

    Ranks agree after each step. The fit ends before the next one, when everything about the last is logged; after the
    last step of all there is nothing left to save here.

    Args:
        path: the checkpoint, replaced each time.
        steps: optimizer steps of the whole fit.
        every_s: seconds between two checkpoints.
    """

    def __init__(self, path: Path, steps: int, every_s: float = CHECKPOINT_S) -> None:
        self.path, self.steps, self.every_s = path, steps, every_s
        self._saved, self._stops = time.monotonic(), False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._saved = time.monotonic()
        if self._agree() > _DUE:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: MicroBatch, batch_idx: int
    ) -> None:
        if not batch["last"] or trainer.global_step >= self.steps:
            return
        agreed = self._agree()
        if agreed:
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        self._stops = agreed > _DUE

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if self._stops:
            self._stop(trainer)

    def _agree(self) -> int:
        """What the ranks come to: the signal's number, :data:`_DUE` if rank 0's time is over, or 0."""
        mine = interrupts.asked()
        due = ranks.here().rank == 0 and time.monotonic() - self._saved >= self.every_s
        agreed = ranks.highest(int(mine) if mine is not None else _DUE if due else 0)
        if agreed > _DUE:
            interrupts.note(agreed)
        return agreed

    def _stop(self, trainer: L.Trainer) -> None:
        interrupts.check(f"training at step {trainer.global_step} of {self.steps}")


class GivenRanks(ClusterEnvironment):
    """The ranks that :mod:`synthmix.ranks` found, whoever started them: Lightning neither starts nor counts any."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "29500"))

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return ranks.here().world

    def set_world_size(self, size: int) -> None:
        assert size == self.world_size(), f"Lightning counts {size} ranks of {self.world_size()}"

    def global_rank(self) -> int:
        return ranks.here().rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.global_rank(), f"Lightning takes rank {self.global_rank()} for {rank}"

    def local_rank(self) -> int:
        return ranks.here().local

    def node_rank(self) -> int:
        return ranks.here().node
