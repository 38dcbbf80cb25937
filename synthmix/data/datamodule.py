"""The LightningDataModule of a cell: its mixture, encoded, in the order of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lightning as L
import numpy as np

from synthmix.data.batching import BatchLoader, Loss, micro_batches_per_step
from synthmix.data.encoding import Encoded
from synthmix.errors import UserError


class MixtureDataModule(L.LightningDataModule):
    """Feeds a Trainer with the micro-batches of :class:`~synthmix.data.batching.BatchLoader`.

    Rank and world size come from the Trainer, which must be made with ``use_distributed_sampler=False``: the order of
    the examples is part of the experiment and Lightning must not replace it.

    Args:
        encoded: the training documents, by slot.
        epoch_order: epoch -> slots in the order in which they are seen.
        batch_size: examples an optimizer step sees, over all ranks.
        micro_batch: the most examples a rank takes at once.
        loss: tokens that the loss covers.
        names: names of the slots, for messages.
        padding_free: documents end to end instead of in padded rows.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        epoch_order: Callable[[int], np.ndarray],
        batch_size: int = 32,
        micro_batch: int = 32,
        loss: Loss = "document",
        names: Sequence[str] | None = None,
        padding_free: bool = False,
    ) -> None:
        super().__init__()
        if not encoded:
            raise UserError("the training set is empty; data.train_examples and the mixture must leave some examples")
        self.encoded, self.epoch_order, self.names = encoded, epoch_order, names
        self.batch_size, self.micro_batch = batch_size, micro_batch
        self.loss: Loss = loss
        self.padding_free = padding_free

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last batch may be smaller."""
        return -(-len(self.encoded) // self.batch_size)

    def accumulation(self, world_size: int) -> int:
        """Micro-batches that each of ``world_size`` ranks accumulates for a step (``accumulate_grad_batches``)."""
        return micro_batches_per_step(self.batch_size, self.micro_batch, world_size)

    def examples(self, step: int) -> list[str]:
        """Names of the examples that an optimizer step sees, on all ranks; ``step`` counts from 0 over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        slots = self.epoch_order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        return [str(slot) if self.names is None else self.names[slot] for slot in slots]

    def loader(self, rank: int = 0, world_size: int = 1, prefetch: bool = False) -> BatchLoader:
        """The micro-batches of one rank; ``prefetch`` makes them in a thread, for a device that is not to wait."""
        return BatchLoader(
            self.encoded,
            self.epoch_order,
            self.batch_size,
            self.micro_batch,
            rank,
            world_size,
            self.loss,
            self.names,
            self.padding_free,
            prefetch,
        )

    def train_dataloader(self) -> BatchLoader:
        if self.trainer is None:
            return self.loader()
        # on a CPU the thread would take the time that it saves
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return self.loader(self.trainer.global_rank, self.trainer.world_size, prefetch=on_gpu)
