"""What this machine has and lacks: versions, cores, memory, devices, data, the level of the sandbox."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.console import Console

from synthmix.callbacks.wandb import resolve_mode
from synthmix.config import DataConfig
from synthmix.data.records import data_root, find_layout
from synthmix.errors import UserError
from synthmix.evaluation.sandbox import LevelState, describe_levels
from synthmix.study.runner import versions
from synthmix.study.workers import cores
from synthmix.tasks import get_task, task_names

GIB = 2**30


def print_doctor(console: Console) -> None:
    """Prints every section; nothing is written, and no network is asked."""
    for title, lines in (
        ("versions", [f"{name} {version}" for name, version in versions().items()]),
        ("machine", _machine()),
        ("data", _data()),
        ("W&B", [_wandb()]),
        ("sandbox for generated programs", [line for state in describe_levels() for line in _level(state)]),
    ):
        console.print(f"[bold]{title}[/bold]", highlight=False)
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _machine() -> list[str]:
    import torch

    disk = shutil.disk_usage(Path.cwd())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = [f"{cores()} cores, {memory / GIB:.0f} GiB of memory, {disk.free / GIB:.0f} GiB free on the disk here"]
    if not torch.cuda.is_available():
        return [*lines, "no CUDA device: hardware=cpu or cpu-bf16"]
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        lines.append(f"GPU {i}: {device.name}, {device.total_memory / GIB:.0f} GiB")
    return lines


def _data() -> list[str]:
    """Which of the real tasks have their records in the data folder."""
    config = DataConfig()
    try:
        root = data_root(config)
    except UserError as error:
        return [str(error)]
    if root is None:
        return ["SYNTHMIX_DATA is not set: real tasks load from the Hub, which needs a network"]
    return [f"SYNTHMIX_DATA = {root}", *(f"  {name}: {_layout(name, config)}" for name in task_names() if _real(name))]


def _real(name: str) -> bool:
    return get_task(name).source is not None


def _layout(name: str, config: DataConfig) -> str:
    task = get_task(name)
    assert task.source is not None
    try:
        layout, root = find_layout(task, task.source, config)
    except UserError as error:
        return str(error)
    assert root is not None
    missing = [part.place for part in layout.splits.values() if not (root / part.place).is_file()]
    if missing:
        return f"missing: {', '.join(missing)}"
    return f"found{'; ' + layout.note if layout.note else ''}"


def _wandb() -> str:
    online = resolve_mode("auto") == "online"
    return (
        "a key is at hand: runs go online (wandb.mode: auto)"
        if online
        else "no key: runs stay offline; synthmix wandb-sync STUDY later"
    )


def _level(state: LevelState) -> list[str]:
    """A level, whether it is in force, and what it does not cover; what it covers only where it is."""
    level = state.level
    word = "IN FORCE" if state.in_force else f"not here: {state.why_not}" if state.why_not else "would work too"
    covers = [f"    covers: {what}" for what in level.covers if state.in_force]
    return [f"{level.name}: {word}", *covers, *(f"    does not cover: {what}" for what in level.lacks)]
