"""What a cell does now: to the user's bar, and to ``progress.json`` for whoever looks at the store."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from synthmix.files import write_json
from synthmix.interrupts import Preempted
from synthmix.study import lease
from synthmix.study.reporting import Bar, Reporter

#: Seconds between two writes of ``progress.json``, which begin with the work and with its first unit.
EVERY_S = 5.0


class _Beat:
    """``{"phase", "done", "total", "unit", "left_s", "updated"}``; ``left_s`` (seconds) is null until there is a rate."""

    def __init__(self, folder: Path, bar: Bar, phase: str, total: int, unit: str) -> None:
        self.folder, self.bar, self.phase, self.total, self.unit = folder, bar, phase, total, unit
        self.done, self._first = 0, (0, time.monotonic())
        self._write(0, None)

    def update(self, done: int) -> None:
        """Takes note that ``done`` are done, counted from the work's start.

        Raises:
            LeaseLost: another process runs the cell now.
        """
        now, begun = time.monotonic(), self.done == 0 and done > 0
        if self.done == 0:  # what was there before, or the first piece, says nothing of the speed
            self._first = done, now
        self.done = done
        self.bar.update(done)
        lease.check(self.folder)
        if begun or now - self._written >= EVERY_S:
            first, started = self._first
            self._write(done, (self.total - done) * (now - started) / (done - first) if done > first else None)

    def _write(self, done: int, left: float | None) -> None:
        self._written = time.monotonic()
        told = {
            "phase": self.phase,
            "done": done,
            "total": self.total,
            "unit": self.unit,
            "left_s": None if left is None else round(left, 1),
            "updated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(self.folder / "progress.json", told)


@contextmanager
def beating(
    reporter: Reporter, folder: Path, label: str, phase: str, where: str, total: int, unit: str
) -> Iterator[Callable[[int], None]]:
    """A bar over ``total`` units of a phase; yields what is told how many are done.

    A request to stop that ends the work within says how far it had come; ``where`` names the work.
    """
    with reporter.bar(label, total, unit) as bar:
        beat = _Beat(folder, bar, phase, total, unit)
        try:
            yield beat.update
        except Preempted as stopped:
            raise Preempted(stopped.signal, stopped.where or f"{where} at {beat.done} of {total} {unit}") from None
        finally:
            (folder / "progress.json").unlink(missing_ok=True)
