"""What a hardware profile asks of a machine: devices, their memory, precision, DeepSpeed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from synthmix.cluster.doctor.finding import Finding, missing, ok, unknown
from synthmix.config import HardwareConfig, ModelConfig
from synthmix.config.strategies import zero_stage
from synthmix.models.memory import GIB, Fit, examine
from synthmix.study.hub_files import size
from synthmix.study.workers import cores

#: Instructions of a CPU that make bfloat16 worth its rounding.
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
#: Tokens of the longest document, where the data is not looked at.
LENGTH = 512


def examine_devices(profile: HardwareConfig, models: Iterable[ModelConfig]) -> Iterator[Finding]:
    """The devices of a profile, for the model that takes most of them."""
    found = max((examine(model, profile, LENGTH) for model in models), key=lambda fit: fit.device_gib)
    if profile.accelerator == "gpu":
        yield from _gpus(profile, found)
    else:
        yield from _cpu(profile)
    wanted = found.host_gib if profile.accelerator == "gpu" else found.device_gib * profile.devices
    if wanted:
        yield _memory(profile, found.model, wanted * GIB)
    if zero_stage(profile):
        yield from _deepspeed(profile)


def _memory(profile: HardwareConfig, name: str, wanted: float) -> Finding:
    """Whether the machine's memory, or what a container leaves of it, holds what training takes of it."""
    total = machine_memory()
    said = f"memory: {name} takes about {size(wanted)} in training, of {size(total)} here"
    return ok(said) if wanted < total else _elsewhere(profile, said, "a larger machine, or a profile that shards")


def _elsewhere(profile: HardwareConfig, said: str, expected: str) -> Finding:
    """What this machine lacks, a node that SLURM gives may have."""
    asked = {name: getattr(profile.slurm, name) for name in ("partition", "gpus", "memory")}
    if given := ", ".join(f"{name} {value}" for name, value in asked.items() if value):
        return unknown(f"{said}; jobs get {given}: run doctor there, with srun, to be sure")
    return missing(f"{said}; expected {expected}")


def _of_this_python(profile: HardwareConfig, found: Finding) -> Finding:
    """What the Python here lacks, the one that runs the cells may have."""
    other = profile.slurm.container or profile.slurm.python
    if found.state == "MISSING" and other:
        return unknown(f"{found.what}; so it is here, but cells run in {other}")
    return found


def machine_memory() -> int:
    """Bytes of memory that a process here may have: the machine's, or the control group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(limit).read_text()))
    return total


def _cpu(profile: HardwareConfig) -> Iterator[Finding]:
    wanted = profile.devices * (profile.threads or 1)
    said = f"CPU: {cores()} cores, {wanted} asked for"
    yield ok(said) if cores() >= wanted else _elsewhere(profile, said, "devices x threads to be no more")
    if profile.precision != "32-true":
        has = [flag for flag in BF16_FLAGS if flag in _cpu_flags()]
        yield (
            ok(f"bf16: this CPU has {', '.join(has)}")
            if has
            else unknown(f"bf16: {profile.precision} works on this CPU, slowly: it has none of {', '.join(BF16_FLAGS)}")
        )


def _cpu_flags() -> list[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return line.split(":", 1)[1].split()
    return []


# -- GPUs -------------------------------------------------------------------------------------------------------------


def _gpus(profile: HardwareConfig, fit: Fit) -> Iterator[Finding]:
    import torch

    wanted = fit.device_gib * GIB

    yield _of_this_python(profile, cuda_build(torch.version.cuda, driver_version()))
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        said = f"{fit.model} takes about {size(wanted)} of each"
        yield _elsewhere(profile, f"GPU: {profile.devices} asked for, none here; {said}", "hardware=cpu, or a GPU")
        return
    cards = [torch.cuda.get_device_properties(i) for i in range(found)]
    said = f"GPU: {found} here ({', '.join(sorted({card.name for card in cards}))}), {profile.devices} asked for"
    yield ok(said) if found >= profile.devices else _elsewhere(profile, said, "fewer devices")
    smallest = min(card.total_memory for card in cards)
    said = f"GPU memory: {fit.model} takes about {size(wanted)} of a device, of {size(smallest)}"
    yield (
        ok(said)
        if wanted < smallest
        else missing(f"{said}; expected a smaller micro_batch, activation_checkpointing, offload, or more devices")
    )
    if profile.precision.startswith("bf16"):
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        yield ok("bf16: supported") if has else missing(f"bf16: {profile.precision} needs an Ampere GPU or newer")


def cuda_build(built: str | None, driver: tuple[int, int] | None) -> Finding:
    """Whether this build of torch can use the driver: a driver runs what was built for its own CUDA or an older one,
    and since 11 for any of the same major version."""
    if built is None:
        return missing("CUDA: this torch is a build for CPUs; expected one for CUDA (pytorch.org/get-started)")
    if driver is None:
        return unknown(f"CUDA: torch is built for {built}; no NVIDIA driver here")
    said = f"CUDA: torch is built for {built}, the driver knows {driver[0]}.{driver[1]}"
    if int(built.split(".")[0]) > driver[0]:
        return missing(f"{said}; expected an older torch or a newer driver")
    return ok(said)


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver knows; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    failed = library.cuDriverGetVersion(ctypes.byref(number))
    return None if failed else (number.value // 1000, number.value % 1000 // 10)


# -- DeepSpeed --------------------------------------------------------------------------------------------------------


def _deepspeed(profile: HardwareConfig) -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        said = f"DeepSpeed: strategy {profile.strategy} needs it: pip install 'synthmix[deepspeed]'"
        yield _of_this_python(profile, missing(said))
        return
    yield ok(f"DeepSpeed {version}")
    if profile.offload == "none":
        return
    # Adam on the CPU is compiled when it is first used; without CUDA, also beside a GPU.
    lacks = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if not lacks:
        yield ok("DeepSpeed: what compiles its optimizer is there")
        return
    said = f"DeepSpeed: offloading compiles its optimizer and lacks {', '.join(lacks)}"
    modules = ", ".join(profile.slurm.modules)
    yield unknown(f"{said}; jobs load {modules}") if modules else missing(said)
