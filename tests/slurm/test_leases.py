"""Leases of jobs: whoever asks SLURM knows at once which of them still run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synthmix.study import holder, lease

#: Holds a cell under the name of another machine, so that the process table cannot tell; stays silent.
HOLD = """\
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: "elsewhere"
from synthmix.study import lease
held = lease.acquire(Path(sys.argv[1]))
held._stop.set()
time.sleep(300)
"""


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def job(cluster: None, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Task 3 of an array, which holds the cell ``tmp_path / "cell"``."""
    script = f"exec {sys.executable} -c '{HOLD}' {tmp_path / 'cell'}"
    options = ("--parsable", "--array=3", "--requeue", "--mem=200", "--job-name=lease", f"--output={tmp_path}/log")
    array = slurm("sbatch", *options, f"--chdir={tmp_path}", f"--wrap={script}")
    yield f"{array}_3", tmp_path / "cell"
    slurm("scancel", array)


def until(found: Callable[[], object]) -> None:
    for _ in range(600):
        if found():
            return
        time.sleep(0.1)
    raise TimeoutError(slurm("squeue", "--array"))


def test_a_job_holds_its_cell_while_it_runs(job: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name, cell = job
    monkeypatch.setattr(holder, "STALE_S", 0.0)  # what SLURM does not know is dead
    monkeypatch.setattr(holder, "ANSWER_S", 0.0)
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    until(lambda: lease.holder(cell))
    held = lease.holder(cell)
    assert held is not None and held["job"] == name and held["restarts"] == 0 and held["user"] == os.getuid()
    assert lease.acquire(cell) is None
    slurm("scontrol", "suspend", name)
    assert lease.acquire(cell) is None
    slurm("scontrol", "resume", name)
    slurm("scontrol", "requeue", name)  # it is ended, and waits in the queue
    until(lambda: not lease.holder(cell))
    assert slurm("squeue", "--noheader", f"--jobs={name}", "--states=all", "--format=%T") == "PENDING"
    taken = lease.acquire(cell)
    assert taken is not None and taken.path.name == "lease.1"
    taken.release()
    until(lambda: lease.holder(cell))  # its second run
    held = lease.holder(cell)
    assert held is not None and held["restarts"] == 1
    slurm("scancel", name)
    until(lambda: not lease.holder(cell))


def test_the_lease_of_a_run_before_is_dead_while_the_job_runs(
    job: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, cell = job
    until(lambda: lease.holder(cell))
    before = (cell / "lease.0").read_text()
    slurm("scontrol", "requeue", name)
    until((cell / "lease.1").exists)  # the second run knows its own job's first one, without an answer from SLURM
    other = tmp_path / "other"
    other.mkdir()
    (other / "lease.0").write_text(before)  # one that the first run could not release
    monkeypatch.setattr(holder, "ANSWER_S", 0.0)
    assert lease.holder(other) is None and lease.holder(cell) is not None
