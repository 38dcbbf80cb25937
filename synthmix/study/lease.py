"""Who runs a cell: a lease on its folder that works on any shared file system.

Leases are numbered files. Whoever finds no live holder creates the next number, which is exclusive, looks again, and
only then removes the files of the dead: of many takers at most one holds the cell, and a holder that was taken for dead
finds its file gone before the taker has begun. Who is dead is for :mod:`synthmix.study.holder` to say.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from synthmix.errors import UserError
from synthmix.files import disk_errors
from synthmix.study.holder import TOUCH_S, Record, alive, look, me

#: What ``link`` says where a file system has no links (FAT, some network and user-space ones).
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


class LeaseLost(UserError):
    """Another process has taken this one for dead and runs its cell: nothing more may be written there."""


class Lease:
    """Held from :func:`acquire` until :meth:`release`; use as a context manager."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self._content = path, content
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        _held[path.parent] = self

    def _beat(self) -> None:
        while not self._stop.wait(TOUCH_S) and not self.lost():
            try:
                os.utime(self.path)
            except OSError:  # the folder is away for a moment, or gone for good: either way nothing to touch
                continue

    def lost(self, now: bool = True) -> bool:
        """Whether another process has taken the cell over; without ``now``, as of the last beat."""
        if now and not self._lost and not self._stop.is_set():
            try:
                self._lost = self.path.read_bytes() != self._content
            except FileNotFoundError:
                # a folder that was away may have come back between the two looks, and the lease with it
                self._lost = self.path.parent.is_dir() and not self.path.exists()
            except OSError:  # not known, then
                pass
        return self._lost

    def check(self, now: bool = False) -> None:
        """Raises LeaseLost once the lease is lost; ``now`` asks the file system, which takes a round trip."""
        if self.lost(now):
            raise LeaseLost(
                f"{self.path.parent}: this process was not heard of for long (stopped, or its file system was away), and "
                f"another one runs the cell now. What is there is kept; this process leaves it alone"
            )

    def release(self) -> None:
        """Lets others have the cell."""
        if not self.lost():
            _remove(self.path.parent.glob(".lease.*.tmp"))
            self.path.unlink(missing_ok=True)
        self._stop.set()
        if _held.get(self.path.parent) is self:
            del _held[self.path.parent]

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


_held: dict[Path, Lease] = {}


def check(folder: Path, now: bool = False) -> None:
    """Raises LeaseLost if this process's lease of a cell was taken over; see :meth:`Lease.check`.

    Nothing happens where this process holds no lease of that folder.
    """
    if folder in _held:
        _held[folder].check(now)


def acquire(folder: Path) -> Lease | None:
    """The lease of a cell's folder, or None if somebody alive holds it or takes it just now.

    What a dead holder left half-written (``.*.tmp``) is removed.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        dead = {path: _identity(path) for path in _files(folder)}
        if any(alive(path) for path in dead):
            return None
        path = folder / f"lease.{max(map(_number, dead), default=-1) + 1}"
        content = json.dumps(me()).encode()
        if not _create(path, content):
            return None
        # The dead may have been replaced since they were looked at, and their successor's number may be any.
        others = {other: _identity(other) for other in _files(folder) if other != path}
        if any(found not in (None, dead.get(other)) for other, found in others.items()):
            path.unlink(missing_ok=True)
            return None
        _remove([*dead, *folder.rglob(".*.tmp")])
    return Lease(path, content)


def holder(folder: Path) -> Record | None:
    """Host, process and SLURM job of whoever runs the cell now; None if nobody does."""
    return holders([folder]).get(folder)


def holders(folders: Iterable[Path]) -> dict[Path, Record]:
    """:func:`holder` of each folder that has one. All are seen before SLURM is asked, so that it is asked once."""
    leases = {folder: files for folder in folders if (files := _files(folder))}
    for files in leases.values():
        for path in files:
            look(path)
    living = {folder: max(filter(alive, files), key=_number, default=None) for folder, files in leases.items()}
    seen = {folder: look(path) for folder, path in living.items() if path is not None}
    return {folder: sighting.record or {} for folder, sighting in seen.items() if sighting is not None}


def clear(folder: Path) -> None:
    """Removes what killed processes left of their leases; nothing if a live one holds the cell."""
    if _files(folder) or any(folder.rglob(".*.tmp")):
        held = acquire(folder)
        if held is not None:
            held.release()


def _create(path: Path, content: bytes) -> bool:
    """Creates a lease whole; False if there is one of that number."""
    temporary = path.with_name(f".lease.{json.loads(content)['token']}.tmp")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return _content(path) == content  # a network file system may carry out a request twice
    except FileNotFoundError:  # the temporary file was removed by one who has the cell
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_without_links(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_without_links(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return True


def _files(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names if name.startswith("lease.") and name[6:].isdigit()]


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _identity(path: Path) -> tuple[bytes, int] | None:
    """A lease and its last touch; None if it is gone."""
    content = _content(path)
    try:
        return None if content is None else (content, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
