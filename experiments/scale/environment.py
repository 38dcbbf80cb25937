"""What the machine is and what it can do: the rate of bf16 matrix products, and the bandwidth of its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from _machine import Options, peak_tflops


def run(_: None, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]) -> dict[str, Any]:
    """The medians of ten products of two square matrices, and of ten copies (bytes read and written)."""
    device = "cuda" if options.accelerator == "gpu" else "cpu"
    n, megabytes = (8192, 4096) if device == "cuda" else (1024, 256)
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = _median(lambda: left @ right, device)
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    copy = _median(lambda: target.copy_(source), device)
    rates = {"matrix_tflops": 2 * n**3 / product / 1e12, "copy_gb_per_s": 2 * source.nbytes / copy / 1e9}
    print("  " + ", ".join(f"{name} {value:,.1f}" for name, value in rates.items()), flush=True)
    return {**rates, "matrix_size": n, "dtype": "bfloat16", "peak_tflops": peak_tflops(), "complete": True}


def _median(work: Callable[[], Any], device: str, warmup: int = 3, repeats: int = 10) -> float:
    """Seconds."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for _ in range(warmup + repeats):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return median(seconds[warmup:])
