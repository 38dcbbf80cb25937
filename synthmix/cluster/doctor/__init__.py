"""What this machine has and lacks: as it is, or for a study, need by need. No network is asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from synthmix.callbacks.wandb import resolve_mode
from synthmix.cluster.doctor.devices import examine_devices, machine_memory
from synthmix.cluster.doctor.finding import Finding, missing, ok, unknown
from synthmix.cluster.doctor.folders import examine_caches, examine_store
from synthmix.cluster.doctor.slurm import examine_slurm
from synthmix.config import DataConfig, ModelConfig, StudyConfig, load_hardware, load_study
from synthmix.data.records import data_root, find_layout
from synthmix.errors import UserError
from synthmix.evaluation.sandbox import LevelState, best_level, describe_levels
from synthmix.study.fetch import models_of, tasks_of
from synthmix.study.hub_files import size
from synthmix.study.offline import Offline, check_offline
from synthmix.study.runner import versions
from synthmix.study.workers import cores
from synthmix.tasks import get_task, task_names


def print_machine(console: Console) -> None:
    """What the machine has, whatever is to run on it."""
    for title, lines in (
        ("versions", _versions()),
        ("machine", _machine()),
        ("data", _data()),
        ("W&B", [_wandb()]),
        ("sandbox for generated programs", [line for state in describe_levels() for line in _level(state)]),
    ):
        _print(console, title, lines)


def _print(console: Console, title: str, lines: Iterable[str]) -> None:
    console.print(f"[bold]{title}[/bold]", highlight=False)
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _versions() -> list[str]:
    return [f"{name} {version}" for name, version in versions().items()]


# -- a study's needs --------------------------------------------------------------------------------------------------


def examine_study(arguments: list[str], console: Console) -> int:
    """Prints each need of a study as OK, MISSING or unknown; returns how many are missing.

    Args:
        arguments: the study and its settings, as the command line takes them.

    Raises:
        UserError: the study itself has problems.
    """
    config = load_study(arguments[0], arguments[1:])
    absent = 0
    _print(console, "versions", _versions())
    for title, findings in _needs(config, arguments):
        _print(console, title, [])
        for finding in findings:
            absent += finding.state == "MISSING"
            said = finding.what.replace("\n", "\n" + 10 * " ")
            console.print(f"  {finding.state:<8}{said}", highlight=False, markup=False, soft_wrap=True)
    said = f"{absent} missing" if absent else "nothing is missing"
    console.print(f"study {config.name}: {said}", highlight=False, markup=False)
    return absent


def _needs(config: StudyConfig, arguments: list[str]) -> Iterator[tuple[str, Iterable[Finding]]]:
    offline = check_offline(arguments)
    yield "weights, without a network", _loadable(offline, "models")
    yield "data, without a network", _loadable(offline, "data")
    profiles: dict[str, list[ModelConfig]] = {}
    for name, model in models_of(config).items():
        profiles.setdefault(config.hardware_of.get(name, config.hardware), []).append(model)
    loaded = {name: load_hardware(name) for name in profiles}
    for name, profile in loaded.items():
        yield f"hardware {name}", examine_devices(profile, profiles[name])
    yield "SLURM", examine_slurm(loaded, config.name)
    yield "caches", examine_caches()
    yield "store", examine_store(Path(config.store.root), offline.disk)
    yield "W&B", [examine_wandb(config.wandb.mode)]
    if any(task.executes for task in tasks_of(config).values()):
        yield "sandbox for generated programs", [examine_sandbox()]


def _loadable(offline: Offline, kind: str) -> Iterator[Finding]:
    found = offline.models if kind == "models" else offline.data
    for name, finding in found.items():
        yield missing(f"{name}: {finding.problem}") if finding.problem else ok(f"{name}: {finding.found}")


def examine_wandb(wanted: str) -> Finding:
    """Whether runs can go where the study sends them."""
    has_key = resolve_mode("auto") == "online"
    mode = resolve_mode(wanted)
    if mode == "online" and wanted == "online" and not has_key:
        return missing("wandb.mode = online, but no key is at hand: run 'wandb login' or set WANDB_API_KEY")
    if mode == "online":
        return unknown(
            "a key is at hand: runs go online, if compute nodes have a network; else synthmix wandb-sync STUDY"
        )
    return ok(f"runs are {mode}" + ("; synthmix wandb-sync STUDY sends them" if mode == "offline" else ""))


def examine_sandbox() -> Finding:
    """How programs of models are confined here; compute nodes may permit less."""
    try:
        level = best_level()
    except UserError as error:
        return missing(str(error))
    if level.name == "limits":
        return unknown(
            "limits only: programs can reach all that you can; 'synthmix doctor' says what other levels lack"
        )
    return ok(f"{level.name} is in force here")


# -- the machine ------------------------------------------------------------------------------------------------------


def _machine() -> list[str]:
    import torch

    free = size(shutil.disk_usage(Path.cwd()).free)
    lines = [f"{cores()} cores, {size(machine_memory())} of memory, {free} free on the disk here"]
    if not torch.cuda.is_available():
        lines.append("no CUDA device: hardware=cpu or cpu-bf16")
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        lines.append(f"GPU {i}: {device.name}, {size(device.total_memory)}")
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
    real = [name for name in task_names() if get_task(name).source is not None]
    return [f"SYNTHMIX_DATA = {root}", *(f"  {name}: {_layout(name, config)}" for name in real)]


def _layout(name: str, config: DataConfig) -> str:
    task = get_task(name)
    assert task.source is not None
    try:
        layout, root = find_layout(task, task.source, config)
    except UserError as error:
        return str(error)
    assert root is not None
    absent = [part.place for part in layout.splits.values() if not (root / part.place).is_file()]
    if absent:
        return f"missing: {', '.join(absent)}"
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
