"""Fine-tuning one model with Lightning's Trainer."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, ThroughputMonitor
from lightning.pytorch.loggers import Logger
from transformers import PreTrainedModel

from synthmix import ranks
from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.models.checkpoints import AtomicCheckpointIO, newest_checkpoint, remove_requeue_checkpoints
from synthmix.models.module import CausalLMModule
from synthmix.models.saving import CHECKPOINT_S, GivenRanks, SaveAndStop

# Batches over which ThroughputMonitor averages.
_WINDOW = 20


@dataclass(frozen=True)
class FitResult:
    """What a fit did, over all its attempts: ``seconds`` and ``tokens`` include those before a resume.

    ``tokens`` are tokens of text (no padding); ``finished`` is False if a callback stopped the run early.
    """

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    final_loss: float
    parameters: int
    resumed_from: str | None
    finished: bool


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
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def total_steps(datamodule: MixtureDataModule, training: TrainingConfig) -> int:
    """Optimizer steps of a whole fit."""
    steps = datamodule.steps_per_epoch * training.epochs
    return steps if training.max_steps is None else min(steps, training.max_steps)


def _checkpoints(folder: Path, every_steps: int | None) -> list[Callback]:
    """``checkpoints/last.ckpt`` at the end of every epoch, and every ``every_steps`` optimizer steps."""
    last_only = partial(
        ModelCheckpoint, dirpath=folder / "checkpoints", save_last=True, save_top_k=0, enable_version_counter=False
    )
    callbacks: list[Callback] = [last_only(every_n_epochs=1, save_on_train_epoch_end=True)]
    if every_steps:
        callbacks.append(last_only(every_n_train_steps=every_steps))
    return callbacks


class _Throughput(ThroughputMonitor):
    """Passes over empty micro-batches, which an epoch's short last batch can leave: Lightning's counters must rise."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if len(batch["ids"]):
            super().on_train_batch_end(trainer, module, outputs, batch, *_)


def _throughput() -> ThroughputMonitor:
    # Samples and tokens are counted without padding.
    return _Throughput(
        batch_size_fn=lambda batch: len(batch["ids"]),
        length_fn=lambda batch: batch["text_tokens"],
        window_size=_WINDOW,
    )


def make_trainer(
    folder: Path,
    training: TrainingConfig,
    hardware: HardwareConfig,
    accumulation: int,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    log_every_steps: int = 10,
) -> L.Trainer:
    """A Trainer that does nothing beyond training: no sanity check, no summary, no sampler of its own."""
    plugins: list[Any] = [] if _writes_folders(hardware.strategy) else [AtomicCheckpointIO()]
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
        strategy=("ddp" if several else "auto") if hardware.strategy in ("auto", "ddp") else hardware.strategy,
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


def _writes_folders(strategy: str) -> bool:
    return strategy.startswith(("deepspeed", "fsdp", "model_parallel"))


def fit(
    model: PreTrainedModel | Callable[[], PreTrainedModel],
    datamodule: MixtureDataModule,
    training: TrainingConfig,
    hardware: HardwareConfig,
    folder: Path,
    learning_rate: float,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    checkpoint_every_steps: int | None = None,
    log_every_steps: int = 10,
    checkpoint_every_s: float = CHECKPOINT_S,
) -> FitResult:
    """Trains ``model`` in place, resuming from the newest valid checkpoint in ``folder``.

    In a process that listens to signals (:func:`synthmix.interrupts.install`) a request to stop is met at the end of the
    step that is under way, with a checkpoint.

    Args:
        model: the model, or a function that makes it once the strategy is ready.
        datamodule: the examples; its ``batch_size`` is the optimizer's.
        training, hardware: what to do and what to do it on.
        folder: the cell's folder, of its own: a checkpoint found there is this run's.
        learning_rate: the peak.
        loggers, callbacks: Lightning's or one's own, beside the throughput monitor and the checkpoints.
        progress: show a progress bar.
        checkpoint_every_steps: also write a checkpoint every so many steps; one is written at every epoch's end.
        log_every_steps: optimizer steps between two rows of the log.
        checkpoint_every_s: seconds after which a checkpoint is also written within an epoch.

    Raises:
        Preempted: the process was asked to stop; the next call goes on from here.
        NonFiniteLoss: naming the step and the examples of its batch.
    """
    steps = total_steps(datamodule, training)
    module = CausalLMModule(model, training, learning_rate, steps)
    accumulation = datamodule.accumulation(hardware.devices * hardware.nodes)
    found = ranks.broadcast(newest_checkpoint(folder) if ranks.here().rank == 0 else None)
    saver = SaveAndStop(folder / "checkpoints" / "last.ckpt", steps, checkpoint_every_s)
    monitor = [_throughput()] if loggers else []
    with quiet():
        trainer = make_trainer(
            folder,
            training,
            hardware,
            accumulation,
            loggers,
            [*monitor, *callbacks, saver, *_checkpoints(folder, checkpoint_every_steps)],
            progress,
            log_every_steps,
        )
        started = time.perf_counter()
        module.clock = lambda: time.perf_counter() - started
        _fit(trainer, module, datamodule, found)
    finished = trainer.global_step >= steps
    if finished and trainer.is_global_zero:
        remove_requeue_checkpoints(folder)
    return _result(module, trainer.global_step, found, finished)


def _fit(trainer: L.Trainer, module: CausalLMModule, datamodule: MixtureDataModule, found: Path | None) -> None:
    """``trainer.fit``, in which Ctrl-C is an interrupt like any other.

    Lightning turns it into ``sys.exit(1)`` and leaves SIGINT ignored. Its handler of SIGTERM, which talks to the other
    ranks from wherever a step happens to be, is not put in place: see :class:`SaveAndStop`.
    """
    handler = signal.getsignal(signal.SIGINT)
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=found, weights_only=False)
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from left


def _result(module: CausalLMModule, steps: int, found: Path | None, finished: bool) -> FitResult:
    seconds = module.earlier_seconds + module.clock()
    return FitResult(
        steps=steps,
        tokens=module.tokens_seen,
        seconds=seconds,
        tokens_per_second=module.tokens_seen / seconds,
        final_loss=module.last_loss,
        parameters=sum(p.numel() for p in module.causal_lm.parameters()),
        resumed_from=None if found is None else str(found),
        finished=finished,
    )
