"""How a run says what it does: lines and progress bars, to a terminal, a log, or the process that started it."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text


class Bar(ABC):
    """Progress of one piece of work: ``update(done)`` counts from its start, not from the last call."""

    @abstractmethod
    def update(self, done: int) -> None: ...


class Reporter(ABC):
    """Where lines and bars go."""

    @abstractmethod
    def line(self, text: str) -> None:
        """Says something that stays."""

    @abstractmethod
    def bar(self, what: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """A bar while something longer than two seconds runs."""


def rate_text(per_second: float, unit: str) -> str:
    """``3.2 steps/s``, or ``2.2 steps/min`` where the number a second would round to nothing.

    >>> rate_text(3.21, "steps"), rate_text(0.037, "steps")
    ('3.2 steps/s', '2.2 steps/min')
    """
    return f"{per_second:.1f} {unit}/s" if per_second >= 1 else f"{60 * per_second:.1f} {unit}/min"


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        return Text(rate_text(task.speed, task.fields["unit"]) if task.speed else "", style="cyan")


def make_progress(console: Console) -> Progress:
    """Description, bar, count, rate and time left."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), _Rate())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


class TerminalReporter(Reporter):
    """Rich bars below lines that stay."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def line(self, text: str) -> None:
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        task = self.progress.add_task(what, total=total, unit=unit)
        yield _RichBar(self.progress, task)
        self.progress.remove_task(task)


class _RichBar(Bar):
    def __init__(self, progress: Progress, task: object) -> None:
        self.progress, self.task = progress, task

    def update(self, done: int) -> None:
        self.progress.update(self.task, completed=done)  # type: ignore[arg-type]


class LogReporter(Reporter):
    """Plain lines; a bar says where it is every half minute. For batch jobs and pipes."""

    EVERY_S = 30.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        yield _LogBar(self, what, total, unit)


class _LogBar(Bar):
    def __init__(self, reporter: LogReporter, what: str, total: int, unit: str) -> None:
        self.reporter, self.what, self.total, self.unit = reporter, what, total, unit
        self.started = self.said = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self.said < self.reporter.EVERY_S or not done:
            return
        self.said = now
        rate = done / (now - self.started)
        left = (self.total - done) / rate
        self.reporter.line(f"{self.what}: {done}/{self.total}, {rate_text(rate, self.unit)}, {left:.0f} s left")


class PipeReporter(Reporter):
    """JSON lines to the process that started this one, which shows them (see :mod:`synthmix.study.workers`)."""

    EVERY_S = 0.25

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def line(self, text: str) -> None:
        self._send({"line": text})

    def _send(self, message: dict[str, object]) -> None:
        try:
            self.stream.write(json.dumps(message) + "\n")
            self.stream.flush()
        except BrokenPipeError:  # whoever started this worker was killed: stop, and leave the cell as it stands
            raise SystemExit(1) from None

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        yield _PipeBar(self, {"bar": what, "total": total, "unit": unit})
        self._send({"bar": None})


class _PipeBar(Bar):
    def __init__(self, reporter: PipeReporter, message: dict[str, object]) -> None:
        self.reporter, self.message, self.said = reporter, message, 0.0

    def update(self, done: int) -> None:
        if time.monotonic() - self.said > self.reporter.EVERY_S:
            self.said = time.monotonic()
            self.reporter._send(self.message | {"done": done})
