"""Sends written runs to Weights & Biases, in a process of its own that no cell waits for.

That process is ``wandb sync``. A service that is slow, cannot be reached, or answers something that makes the client
crash, costs time and lines there; the runs stay in their folders and can be sent later. A run that was sent has a file
``*.wandb.synced`` beside it, which W&B's own command writes, too.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

#: ``wandb sync``, ended by the system's alarm clock, whatever becomes of the process that started it.
_SYNC = """\
import runpy, signal, sys
seconds = int(sys.argv.pop(1))
if hasattr(signal, "alarm"):
    signal.alarm(seconds)
runpy.run_module("wandb", run_name="__main__", alter_sys=True)
"""


def is_sent(run: Path) -> bool:
    """Whether a run's folder was sent."""
    return any(run.glob("*.wandb.synced"))


def server() -> str:
    """The address of W&B's server, for messages."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _quiet(place: Path) -> dict[str, str]:
    """Environment of ``wandb sync``: online whatever is set, no reports of its own, no files but under ``place``."""
    places = {name: str(place) for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")}
    return {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false"} | places


class Upload:
    """A process that sends some runs and lives for ``timeout`` seconds a run at most."""

    def __init__(self, runs: Sequence[Path], timeout: float) -> None:
        self.runs = list(runs)
        seconds = max(1, math.ceil(timeout * len(self.runs)))
        # WANDB_SERVICE would make it a client of this process's service, which outlives it.
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
        self._scratch = tempfile.TemporaryDirectory(prefix="synthmix-wandb-", ignore_cleanup_errors=True)
        place = Path(self._scratch.name)
        with (place / "said").open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SYNC, str(seconds), "sync", *(str(run.resolve()) for run in self.runs)],
                env=environment | _quiet(place),
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def end(self, seconds: float) -> str:
        """Waits, at most so long, then kills; returns the last line that was said."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        said = (Path(self._scratch.name) / "said").read_text(encoding="utf-8", errors="replace").split("\n")
        self._scratch.cleanup()
        return next((line.removeprefix("wandb: ").strip() for line in reversed(said) if line.strip()), "")


class Uploader:
    """Sends runs in the background, one process at a time; what could not be sent is tried again with the next run.

    Args:
        timeout: seconds for a run; also what :meth:`finish` waits at most, for all that are left.
        say: where a line goes if runs could not be sent.
    """

    def __init__(self, timeout: float, say: Callable[[str], None]) -> None:
        self.timeout, self.say = timeout, say
        self._fresh: list[Path] = []  # not tried yet
        self._failed: list[Path] = []
        self._current: Upload | None = None
        self._complained = False

    def add(self, run: Path) -> None:
        """Takes a run's folder and returns at once."""
        self._fresh.append(run)
        if self._current is not None and self._current.is_over():
            self._reap(0.0)
        if self._current is None:
            again, self._failed, self._fresh = [*self._failed, *self._fresh], [], []
            self._start(again)

    def finish(self) -> list[Path]:
        """Waits for what is under way, then for what came meanwhile, ``timeout`` seconds at most for all of it.

        Returns:
            the runs that were not sent.
        """
        until = time.monotonic() + self.timeout
        if self._current is not None and not self._current.is_over():
            self.say(f"W&B: sending the last runs to {server()}, {self.timeout:g} s at most")
        self._reap(until - time.monotonic())
        # Where the last ones failed (no network, Ctrl-C) these would fare no better.
        if self._fresh and not self._failed and time.monotonic() < until:
            fresh, self._fresh = self._fresh, []
            self._start(fresh)
            self._reap(until - time.monotonic())
        left = list(dict.fromkeys([*self._failed, *self._fresh]))
        if left:
            self.say(
                f"W&B: {_runs(len(left))} not sent and kept offline; 'synthmix wandb-sync STUDY' sends what is left"
            )
        self._fresh, self._failed = [], []
        return left

    def _start(self, runs: Sequence[Path]) -> None:
        runs = [run for run in dict.fromkeys(runs) if run.is_dir() and not is_sent(run)]
        if runs:
            self._current = Upload(runs, self.timeout)

    def _reap(self, seconds: float) -> None:
        if self._current is None:
            return
        runs, said = self._current.runs, self._current.end(seconds)
        self._current = None
        failed = [run for run in runs if run.is_dir() and not is_sent(run)]
        self._failed += failed
        if failed and not self._complained:
            self._complained = True
            self.say(
                f"W&B: {_runs(len(failed))} not sent to {server()} ({said or 'no answer'}); kept offline, tried again later"
            )


def _runs(n: int) -> str:
    return "1 run was" if n == 1 else f"{n} runs were"


_uploader: Uploader | None = None


def background_uploader(timeout: float, say: Callable[[str], None]) -> Uploader:
    """This process's uploader; it is finished when the process ends."""
    global _uploader
    if _uploader is None:
        _uploader = Uploader(timeout, say)
        atexit.register(_finish)
    _uploader.timeout, _uploader.say = timeout, say
    return _uploader


def _finish() -> None:
    global _uploader
    if _uploader is not None:
        with contextlib.suppress(Exception, SystemExit):  # nobody may be left to hear it
            _uploader.finish()
    _uploader = None


def send(runs: Sequence[Path], timeout: float) -> str:
    """Sends runs and waits, ``timeout`` seconds a run at most; returns the last line that W&B's command said."""
    return Upload(runs, timeout).end(timeout * len(runs) + 1) if runs else ""
