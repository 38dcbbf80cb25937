"""Signals ask a process to stop; it stops where it can, and not before it is told how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from synthmix import interrupts
from synthmix.interrupts import Preempted


@pytest.fixture
def listening() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    interrupts.install()
    yield
    interrupts.uninstall(handlers)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_noted_and_ends_the_work_where_it_looks(listening: None, number: signal.Signals) -> None:
    interrupts.check("nowhere")
    os.kill(os.getpid(), number)
    assert interrupts.asked() is number
    with pytest.raises(Preempted, match=f"preempted by {number.name} in the middle") as raised:
        interrupts.check("the middle")
    assert raised.value.signal is number and not isinstance(raised.value, Exception), "no 'except Exception' stops it"


def test_the_first_signal_counts(listening: None) -> None:
    """A job that still saves at its limit gets SIGTERM; it must be queued again all the same."""
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.asked() is interrupts.AGAIN


SCRIPT = """
import sys
print("up", flush=True)
sys.stdin.readline()
from synthmix import interrupts
interrupts.install()
print(interrupts.asked(), len([m for m in sys.modules if m.split(".")[0] in ("torch", "numpy", "lightning")]))
"""


def test_a_signal_before_python_is_ready_is_not_lost() -> None:
    """As slurm/cell.sh starts a cell: SIGUSR1 is blocked from outside, and arrives before there is a handler."""
    command = [sys.executable, "-c", SCRIPT]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]),
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate("go\n", timeout=60)
    assert process.returncode == 0 and said == "10 0\n", "10: SIGUSR1; nothing heavy is imported before it is heard"


def test_exceptions_can_be_sent_to_other_ranks() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Preempted(signal.SIGTERM, "generation")))
    assert (again.signal, again.where) == (signal.SIGTERM, "generation")
