"""Who is running a cell: a lease on its folder that works on any shared file system.

Lease files are numbered; the holder of the highest number holds the cell. A dead holder's lease is never removed by
others: the next number is created instead, and creation is exclusive, so of many takers exactly one succeeds. A live
holder touches its file; one on the same machine is looked up by process id instead, where /proc tells.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from synthmix.files import disk_errors

#: A holder on another machine is dead when its file was not touched for so long.
STALE_S = 300.0
TOUCH_S = 20.0
#: Start of a process where the system does not tell (no /proc): its lease lives by being touched.
UNKNOWN = "unknown"


class Lease:
    """Held from :func:`acquire` until :meth:`release`; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(TOUCH_S):
            try:
                os.utime(self.path)
            except OSError:  # the folder is away for a moment, or gone for good: either way nothing to touch
                continue

    def release(self) -> None:
        """Lets others have the cell."""
        self._stop.set()
        for path in _files(self.path.parent):
            if _number(path) <= _number(self.path):
                path.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def acquire(folder: Path) -> Lease | None:
    """The lease of a cell's folder, or None if somebody alive holds it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        newest = max(_files(folder), key=_number, default=None)
        if newest is not None and is_alive(newest):
            return None
        path = folder / f"lease.{0 if newest is None else _number(newest) + 1}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w") as file:
            json.dump(_me(), file)
    return Lease(path)


def holder(folder: Path) -> dict[str, Any] | None:
    """Host, process and SLURM job of whoever runs the cell now; None if nobody does."""
    newest = max(_files(folder), key=_number, default=None)
    if newest is None or not is_alive(newest):
        return None
    return _read(newest)


def is_alive(path: Path) -> bool:
    """Whether the holder of a lease file still runs."""
    held = _read(path)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if held is None:  # created, not yet written: give the writer a moment
        return age < TOUCH_S
    if held["host"] == socket.gethostname() and held["started"] != UNKNOWN:
        return _started(held["pid"]) == held["started"]
    return age < STALE_S


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("lease.*") if path.suffix[1:].isdigit()]


def _number(path: Path) -> int:
    return int(path.suffix[1:])


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": _started(pid),
        "job": os.environ.get("SLURM_JOB_ID"),
    }


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's own clock: tells a live holder from a reused process id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc").is_dir() else UNKNOWN
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else rest[18]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return held
