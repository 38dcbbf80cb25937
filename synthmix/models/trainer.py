"""Lightning's Trainer as a cell uses it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import Logger

from synthmix import ranks
from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.config.strategies import is_sharded
from synthmix.models.checkpoints import AtomicCheckpointIO
from synthmix.models.saving import GivenRanks
from synthmix.models.strategies import make_strategy


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning from describing the machine and advertising at every start; warnings still come through."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Our loader resumes in the middle of an epoch, and needs no workers to cut padded rows.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # a cell need not run on SLURM
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
        # our hook leaves the clipping to DeepSpeed; each rank saves its share, as it should
        warnings.filterwarnings("ignore", message=".*Since DeepSpeed handles gradient clipping internally.*")
        warnings.filterwarnings("ignore", message=".*each worker will save a shard of the checkpoint.*")
        # DeepSpeed's, in torch 2.13
        warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated.*", category=FutureWarning)
        # OPT's blocks end with a view, which nobody writes to
        warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module .* returned a view tensor.*")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def make_trainer(
    folder: Path,
    training: TrainingConfig,
    hardware: HardwareConfig,
    accumulation: int,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    log_every_steps: int = 10,
    universal: bool = False,
) -> L.Trainer:
    """A Trainer that does nothing beyond training: no sanity check, no summary, no sampler of its own.

    ``universal`` says that the checkpoint it will load was converted for another number of ranks.
    """
    plugins: list[Any] = [] if is_sharded(hardware) else [AtomicCheckpointIO()]
    several = hardware.devices * hardware.nodes > 1
    if ranks.here().world > 1:
        plugins.append(GivenRanks())
    elif not several:  # whatever job the process is part of
        plugins.append(LightningEnvironment())
    bar = [RichProgressBar(leave=True)] if progress else []
    return L.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=make_strategy(hardware, universal),
        precision=hardware.precision,  # type: ignore[arg-type]
        max_epochs=training.epochs,
        max_steps=-1 if training.max_steps is None else training.max_steps,
        accumulate_grad_batches=accumulation,
        gradient_clip_val=training.gradient_clip or None,
        default_root_dir=folder,
        logger=list(loggers) or False,
        callbacks=[*bar, *callbacks],
        plugins=plugins,
        log_every_n_steps=log_every_steps,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_model_summary=False,
        enable_progress_bar=progress,
    )
