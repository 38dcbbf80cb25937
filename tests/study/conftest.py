"""Fixtures for tests that meet a cell, which another process runs, in the middle of something, and then compare cells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a process and those that it started: torchrun's ranks, a sweep's workers."""
    started: list[str] = []
    with suppress(FileNotFoundError):
        started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    process.wait()


class Watch:
    """Looks at files that may go away while they are looked at: a log becomes a table, progress ends with its phase."""

    @staticmethod
    def lines(path: Path) -> int:
        """Whole lines of a file; 0 where there is none."""
        try:
            return path.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    @staticmethod
    def phase(folder: Path) -> str:
        """What a cell does now; empty where it does not say."""
        try:
            return str(json.loads((folder / "progress.json").read_text())["phase"])
        except FileNotFoundError:
            return ""

    @staticmethod
    def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool], within_s: float = 600) -> None:
        """Until ``ready``; the process must still be at work then."""
        deadline = time.monotonic() + within_s
        try:
            while not ready():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, f"not within {within_s:g} s"
                time.sleep(0.003)
        except BaseException:  # else it goes on beside the tests that follow
            kill(process)
            raise


@pytest.fixture
def watch() -> type[Watch]:
    return Watch


def tipped_texts(one: Path, other: Path) -> int:
    """Texts in which two cells' samples differ; everything else about samples must be equal, and nearly all texts.

    Weights that differ in their last bits, or the same weights read in other company, can tip a draw whose two best
    candidates lie as close as that: rarely, and on one machine where not on another. Noise that belonged to a place
    instead of a key would make nearly all of them differ.
    """
    mine, theirs = (
        [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()] for folder in (one, other)
    )
    assert [sample["id"] for sample in mine] == [sample["id"] for sample in theirs]
    keys = ("text", "stop", "tokens", "kept")
    apart = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if any(a[key] != b[key] for key in keys)]
    assert len(apart) <= max(1, len(mine) // 500), [(mine[i], theirs[i]) for i in apart[:3]]
    assert all(mine[i]["text"] != theirs[i]["text"] for i in apart)
    return len(apart)


@pytest.fixture
def tipped() -> Any:
    return tipped_texts
