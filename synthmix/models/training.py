"""Fine-tuning one model with Lightning's Trainer."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ThroughputMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus
from transformers import PreTrainedModel

from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.models.checkpoints import remove_requeue_checkpoints
from synthmix.models.export import write_weights
from synthmix.models.module import CausalLMModule
from synthmix.models.resuming import Source, find_source
from synthmix.models.saving import CHECKPOINT_S, SaveAndStop
from synthmix.models.strategies import kept_environment, numel
from synthmix.models.trainer import make_trainer, quiet

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


def total_steps(datamodule: MixtureDataModule, training: TrainingConfig) -> int:
    """Optimizer steps of a whole fit."""
    steps = datamodule.steps_per_epoch * training.epochs
    return steps if training.max_steps is None else min(steps, training.max_steps)


def _checkpoints(folder: Path, every_steps: int | None) -> list[Callback]:
    """``checkpoints/last.ckpt`` at the end of every epoch, and every ``every_steps`` optimizer steps."""
    # save_last with save_top_k=0 would write at the end of the whole fit alone (Lightning 2.6)
    last_only = partial(
        ModelCheckpoint, dirpath=folder / "checkpoints", filename="last", save_top_k=1, enable_version_counter=False
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
    weights: Path | None = None,
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
        weights: a folder that gets the trained model, while the ranks still hold their shares of it; a sharded
            strategy leaves nothing else behind.

    Raises:
        Preempted: the process was asked to stop; the next call goes on from here.
        NonFiniteLoss: naming the step and the examples of its batch.
        UserError: a checkpoint of another strategy is there, or the strategy needs what is not installed.
    """
    steps = total_steps(datamodule, training)
    module = CausalLMModule(model, training, learning_rate, steps, hardware)
    accumulation = datamodule.accumulation(hardware.devices * hardware.nodes)
    found = find_source(folder, hardware)
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
            universal=found.converted,
        )
        started = time.perf_counter()
        module.clock = lambda: time.perf_counter() - started
        try:
            with kept_environment():
                _fit(trainer, module, datamodule, found, lambda: _leave(trainer, module, steps, weights))
        finally:
            found.discard()
    finished = trainer.global_step >= steps
    if finished and trainer.is_global_zero:
        remove_requeue_checkpoints(folder)
    return _result(module, trainer.global_step, found, finished)


def _leave(trainer: L.Trainer, module: CausalLMModule, steps: int, weights: Path | None) -> None:
    """What is done between the last step and Lightning's clearing up."""
    if trainer.state.status == TrainerStatus.RUNNING and trainer.global_step >= steps and weights is not None:
        write_weights(module.causal_lm, weights)
    # Lightning would move it to the host's memory, where nobody looks at it.
    for optimizer in trainer.optimizers:
        optimizer.state.clear()


def _fit(
    trainer: L.Trainer,
    module: CausalLMModule,
    datamodule: MixtureDataModule,
    found: Source,
    leave: Callable[[], None],
) -> None:
    """``trainer.fit``, in which Ctrl-C is an interrupt like any other.

    Lightning turns it into ``sys.exit(1)`` and leaves SIGINT ignored. Its handler of SIGTERM, which talks to the other
    ranks from wherever a step happens to be, is not put in place: see :class:`SaveAndStop`.
    """
    handler = signal.getsignal(signal.SIGINT)
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    teardown = trainer.strategy.teardown

    def end() -> None:
        leave()
        teardown()

    trainer.strategy.teardown = end  # type: ignore[method-assign]
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=found.path, weights_only=False)
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from left


def _result(module: CausalLMModule, steps: int, found: Source, finished: bool) -> FitResult:
    seconds = module.earlier_seconds + module.clock()
    return FitResult(
        steps=steps,
        tokens=module.tokens_seen,
        seconds=seconds,
        tokens_per_second=module.tokens_seen / seconds,
        final_loss=module.last_loss,
        parameters=sum(numel(p) for p in module.causal_lm.parameters()),
        resumed_from=None if found.checkpoint is None else str(found.checkpoint),
        finished=finished,
    )
