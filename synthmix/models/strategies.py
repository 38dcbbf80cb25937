"""How the devices of a cell share its training: a hardware profile's ``strategy`` in Lightning's terms."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from synthmix.config.schema import HardwareConfig, ModelConfig
from synthmix.config.strategies import check_installed, is_sharded, zero_stage
from synthmix.models.loading import load_model, weights_folder
from synthmix.models.stored import has_weights

log = logging.getLogger(__name__)


def make_strategy(hardware: HardwareConfig, universal: bool = False) -> Strategy | str:
    """The Lightning strategy of a profile.

    Args:
        hardware: a checked profile.
        universal: ZeRO will load a checkpoint that was converted for this number of ranks.

    Raises:
        ConfigError: what the strategy needs is not installed.
    """
    if not is_sharded(hardware):
        return "ddp" if hardware.devices * hardware.nodes > 1 else "auto"
    check_installed(hardware)
    strategy: Any
    if zero_stage(hardware):
        from synthmix.models.zero import ZeroStrategy

        strategy = ZeroStrategy(hardware, universal)
    else:
        from synthmix.models.fsdp import FSDP2Strategy

        strategy = FSDP2Strategy(hardware)
    strategy.facts = facts(hardware)
    return strategy


def facts(hardware: HardwareConfig) -> dict[str, Any]:
    """What a checkpoint folder says of the profile that wrote it; one with other facts cannot load it."""
    told = {"strategy": hardware.strategy, "precision": hardware.precision}
    return told | ({"on_disk": True} if hardware.offload_folder is not None else {})


def model_factory(source: ModelConfig | Path | str, hardware: HardwareConfig) -> Callable[[], PreTrainedModel]:
    """What makes the model once the strategy is ready for it, so that no rank ever holds what it need not hold.

    Under ZeRO-3 transformers shares out each weight as it is read; under FSDP2 a rank reads its rows of each.
    """
    if hardware.strategy == "fsdp2":
        from synthmix.models.fsdp import model_on_meta

        return partial(model_on_meta, source)
    return partial(_load_for_zero if zero_stage(hardware) else load_model, source)


def _load_for_zero(source: ModelConfig | Path | str) -> PreTrainedModel:
    model = load_model(source)
    setattr(model, "weights_in", weights_folder(source))  # noqa: B010
    return model


def restore_precision(model: PreTrainedModel, hardware: HardwareConfig) -> None:
    """Undoes what the strategy rounded off when it took over the model; all ranks have to call it."""
    folder: Any = getattr(model, "weights_in", None)
    if not zero_stage(hardware) or hardware.precision == "32-true" or folder is None:
        return
    if not has_weights(folder):
        log.warning("%s: no safetensors; the optimizer starts from the weights as bf16 has them", folder)
        return
    from synthmix.models.zero import restore_fp32

    restore_fp32(model, folder)


def shard(model: PreTrainedModel, hardware: HardwareConfig) -> None:
    """Cuts a model in place; only FSDP2 has to do it, before Lightning sees the model."""
    if hardware.strategy == "fsdp2":
        from synthmix.models.fsdp import shard as cut

        cut(model, hardware)


def make_optimizer(
    groups: list[dict[str, Any]], hardware: HardwareConfig, learning_rate: float, betas: tuple[float, float]
) -> Optimizer:
    """AdamW in one kernel a step; where ZeRO keeps its state in the host's memory, DeepSpeed's for that, if it compiles.

    On the device torch's own, also under ZeRO: DeepSpeed's FusedAdam does the same and has to be compiled. So on a CPU.
    """
    if hardware.offload != "none" and hardware.accelerator == "gpu":
        from synthmix.models.zero import cpu_adam

        if (adam := cpu_adam()) is not None:
            return adam(groups, lr=learning_rate, betas=betas, adamw_mode=True)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def whole(parameter: Tensor) -> Tensor:
    """A trained parameter whole, in the precision of the optimizer; all ranks have to ask for it."""
    from torch.distributed.tensor import DTensor

    if isinstance(parameter, DTensor):
        full: Tensor = parameter.full_tensor()
        return full.detach()
    if is_zero(parameter):
        from synthmix.models.zero import full_fp32

        return full_fp32(parameter)
    return parameter.detach()


@contextmanager
def kept_environment() -> Iterator[None]:
    """Takes back what a strategy says to its process about ranks: a process alone is none once its fit is over."""
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_zero(parameter: Tensor) -> bool:
    """Whether a ZeRO engine works on it, whose optimizer has it in fp32."""
    return hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id")


def numel(parameter: Tensor) -> int:
    """Elements of a parameter, over all ranks."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def dimensions(parameter: Tensor) -> int:
    """Of the whole parameter; ZeRO-3 leaves an empty vector in its place."""
    return len(getattr(parameter, "ds_shape", parameter.shape))
