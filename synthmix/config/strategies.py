"""What a hardware profile's ``strategy`` and ``offload`` ask for, and what of it cannot be combined."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from synthmix.config.schema import HardwareConfig
from synthmix.errors import ConfigError

_ZERO = "deepspeed_stage_"
#: A variable of Lightning's that names a DeepSpeed configuration.
_FOREIGN = "PL_DEEPSPEED_CONFIG_PATH"


def zero_stage(hardware: HardwareConfig) -> int:
    """The stage of ZeRO (1, 2, 3), or 0 for what is not DeepSpeed's.

    >>> zero_stage(HardwareConfig(strategy="deepspeed_stage_2")), zero_stage(HardwareConfig(strategy="fsdp2"))
    (2, 0)
    """
    return int(hardware.strategy.removeprefix(_ZERO)) if hardware.strategy.startswith(_ZERO) else 0


def is_sharded(hardware: HardwareConfig) -> bool:
    """Whether a device keeps only its share of what the optimizer works on (weights, gradients, or its own state)."""
    return hardware.strategy == "fsdp2" or zero_stage(hardware) > 0


def strategy_problems(hardware: HardwareConfig) -> Iterator[str]:
    """Combinations of ``strategy``, ``offload`` and ``offload_folder`` that mean nothing, each as a message."""
    stage, offload = zero_stage(hardware), hardware.offload
    if offload != "none" and stage == 0:
        yield f"offload = {offload}: strategy {hardware.strategy} offloads nothing; expected none, or a deepspeed stage"
    if offload == "all" and stage in (1, 2):
        yield "offload = all: parameters are whole on each device below stage 3; expected optimizer, or stage 3"
    if hardware.offload_folder is not None and (stage != 3 or offload == "none"):
        yield (
            f"offload_folder = {hardware.offload_folder}: only deepspeed_stage_3 with offload optimizer or all writes "
            "to a disk; expected null"
        )


def check_installed(hardware: HardwareConfig) -> None:
    """Whether this machine has what the strategy needs.

    Raises:
        ConfigError: a package or the folder of ``offload_folder`` is missing, or a configuration of Lightning's would
            replace the profile; names it and what to do.
    """
    problems = [f"strategy = {hardware.strategy}: needs {missing}" for missing in _missing(hardware)]
    if zero_stage(hardware) and os.environ.get(
        _FOREIGN
    ):  # Lightning would take it instead of the profile's, in silence
        problems.append(f"${_FOREIGN} = {os.environ[_FOREIGN]}: would replace what the profile says; expected it unset")
    folder = hardware.offload_folder
    if folder is not None and not (Path(folder).is_dir() and os.access(folder, os.W_OK)):
        problems.append(f"offload_folder = {folder}: expected a folder of this machine that can be written to")
    if problems:
        raise ConfigError(problems, origin=f"hardware profile {hardware.name}")


def _missing(hardware: HardwareConfig) -> Iterator[str]:
    packages = (["deepspeed"] if zero_stage(hardware) else []) + (["accelerate"] if is_sharded(hardware) else [])
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        yield f"{' and '.join(absent)}; pip install 'synthmix[deepspeed]'"
