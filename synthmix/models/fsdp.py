"""FSDP2 (``torch.distributed.fsdp.fully_shard``) through Lightning's ModelParallelStrategy.

Each transformer block is a group whose weights are gathered for its forward and its backward; embeddings, last norm and
head are the outermost group's. A weight is read from its file row by row: a rank never holds more than its own rows.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from synthmix.config.schema import HardwareConfig, ModelConfig
from synthmix.errors import UserError
from synthmix.models.kernels import blocks
from synthmix.models.loading import weights_folder
from synthmix.models.loss import causal_lm_loss
from synthmix.models.sealed import SealedCheckpoints
from synthmix.models.stored import remember_names, stored_weights


class FSDP2Strategy(SealedCheckpoints, ModelParallelStrategy):
    """FSDP2 over all devices of a hardware profile."""

    def __init__(self, hardware: HardwareConfig) -> None:
        gpu = hardware.accelerator == "gpu"
        world = hardware.devices * hardware.nodes
        super().__init__(
            data_parallel_size=world, tensor_parallel_size=1, process_group_backend=None if gpu else "gloo"
        )


def model_on_meta(source: ModelConfig | Path | str) -> PreTrainedModel:
    """A causal LM without weights, which :func:`shard` cuts and reads from ``source``.

    Raises:
        UserError: it is not there.
    """
    from accelerate import init_empty_weights

    folder = weights_folder(source)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.tie_weights()  # which every change of device undoes
    setattr(model, "weights_in", folder)  # noqa: B010
    return model.eval()


def shard(model: PreTrainedModel, hardware: HardwareConfig) -> None:
    """Cuts a model in place, and reads this rank's rows of each weight where it is on the meta device.

    Raises:
        UserError: the weights are not in safetensors, or not those of the configuration; the blocks are not known.
    """
    if isinstance(model, FSDPModule):
        return
    if not blocks(model):
        raise UserError(f"strategy = fsdp2: {type(model).__name__} does not say which of its modules are its blocks")
    remember_names(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    empty = any(parameter.is_meta for parameter in model.parameters())
    _cut(model, hardware)
    if empty:
        model.to_empty(device=_device(hardware))
        model.tie_weights()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
            for parameter, weight in stored_weights(model, cast(Path, model.weights_in)):
                _read_rows(parameter, weight)


def _device(hardware: HardwareConfig) -> str:
    return "cuda" if hardware.accelerator == "gpu" else "cpu"


def _cut(model: PreTrainedModel, hardware: HardwareConfig) -> None:
    mesh = init_device_mesh(_device(hardware), (torch.distributed.get_world_size(),))
    # Weights stay in the precision that the optimizer works in; they travel, and are multiplied, in the policy's.
    low = torch.bfloat16 if hardware.precision.startswith("bf16") else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    # The loss calls the base model and the head, never the model: this call gathers what the outermost group holds.
    setattr(model, "training_loss", MethodType(causal_lm_loss, model))  # noqa: B010
    register_fsdp_forward_method(model, "training_loss")


def _read_rows(parameter: Tensor, weight: Any) -> None:
    """Fills a sharded parameter with its rows of a weight on the disk."""
    assert isinstance(parameter, DTensor)
    mine, rows = parameter.to_local(), parameter.shape[0]
    size = -(-rows // parameter.device_mesh.size())  # as torch.chunk cuts
    start = min(size * parameter.device_mesh.get_local_rank(), rows)
    assert mine.shape[0] == min(size, rows - start)
    if len(mine):
        mine.copy_(weight[start : start + len(mine)])
