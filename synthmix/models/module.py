"""The LightningModule around a causal LM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, get_scheduler

from synthmix.config.schema import TrainingConfig
from synthmix.data.batching import MicroBatch
from synthmix.data.datamodule import MixtureDataModule
from synthmix.models.checkpoints import align
from synthmix.models.loss import causal_lm_loss

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN; names the step and the examples of the batch."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for AdamW: matrices decay, biases and norms (one dimension or none) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def flops_per_token(model: PreTrainedModel, context: float) -> float:
    """Floating-point operations of forward and backward for one token among ``context``.

    6 for each parameter in a matrix product and 12 · layers · width · context for attention (Chowdhery et al. 2022,
    appendix B). Input embeddings that are not also the head are looked up, not multiplied.
    """
    parameters = sum(p.numel() for p in model.parameters())
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if embeddings is not head:
        parameters -= cast(Tensor, embeddings).numel()
    config = model.config
    return 6.0 * parameters + 12.0 * config.num_hidden_layers * config.hidden_size * context


class CausalLMModule(L.LightningModule):
    """Fine-tunes a causal LM on :data:`~synthmix.data.batching.MicroBatch` es.

    The loss of an optimizer step is the mean over all label tokens of its batch, over all micro-batches and ranks.
    Logs, once a batch: ``train/loss``, ``train/lr``, ``train/grad_norm`` (before clipping), ``train/tokens`` (so far).

    Args:
        model: the model, or a function that makes it when the strategy is ready for it (ZeRO-3, FSDP).
        training: settings of the optimizer and its schedule.
        learning_rate: the peak.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    def __init__(
        self,
        model: PreTrainedModel | Callable[[], PreTrainedModel],
        training: TrainingConfig,
        learning_rate: float,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.model: PreTrainedModel | None = model if isinstance(model, PreTrainedModel) else None
        self._factory = None if isinstance(model, PreTrainedModel) else model
        self.training_config, self.learning_rate, self.total_steps = training, learning_rate, total_steps
        #: Tokens (text, not padding) seen so far, seconds spent in earlier attempts, and the last batch's loss.
        self.tokens_seen, self.earlier_seconds, self.last_loss = 0, 0.0, float("nan")
        #: Set by the training loop: how long this attempt has taken (seconds).
        self.clock: Callable[[], float] = lambda: 0.0
        #: Read by Lightning's ThroughputMonitor after each micro-batch.
        self.flops_per_batch = 0.0
        self._sum: Tensor | None = None
        self._grad_norm: Tensor | None = None
        self._ids: list[str] = []

    def configure_model(self) -> None:
        if self.model is None and self._factory is not None:
            self.model = self._factory()

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The model; made by :meth:`configure_model` if it was given as a function."""
        if self.model is None:
            raise RuntimeError("the model is made by configure_model, which has not run yet")
        return self.model

    def on_fit_start(self) -> None:
        # from_pretrained leaves models in eval mode, in which Lightning would train them without dropout.
        self.causal_lm.train()

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """This micro-batch's share of the batch's mean loss, times what Lightning and DDP will divide by."""
        total = causal_lm_loss(self.causal_lm, batch["input_ids"], batch["labels"])
        share = total / max(1, batch["loss_tokens"])
        self._sum = share.detach() if self._sum is None else self._sum + share.detach()
        self._ids += batch["ids"]
        # Model FLOPs count text, not padding.
        self.flops_per_batch = batch["text_tokens"] * self._flops(batch["text_tokens"] / max(1, len(batch["ids"])))
        if batch["last"]:
            self._finish(batch["tokens"])
        return share * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

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
        parameters = [p for p in self.parameters() if p.grad is not None]
        if not parameters:  # DeepSpeed's engine holds the gradients, and clips them itself.
            return
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self._grad_norm = norm
        if not torch.isfinite(norm):
            self._stop(f"gradient norm {norm.item()}")
        if gradient_clip_val:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def _stop(self, what: str) -> None:
        examples = ", ".join(self._ids)
        raise NonFiniteLoss(f"{what} at optimizer step {self.global_step + 1}; examples of the batch: {examples}")

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
        """AdamW (fused), and a schedule that moves once a step."""
        config = self.training_config
        groups = parameter_groups(self.causal_lm, config.weight_decay)
        betas = (float(config.betas[0]), float(config.betas[1]))
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=betas, fused=True)
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
