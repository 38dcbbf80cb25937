"""Checkpoints that are folders, written by all ranks: sealed by a manifest of sums, and in place by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from synthmix.files import write_json

MANIFEST = "manifest.json"
# Hashing does not hold the interpreter; more threads than this wait for the disk.
_THREADS = 8


class SealedCheckpoints:
    """Of a Lightning strategy that saves folders: a folder under the checkpoint's name is whole.

    It is written beside, each rank sums up its share of the files, rank 0 adds the manifest and renames. A process that
    is killed meanwhile leaves the checkpoint before.
    """

    #: What the manifest says beside sums, ranks and step: ``strategy`` and ``precision`` of the hardware profile.
    facts: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        strategy: Any = self  # with what Strategy has
        path = Path(strategy.broadcast(str(filepath)))
        partial = path.with_name(f".{path.name}.part")
        if strategy.global_rank == 0:
            partial.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        strategy.barrier()
        step = checkpoint["global_step"]
        super().save_checkpoint(checkpoint, partial, storage_options)  # type: ignore[misc]
        strategy.barrier()
        sums = _gather(_sums(partial, _files(partial)[strategy.global_rank :: strategy.world_size]))
        if strategy.global_rank == 0:
            facts = self.facts | {"world": strategy.world_size, "step": step}
            seal(partial, facts | {"files": sums})
            replace_folder(partial, path)
        strategy.barrier()


def _gather(mine: dict[str, Any]) -> dict[str, Any]:
    """The entries of all ranks, on rank 0."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return mine
    first = torch.distributed.get_rank() == 0
    found: list[Any] | None = [None] * torch.distributed.get_world_size() if first else None
    torch.distributed.gather_object(mine, found, dst=0)
    return {name: entry for part in found or [] for name, entry in part.items()}


def replace_folder(partial: Path, path: Path) -> None:
    """Puts ``partial`` at ``path``. A kill between the two renames leaves the former one as ``.NAME.old``."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Puts back the folders that a kill caught between the renames of :func:`replace_folder`."""
    for old in folder.glob(".*.old"):
        path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if not path.exists():
            old.rename(path)


def manifest(path: Path) -> dict[str, Any]:
    """What a sealed folder says of itself: ``step``, ``strategy``, ``world``, ``precision``, ``files``.

    Raises:
        OSError, ValueError, KeyError: there is none, or it is damaged.
    """
    told: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if told.pop("sum", None) != _sum_of(told):
        raise ValueError(f"{MANIFEST} is damaged")
    told["step"], told["files"]  # noqa: B018  # a KeyError belongs to the caller
    return told


def seal(folder: Path, told: dict[str, Any]) -> None:
    """Writes what :func:`manifest` reads, with a sum of its own: a flipped digit of the step is found, too."""
    write_json(folder / MANIFEST, told | {"sum": _sum_of(told)})


def _sum_of(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def inspect_folder(path: Path) -> tuple[int, str | None]:
    """``(optimizer steps, problem or None)`` of a sealed folder; every byte of it is read."""
    try:
        told = manifest(path)
    except (OSError, ValueError, KeyError) as error:
        return 0, f"it is not complete ({type(error).__name__}: {error})"
    expected: dict[str, list[Any]] = told["files"]
    missing = [name for name in expected if not (path / name).is_file()]
    if missing:
        return 0, f"'{missing[0]}' in it is missing"
    try:
        found = _sums(path, list(expected))
    except OSError as error:
        return 0, f"it cannot be read ({error})"
    damaged = [name for name in expected if found[name] != list(expected[name])]
    return (0, f"'{damaged[0]}' in it is damaged") if damaged else (int(told["step"]), None)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _sums(folder: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """Size and SHA-256 of each file, which is on the disk afterwards."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _sum(folder / name), names), strict=True))


def _sum(path: Path) -> list[Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return [file.tell(), digest]
