"""Fixtures for tests that watch a cell which another process runs, to meet it in the middle of something."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest


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
    def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool], within_s: float = 150) -> None:
        """Until ``ready``; the process must still be at work then."""
        deadline = time.monotonic() + within_s
        while not ready():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"not within {within_s:g} s"
            time.sleep(0.003)


@pytest.fixture
def watch() -> type[Watch]:
    return Watch
