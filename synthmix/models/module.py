"""The LightningModule around a causal LM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, get_scheduler

from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.config.strategies import zero_stage
from synthmix.data.batching import MicroBatch
from synthmix.data.datamodule import MixtureDataModule
from synthmix.errors import CellError
from synthmix.models.checkpoints import align
from synthmix.models.kernels import apply_speed
from synthmix.models.loss import causal_lm_loss
from synthmix.models.strategies import dimensions, make_optimizer, numel, restore_precision, shard

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


class NonFiniteLoss(CellError):
    """The loss or its gradient became infinite or NaN; names the step and the examples of the batch."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for AdamW: matrices decay, biases and norms (one dimension or none) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if dimensions(p) >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if dimensions(p) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def flops_per_token(model: PreTrainedModel, context: float) -> float:
    """Floating-point operations of forward and backward for one token among ``context``.

    6 for each parameter in a matrix product and 12 · layers · width · context for attention (Chowdhery et al. 2022,
    appendix B). Input embeddings that are not also the head are looked up, not multiplied.
    """
    parameters = sum(numel(p) for p in model.parameters())
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if embeddings is not head:
        parameters -= numel(cast(Tensor, embeddings))
    config = model.config
    return 6.0 * parameters + 12.0 * config.num_hidden_layers * config.hidden_size * context


class CausalLMModule(L.LightningModule):
    """Fine-tunes a causal LM on :data:`~synthmix.data.batching.MicroBatch` es.

    The loss of an optimizer step is the mean over all label tokens of its batch, over all micro-batches and ranks.
    Logs, once a batch: ``train/loss``, ``train/lr``, ``train/grad_norm`` (before clipping), ``train/tokens`` (so far).

    Args:
        model: the model, or a function that makes it when the strategy is ready for it
            (:func:`~synthmix.models.strategies.model_factory`).
        training: settings of the optimizer and its schedule.
        learning_rate: the peak.
        total_steps: optimizer steps of the whole run, for the schedule.
        hardware: how the model is shared out, and what is computed again instead of kept.
    """

    def __init__(
        self,
        model: PreTrainedModel | Callable[[], PreTrainedModel],
        training: TrainingConfig,
        learning_rate: float,
        total_steps: int,
        hardware: HardwareConfig | None = None,
    ) -> None:
        super().__init__()
        self.hardware = hardware or HardwareConfig()
        self.model: PreTrainedModel | None = model if isinstance(model, PreTrainedModel) else None
        self._factory = None if isinstance(model, PreTrainedModel) else model
        self.training_config, self.learning_rate, self.total_steps = training, learning_rate, total_steps
        #: Tokens (text, not padding) seen so far, seconds spent in earlier attempts, and the last batch's loss.
        self.tokens_seen, self.earlier_seconds, self.last_loss = 0, 0.0, float("nan")
        #: Set by the training loop: how long this attempt has taken (seconds).
        self.clock: Callable[[], float] = lambda: 0.0
        #: Read by Lightning's ThroughputMonitor after each micro-batch.
        self.flops_per_batch = 0.0
        self._buffers_given: dict[str, Tensor] = {}
        self._sum: Tensor | None = None
        self._grad_norm: Tensor | None = None
        self._ids: list[str] = []

    def configure_model(self) -> None:
        if self.model is None and self._factory is not None:
            self.model = self._factory()
        if self.hardware.activation_checkpointing:
            # reentrant checkpointing needs inputs with gradients, and runs a block's hooks in another order
            model: Any = self.causal_lm  # the second name is that of transformers up to 5.22
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        apply_speed(self.causal_lm, self.hardware)
        shard(self.causal_lm, self.hardware)
        self._buffers_given = {name: b.clone() for name, b in self.causal_lm.named_buffers() if b.is_floating_point()}

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The model; made by :meth:`configure_model` if it was given as a function."""
        if self.model is None:
            raise RuntimeError("the model is made by configure_model, which has not run yet")
        return self.model

    def on_fit_start(self) -> None:
        # from_pretrained leaves models in eval mode, in which Lightning would train them without dropout.
        self.causal_lm.train()
        restore_precision(self.causal_lm, self.hardware)
        for name, given in self._buffers_given.items():
            # bf16-true has rounded the frequencies of rotary positions, which no exported model has in bf16
            owner, _, own = name.rpartition(".")
            buffers = self.causal_lm.get_submodule(owner)._buffers
            buffers[own] = given.to(cast(Tensor, buffers[own]).device)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """This micro-batch's share of the batch's mean loss, times what Lightning and DDP will divide by."""
        total = self._loss(**batch["inputs"], kernel=self.hardware.loss_kernel)
        share = total / max(1, batch["loss_tokens"])
        self._sum = share.detach() if self._sum is None else self._sum + share.detach()
        self._ids += batch["ids"]
        # Model FLOPs count text, not padding.
        self.flops_per_batch = batch["text_tokens"] * self._flops(batch["text_tokens"] / max(1, len(batch["ids"])))
        if batch["last"]:
            self._finish(batch["tokens"])
        return share * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def _loss(self, **inputs: Any) -> Tensor:
        own = getattr(self.causal_lm, "training_loss", None)  # FSDP2's, which gathers weights first
        return causal_lm_loss(self.causal_lm, **inputs) if own is None else own(**inputs)

    def _finish(self, tokens: int) -> None:
        """The whole batch's loss, known before the optimizer steps: a bad one never reaches the weights."""
        assert self._sum is not None
        several = self.trainer.world_size > 1
        loss = self.trainer.strategy.reduce(self._sum, reduce_op="sum") if several else self._sum
        self.last_loss = float(loss)
        if not math.isfinite(self.last_loss):
            self._stop(f"loss {self.last_loss}")
        self.tokens_seen += tokens
        self._sum = None

    def _flops(self, context: float) -> float:
        if not hasattr(self, "_flops_terms"):
            base = flops_per_token(self.causal_lm, 0.0)
            self._flops_terms = base, flops_per_token(self.causal_lm, 1.0) - base
        return self._flops_terms[0] + self._flops_terms[1] * context

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the global norm, keeps the norm for the log, and stops at one that is not finite."""
        if zero_stage(self.hardware):  # the engine holds the gradients and clips them; see ZeroStrategy.optimizer_step
            return
        parameters = [p for p in self.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.see_gradient_norm(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if gradient_clip_val:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def see_gradient_norm(self, norm: Tensor) -> None:
        """Keeps the norm of a step's whole gradient, before clipping, for the log.

        Raises:
            NonFiniteLoss: it is infinite or NaN; the weights have not changed.
        """
        self._grad_norm = norm
        if not torch.isfinite(norm):
            self._stop(f"gradient norm {norm.item()}")

    def _stop(self, what: str) -> None:
        data = getattr(self.trainer, "datamodule", None)  # it knows the other ranks' examples, too
        examples = data.examples(self.global_step) if isinstance(data, MixtureDataModule) else self._ids
        raise NonFiniteLoss(
            f"training diverged at optimizer step {self.global_step + 1}: {what}; examples of the batch: {', '.join(examples)}"
        )

    def on_train_batch_end(self, outputs: Any, batch: MicroBatch, batch_idx: int) -> None:
        if not batch["last"]:
            return
        # The scheduler has already moved on; the optimizer stepped with the rate before.
        values = {"train/lr": self._lr(self.global_step - 1), "train/tokens": float(self.tokens_seen)}
        if self._grad_norm is not None:
            values["train/grad_norm"] = float(self._grad_norm)
        self.log("train/loss", self.last_loss, prog_bar=True, rank_zero_only=True)
        self.log_dict(values, rank_zero_only=True)
        self._grad_norm, self._ids = None, []

    def _lr(self, step: int) -> float:
        scheduler = cast(LambdaLR, self.lr_schedulers())
        return float(scheduler.base_lrs[0]) * scheduler.lr_lambdas[0](step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, and a schedule that moves once a step."""
        config = self.training_config
        groups = parameter_groups(self.causal_lm, config.weight_decay)
        betas = (float(config.betas[0]), float(config.betas[1]))
        optimizer = make_optimizer(groups, self.hardware, self.learning_rate, betas)
        scheduler = get_scheduler(
            _SCHEDULES[config.schedule],
            optimizer,
            num_warmup_steps=round(config.warmup * self.total_steps),
            num_training_steps=self.total_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["synthmix"] = {
            "tokens": self.tokens_seen,
            "seconds": self.earlier_seconds + self.clock(),
            "loss": self.last_loss,
            "total_steps": self.total_steps,
            "random": _random_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, MixtureDataModule):
            align(checkpoint, self.trainer.accumulate_grad_batches, datamodule.steps_per_epoch)
        state = checkpoint["synthmix"]
        self.tokens_seen, self.earlier_seconds, self.last_loss = state["tokens"], state["seconds"], state["loss"]
        if self.trainer.is_global_zero and "random" in state:  # the other ranks draw dropout anew
            _set_random_state(state["random"])


def _random_state() -> dict[str, Tensor]:
    """What dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
