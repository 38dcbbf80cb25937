"""Files that survive a kill at any moment: written whole by rename, or appended a line at a time."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthmix.errors import StoreError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Says a full disk or a read-only folder in words, with the path."""
    try:
        yield
    except OSError as error:
        known = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "disk quota exceeded"}
        known |= {errno.EROFS: "the file system is read-only", errno.EACCES: "no permission to write"}
        if error.errno not in known:
            raise
        raise StoreError(
            f"{path}: {known[error.errno]}. Nothing that was finished is lost: make room and run the same command again"
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file whole: a reader sees the old content or the new, never a part."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole, indented, with keys in the order given."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def append_jsonl(path: Path, value: Any) -> None:
    """Appends one line in one write."""
    with disk_errors(path), path.open("ab") as file:
        file.write((json.dumps(value, ensure_ascii=False) + "\n").encode())


def read_jsonl_prefix(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a file that a killed process may have left with a torn last line; the tear is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    return [json.loads(line) for line in data[:whole].splitlines()]
