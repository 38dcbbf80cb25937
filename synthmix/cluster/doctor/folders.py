"""The caches and the store: where they are, whether they can be written, and what the file system can do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from synthmix.cluster.doctor.finding import Finding, missing, ok, unknown
from synthmix.study.hub_files import existing, size


def examine_caches() -> Iterator[Finding]:
    """Where weights and data are kept; on a cluster, a file system that its compute nodes see."""
    import datasets
    from huggingface_hub import constants

    from synthmix.models.nano import cache_dir

    for name, path in (
        ("Hub cache (HF_HUB_CACHE, HF_HOME)", constants.HF_HUB_CACHE),
        ("data sets (HF_DATASETS_CACHE, HF_HOME)", datasets.config.HF_DATASETS_CACHE),
        ("built models (SYNTHMIX_CACHE)", cache_dir()),
    ):
        yield _folder(name, Path(path))


def _folder(name: str, path: Path) -> Finding:
    free = size(shutil.disk_usage(existing(path)).free)
    try:
        with tempfile.TemporaryDirectory(dir=existing(path), prefix=".synthmix-doctor-"):
            return ok(f"{name}: {path}, {free} free")
    except OSError as error:
        return missing(f"{name}: {path}: cannot be written ({error.strerror})")


def examine_store(root: Path, wanted: float | None) -> Iterator[Finding]:
    """The store's file system: whether it can be written and has room, and what leases rest on."""
    there = existing(root)
    if not there.is_dir():
        yield missing(f"store: {root}: {there} is not a folder")
        return
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".synthmix-doctor-") as folder:
            lacks = file_system_lacks(Path(folder))
    except OSError as error:
        yield missing(f"store: {root}: cannot be written ({error.strerror}); set store.root=...")
        return
    free = shutil.disk_usage(there).free
    if wanted is None:
        yield unknown(f"store: {root}: {size(free)} free; no estimate of what the study takes, since data is missing")
    else:
        said = f"store: {root}: {size(free)} free, the study takes up to {size(wanted)} more"
        yield ok(said) if wanted < free else missing(f"{said}; make room, or set store.root or store.keep=none")
    if lacks:
        yield missing(f"store: its file system lacks {', '.join(lacks)}, which leases of cells rest on")
    else:
        yield ok("store: exclusive creation, rename and hard links work")


def file_system_lacks(folder: Path) -> list[str]:
    """What of exclusive creation, atomic rename and hard links does not work in a folder."""
    lacks = []
    first, second, third = folder / "a", folder / "b", folder / "c"
    os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        lacks.append("exclusive creation")
    except FileExistsError:
        pass
    second.write_text("new")
    os.replace(second, first)
    if first.read_text() != "new" or second.exists():
        lacks.append("rename")
    try:
        os.link(first, third)
        if third.stat().st_nlink != 2:
            lacks.append("hard links (their number is wrong)")
    except OSError:
        lacks.append("hard links")
    return lacks
