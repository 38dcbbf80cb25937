"""Reading a machine profile, and what about it can be known to be wrong."""

from __future__ import annotations

from collections.abc import Iterator

from synthmix.config.load import find_config, load_entry
from synthmix.config.schema import HardwareConfig
from synthmix.config.strategies import strategy_problems
from synthmix.errors import ConfigError


def load_hardware(name: str) -> HardwareConfig:
    """One file under configs/hardware, or a path to one; the file's name is the profile's.

    Raises:
        ConfigError: there is none, or all its problems at once.
    """
    hardware: HardwareConfig = load_entry("hardware", name, HardwareConfig)
    if problems := [*_counts(hardware), *_sizes(hardware), *_kernels(hardware), *strategy_problems(hardware)]:
        raise ConfigError(problems, origin=str(find_config("hardware", name)))
    return hardware


def _counts(hardware: HardwareConfig) -> Iterator[str]:
    for key in ("devices", "nodes", "micro_batch"):
        if getattr(hardware, key) < 1:
            yield f"{key} = {getattr(hardware, key)}: expected 1 or more"
    if hardware.threads is not None and hardware.threads < 1:
        yield f"threads = {hardware.threads}: expected 1 or more, or null for cores / workers"


def _sizes(hardware: HardwareConfig) -> Iterator[str]:
    for key in ("peak_tflops", "memory_gib", "host_memory_gib"):
        value = getattr(hardware, key)
        if value is not None and not value > 0:
            yield f"{key} = {value:g}: expected more than 0, or null where it is unknown"
    for key in ("train_utilisation", "read_utilisation", "write_utilisation"):
        value = getattr(hardware, key)
        if not 0 < value <= 1:
            yield f"{key} = {value:g}: expected a share of the peak, more than 0 and up to 1"


def _kernels(hardware: HardwareConfig) -> Iterator[str]:
    if hardware.loss_kernel == "liger" and hardware.accelerator != "gpu":
        yield f"loss_kernel = liger: its kernels need accelerator gpu, this is {hardware.accelerator}; expected sliced"
