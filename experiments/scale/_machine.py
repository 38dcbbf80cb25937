"""How gpu_check.sh runs a part, and what the machine is; of packages only torch is needed."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import _bench  # noqa: E402

#: Dense bf16 peak of a device (TFLOP/s; NVIDIA's data sheets), by what its name contains; the first that fits.
PEAK_TFLOPS = {
    "H200 NVL": 835.0, "H200": 989.0, "H100 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.0, "A100-": 312.0,
}  # fmt: skip
GIB = 1024**3


@dataclass(frozen=True)
class Options:
    """How the parts are run: where results (``out``) and what is made on the way (``work``) go, on how many devices,
    whether at toy size or on the CPU, and until when (``time.monotonic()``) a part may start something new."""

    out: Path
    work: Path
    toy: bool
    accelerator: str
    devices: int
    again: bool
    deadline: float
    batch: int
    steps: int | None
    data: str | None
    tokenizer: str | None
    model: str | None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def options_of(given: argparse.Namespace, part: str) -> Options:
    """The options of one part. Without ``--devices`` there is one: the GPU, or the CPU."""
    work = given.work / ("toy" if given.toy else "real")
    work.mkdir(parents=True, exist_ok=True)
    accelerator = "cpu" if given.toy or given.cpu or not torch.cuda.is_available() else "gpu"
    toys = 2 if part.startswith(("zero", "strategies", "export")) else 1
    devices = given.devices or (toys if given.toy else 1)
    return Options(
        given.out, work, given.toy, accelerator, devices, given.again, time.monotonic() + 60 * given.minutes,
        given.batch or (8 if given.toy else 32), given.steps, given.data, given.tokenizer, given.model,
    )  # fmt: skip


@lru_cache
def gpus() -> list[dict[str, Any]]:
    """Name, memory (GiB) and driver of each GPU that this process may use, asked of nvidia-smi: torch would take some of
    the memory to answer."""
    keys_ = "name,memory.total,driver_version"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        asked = ["nvidia-smi", f"--query-gpu={keys_}", "--format=csv,noheader,nounits"]
        asked += ["-i", visible] if visible else []
        lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []
    rows = [[word.strip() for word in line.split(",")] for line in lines if line.strip()]
    return [{"name": name, "memory_gib": float(mib) / 1024, "driver": driver} for name, mib, driver in rows]


def host_gib() -> float:
    """GiB of the host's memory that this process may still take: what is available, and what its control group leaves."""
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
    available = int(line.split()[1]) / 1024**2
    group = Path("/sys/fs/cgroup")
    try:
        most, now = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return available
    return available if most == "max" else min(available, (int(most) - int(now)) / GIB)


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, load, GPUs, versions."""
    libraries = (*_bench.LIBRARIES, "deepspeed", "liger-kernel", "flash-attn", "vllm", "triton", "accelerate")
    versions = {name: found for name in libraries if (found := _bench._version(name)) is not None}
    return {
        "cpu": _bench._cpu_model(), "cpu_count": os.cpu_count(), "load_average": [*os.getloadavg()],
        "gpus": [gpu["name"] for gpu in gpus()], "gpu_memory_gib": [gpu["memory_gib"] for gpu in gpus()],
        "driver": gpus()[0]["driver"] if gpus() else None, "cuda": torch.version.cuda,
        "platform": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "libraries": versions,
    }  # fmt: skip


def peak_tflops() -> float | None:
    """The data sheet's peak of this GPU; None for another, or a CPU."""
    name = gpus()[0]["name"] if gpus() else ""
    return next((peak for known, peak in PEAK_TFLOPS.items() if known in name), None)
