"""What a process is told by signals: save and end.

SLURM sends SIGUSR1 some time before a job's limit or its preemption, and SIGTERM when it ends one. Both set a flag; the
work looks at it where it can stop without losing anything (:func:`check`) and ends by :class:`Preempted`. Lightning's
own handlers are not used: they save wherever a step happens to be, and know of no other phase than training.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

#: Asks for the job to be queued again; SIGTERM does not: SLURM queues by itself what it preempts.
AGAIN = signal.SIGUSR1
SIGNALS = (AGAIN, signal.SIGTERM)

_asked: signal.Signals | None = None


class Preempted(BaseException):
    """The process was asked to stop and can do so now; everything up to here is saved.

    Attributes:
        signal: what it was asked by.
        where: how far the work had come, e.g. ``training at step 12 of 48``; may be empty.
    """

    def __init__(self, asked: signal.Signals, where: str = "") -> None:
        super().__init__(asked, where)
        self.signal, self.where = asked, where

    def __str__(self) -> str:
        return f"preempted by {self.signal.name}" + (f" in {self.where}" if self.where else "")


def install() -> None:
    """From now on the signals are noted, also those that arrived while they were held back.

    Whoever starts Python may block SIGUSR1 until this is called (``env --block-signal=USR1``), since its default is to
    kill. Only the main thread can call this.
    """
    for number in SIGNALS:
        signal.signal(number, _note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    # The first one counts: a job that is still saving at its limit gets SIGTERM, and must be queued again all the same.
    if _asked is None:
        _asked = signal.Signals(number)


def asked() -> signal.Signals | None:
    """The signal that asked this process to stop, or None."""
    return _asked


def note(number: int) -> None:
    """Takes note of a signal that another rank received."""
    _note(number, None)


def check(where: str = "") -> None:
    """Ends the work here if it was asked to.

    Raises:
        Preempted: with ``where``.
    """
    if _asked is not None:
        raise Preempted(_asked, where)


def reset() -> None:
    """Forgets a request, for a process that goes on with other work."""
    global _asked
    _asked = None


def uninstall(handlers: Mapping[signal.Signals, Any]) -> None:
    """Gives the signals to other handlers, and forgets what was asked."""
    reset()
    for number, handler in handlers.items():
        signal.signal(number, handler)
