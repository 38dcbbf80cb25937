"""ZeRO through DeepSpeed: Lightning's strategy with one normalisation, norms that can be seen, and a CPU to run on.

What differs from :class:`lightning.pytorch.strategies.DeepSpeedStrategy`:

* Lightning divides the loss by the micro-batches of a step, and so would the engine: here it is divided once. AdamW
  hides the difference; clipping, and norms that are logged, do not.
* The norm that the engine finds is handed to the module, which stops at one that is not finite. The engine does not
  step then, so the weights are those of the step before.
* The model is made while transformers knows of ZeRO-3, so that ``from_pretrained`` shares out each weight as it is read.
* On the CPU it runs as well, with gloo, which is how the tests run it.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from synthmix.config.schema import HardwareConfig
from synthmix.config.strategies import zero_stage
from synthmix.errors import ConfigError
from synthmix.models.sealed import SealedCheckpoints
from synthmix.models.stored import stored_weights
from synthmix.models.zero_disk import own_folder, restore

if TYPE_CHECKING:
    from synthmix.models.module import CausalLMModule

log = logging.getLogger(__name__)

# Elements that are sent, or stepped, together. DeepSpeed's own default of the second; Lightning's is endless.
_BUCKET = {"cpu": 10_000_000, "gpu": 200_000_000}
_SUB_GROUP = 1_000_000_000


class ZeroStrategy(SealedCheckpoints, DeepSpeedStrategy):
    """ZeRO as a hardware profile asks for it.

    Args:
        hardware: strategy (the stage), offload, offload_folder, accelerator.
        universal: the checkpoint that will be loaded was written by another number of ranks and converted since.
    """

    def __init__(self, hardware: HardwareConfig, universal: bool = False) -> None:
        prepare_import(hardware.accelerator)
        _check_disk(hardware)
        folder, gpu = hardware.offload_folder, hardware.accelerator == "gpu"
        target = "cpu" if folder is None else "nvme"
        self._disk = None if folder is None else own_folder(Path(folder))
        super().__init__(
            stage=zero_stage(hardware),
            offload_optimizer=hardware.offload != "none",
            offload_parameters=hardware.offload == "all",
            offload_optimizer_device=target,
            offload_params_device=target,
            nvme_path=str(self._disk or ""),
            pin_memory=gpu,
            sub_group_size=_SUB_GROUP,
            allgather_bucket_size=_BUCKET[hardware.accelerator],
            reduce_bucket_size=_BUCKET[hardware.accelerator],
            overlap_comm=gpu,
            process_group_backend=None if gpu else "gloo",
        )
        assert isinstance(self.config, dict)
        # The optimizer is the module's, also where ZeRO keeps its state on the host.
        self.config["zero_force_ds_cpu_optimizer"] = False
        if zero_stage(hardware) > 1:
            # Small gradients drown in a sum of many micro-batches in bf16. Stage 1 would sum up on each device whole.
            self.config["data_types"] = {"grad_accum_dtype": "fp32"}
        if universal:
            self.config["checkpoint"] = {"load_universal": True}
        self._on_gpu = gpu

    # -- the environment ----------------------------------------------------------------------------------------------

    @property
    def root_device(self) -> torch.device:
        # the engine asks for an index
        return super().root_device if self._on_gpu else torch.device("cpu", 0)

    def setup_environment(self) -> None:
        if self._on_gpu:
            super().setup_environment()
        else:
            DDPStrategy.setup_environment(self)  # past the check for CUDA

    def setup_distributed(self) -> None:
        if self._on_gpu:
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _init_deepspeed_distributed(self) -> None:
        made = not torch.distributed.is_initialized()
        super()._init_deepspeed_distributed()
        if made:  # gloo can abort when the interpreter ends before the group does
            atexit.register(_leave)

    # -- the model ----------------------------------------------------------------------------------------------------

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """In which a model is loaded; under ZeRO-3 a rank holds its share of it and one weight more."""
        self._init_config_if_needed()
        if not self.zero_stage_3:
            yield
            return
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        told = HfDeepSpeedConfig(self.config)  # transformers knows of it as long as it lives
        try:
            yield
        finally:
            del told

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        adam = self.deepspeed_engine.optimizer.optimizer
        decays = [group["weight_decay"] for group in adam.param_groups]
        told: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        # From a converted checkpoint ZeRO-3 gives all groups the settings of the first (biases and norms would decay), and
        # all states one and the same counter of steps (each group's step would count for all).
        for group, decay in zip(adam.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        for state in adam.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()
        if self._disk is not None:
            restore(self.deepspeed_engine, Path(checkpoint_path) / "checkpoint")
        return told

    def teardown(self) -> None:
        super().teardown()
        engine, self.model = self.model, self.lightning_module
        _take_apart(engine)
        if self._disk is not None:
            shutil.rmtree(self._disk, ignore_errors=True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}  # the engine saves it

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return {}  # likewise

    # -- steps --------------------------------------------------------------------------------------------------------

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        # Lightning has divided by the number of micro-batches.
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: L.LightningModule | torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        engine = self.deepspeed_engine
        before = engine.global_steps
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        if engine.global_steps > before:  # else it was a micro-batch before the last
            module: CausalLMModule = self.lightning_module  # type: ignore[assignment]
            module.see_gradient_norm(torch.as_tensor(engine.get_global_grad_norm()))
        return output


def _take_apart(engine: Any) -> None:
    """Frees what an engine holds of the weights and the optimizer; nothing if there is none yet.

    Its hooks on gradients close cycles through C++, which Python cannot collect, and a list of modules in DeepSpeed is
    never emptied: without this, all of it would stay beside the evaluation for as long as the process lives.
    """
    from deepspeed import DeepSpeedEngine
    from deepspeed.runtime.zero import parameter_offload

    if not isinstance(engine, DeepSpeedEngine):
        return
    engine.destroy()
    parameter_offload.FWD_MODULE_STACK.clear()
    vars(engine.optimizer).clear()
    for parameter in engine.module.parameters():
        if hasattr(parameter, "ds_tensor"):  # of ZeRO-3, whoever still has a view of it; small weights are there whole
            parameter.ds_tensor.untyped_storage().resize_(0)
            parameter.data = parameter.data.new_empty(0)


def prepare_import(accelerator: str) -> None:
    """What DeepSpeed reads when it is imported: on the CPU it neither looks for a GPU nor compiles a faster gloo."""
    if accelerator == "gpu":
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _check_disk(hardware: HardwareConfig) -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if hardware.offload_folder is not None and not AsyncIOBuilder().is_compatible():
        said = f"offload_folder = {hardware.offload_folder}: DeepSpeed writes to it with libaio; install libaio-dev, or null"
        raise ConfigError([said], origin=f"hardware profile {hardware.name}")


def cpu_adam() -> Callable[..., Optimizer] | None:
    """DeepSpeed's Adam for weights in the host's memory, which is compiled on first use (minutes); None if it cannot be."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.op_builder import CPUAdamBuilder

    try:
        CPUAdamBuilder().load()
    except Exception as error:  # no compiler, no ninja, a full disk
        log.warning("DeepSpeedCPUAdam cannot be compiled (%s); torch's AdamW is used, somewhat slower", _first(error))
        return None
    adam: Callable[..., Optimizer] = DeepSpeedCPUAdam
    return adam


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def full_fp32(parameter: Tensor) -> Tensor:
    """A parameter of an engine, whole, in fp32, as the optimizer knows it; all ranks have to ask."""
    from deepspeed.utils import safe_get_full_fp32_param

    found: Tensor = safe_get_full_fp32_param(parameter)
    return found


def restore_fp32(model: PreTrainedModel, folder: Path) -> None:
    """Gives the optimizer the weights of ``folder`` as they are there; all ranks have to call it.

    An engine in bf16 makes its fp32 weights from those in bf16. What that rounds off is as much as tens of steps of
    fine-tuning change, and a chain of cells would lose it once a cell.
    """
    from deepspeed.utils import safe_set_full_fp32_param

    for parameter, weight in stored_weights(model, folder):
        safe_set_full_fp32_param(parameter, weight[:].float())


def to_universal(checkpoint: Path, folder: Path) -> Path:
    """Converts a checkpoint into one that any number of ranks can load; returns ``folder``.

    DeepSpeed's own converter, in a process of its own, since it starts others. It needs about the checkpoint's size on
    the disk, twice.

    Raises:
        RuntimeError: with the converter's last words.
    """
    words = ["--input_folder", str(checkpoint / "checkpoint"), "--output_folder", str(folder / "checkpoint")]
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *words, "--inject_missing_state"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{checkpoint}: cannot be converted for another number of ranks:\n{done.stderr[-2000:]}")
    for name in ("latest", "latest_universal"):
        (folder / name).write_text("checkpoint")
    return folder
