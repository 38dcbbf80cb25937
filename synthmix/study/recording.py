"""What stands in a cell's ``result.json`` beside its scores: what it was computed with, and what it cost."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch
import transformers

from synthmix import __version__
from synthmix.config import HardwareConfig
from synthmix.data.encoding import encode_prompts
from synthmix.data.fitting import fit_prompts
from synthmix.models.loading import load_tokenizer
from synthmix.study.out_of_memory import in_words
from synthmix.tasks import Example, Task


def summary_line(result: dict[str, Any], seconds: float) -> str:
    """A cell's results in one line."""
    test, alert = result["test"], result["alert"]
    parts = [f"{result['metric']} {100 * test['score']:.1f} %", f"ECE {test['ece']:.3f}"]
    if "diversity" in result["diversity"]:
        parts.append(f"1 - self-BLEU {result['diversity']['diversity']:.3f}")
    parts.append(f"invalid {100 * test['invalid_rate']:.1f} %")
    if alert["level"] != "none":
        parts.append(f"ECE {alert['level']}: {100 * alert['ece_rise']:+.0f} % on validation")
    parts += in_words(result["memory"])
    return f"{result['name']}: {', '.join(parts)} ({seconds:.1f} s)"


def versions() -> dict[str, str]:
    """What the numbers were computed with."""
    return {
        "synthmix": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lightning": lightning.__version__,
    }


def describe_work(
    hardware: HardwareConfig,
    train: Mapping[str, Any],
    evaluate_tokens: int,
    generate_tokens: int,
    timings: Mapping[str, float],
    peak_memory: int,
) -> dict[str, Any]:
    """What a cell took, for the cost of the next one: tokens and seconds a phase, over all attempts.

    Args:
        train: content of ``train.json``.
        evaluate_tokens: see :func:`evaluated_tokens`.
        generate_tokens: of all attempts, kept or not; those of a filter's questions are ``pool.filter_tokens``.
        timings: content of ``timings.json``.
        peak_memory: bytes; see :func:`peak_memory_bytes`.
    """
    return {
        "hardware": hardware.name,
        "device": device_name(hardware),
        "devices": hardware.devices,
        "nodes": hardware.nodes,
        "threads": torch.get_num_threads(),
        "train_tokens": train.get("tokens", 0),
        "evaluate_tokens": evaluate_tokens,
        "generate_tokens": generate_tokens,
        **{f"{phase}_seconds": timings.get(phase, 0.0) for phase in ("train", "evaluate", "generate", "mix")},
        "peak_memory_bytes": peak_memory,
    }


def evaluated_tokens(task: Task, folder: Path, splits: Mapping[str, Sequence[Example]]) -> int:
    """Tokens of the prompts that a cell's items were asked with, and of what was answered (of a choice: the chosen one).

    Further answers (pass@k, agreement) and P(True) questions are not counted.

    Args:
        folder: the cell's, with its ``model`` and its ``items.parquet``.
        splits: the examples that were scored.
    """
    tokenizer = load_tokenizer(folder / "model")
    config = transformers.AutoConfig.from_pretrained(folder / "model").get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    prompts = 0
    for examples in splits.values():
        fitted = fit_prompts(task, tokenizer, [example.record for example in examples], context)
        prompts += sum(map(len, encode_prompts(tokenizer, fitted.documents)))
    return prompts + int(pd.read_parquet(folder / "items.parquet", columns=["tokens"])["tokens"].sum())


def device_name(hardware: HardwareConfig) -> str:
    """``cpu: AMD EPYC ...``, or the GPU's name."""
    if _on_gpu(hardware):
        return torch.cuda.get_device_name()
    return f"cpu: {_cpu_name()}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


def forget_peak_memory(hardware: HardwareConfig) -> None:
    """From here on a new peak is counted, where the system lets a process do that."""
    if _on_gpu(hardware):
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(hardware: HardwareConfig) -> int:
    """The most memory that this process has held: of its GPU, otherwise resident."""
    if _on_gpu(hardware):
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _on_gpu(hardware: HardwareConfig) -> bool:
    return hardware.accelerator == "gpu" and torch.cuda.is_available()
