"""What every benchmark shares: timing, the description of the machine, and the file that the figures go to.

A benchmark runs both of its sides in one process, prints its figures and writes them, with the machine they were taken
on, to ``results/<name>.json`` beside this file.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "lightning", "torchmetrics", "transformers", "datasets", "numpy", "scipy", "nltk")


def measure(fn: Callable[[], Any], repeats: int, warmup: int = 0) -> list[float]:
    """Wall-clock seconds of ``repeats`` calls of ``fn``, in order, after ``warmup`` calls that do not count.

    Rubbish is collected before each call and not during it, so that no side pays for the other's garbage.
    """
    for _ in range(warmup):
        fn()
    seconds = []
    for _ in range(repeats):
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        try:
            fn()
        finally:
            seconds.append(time.perf_counter() - start)
            gc.enable()
    return seconds


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, smallest and largest of ``seconds``, and every value: a median alone hides a noisy machine."""
    return {"median_s": median(seconds), "min_s": min(seconds), "max_s": max(seconds), "runs_s": list(seconds)}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    # Only a benchmark that already uses torch pays for asking it.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, threads, Python and the versions of the libraries."""
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "gpus": _gpus(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": load,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }


def write(name: str, payload: dict[str, Any]) -> Path:
    """Writes ``payload`` with :func:`machine` and the time (UTC) to ``results/<name>.json``; returns its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    # where things lie on this machine tells nobody else anything
    words = ["PATH" if os.path.isabs(word) else word for word in sys.argv[1:]]
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *words]) if sys.argv[0] else ""
    head = {"benchmark": name, "command": command, "taken": datetime.now(UTC).isoformat(timespec="seconds")}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**head, "machine": machine(), **payload}, indent=2) + "\n", encoding="utf-8")
    return path
