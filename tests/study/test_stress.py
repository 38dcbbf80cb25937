"""Many processes on one study, killed at random: every cell is completed once, and nothing is left behind.

The walk, the store and the leases are the real ones. The work of a cell is small: it writes what a cell leaves. Two at
once in one cell would be seen by a lock of the kernel's, which ends with its process and which no lease knows of.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from synthmix import keys
from synthmix.config import load_study
from synthmix.files import write_json
from synthmix.study import holder, lease, walk
from synthmix.study.cells import Cell, Plan, make_plan
from synthmix.study.reporting import LogReporter
from synthmix.study.store import Store

Process = multiprocessing.process.BaseProcess
FORK = multiprocessing.get_context("fork")


class Silent(LogReporter):
    """Says nothing."""

    def line(self, text: str) -> None:
        pass


class Work:
    """Runs a cell: takes up to ``longest_s`` and leaves a pool, a model and a result. ``notes`` says what happened."""

    def __init__(self, root: Path, longest_s: float = 0.02) -> None:
        self.longest_s = longest_s
        self.store, self.notes, self.locks = Store(root / "runs"), root / "notes", root / "locks"
        self.locks.mkdir(exist_ok=True)
        self.store.create()

    def note(self, what: str, cell: Cell) -> None:
        with self.notes.open("ab", buffering=0) as file:
            file.write(f"{what} {cell.name}\n".encode())

    def told(self) -> Counter[str]:
        return Counter(line.split()[0] for line in self.notes.read_text().splitlines())

    def run(self, cell: Cell) -> None:
        folder = self.store.folder(cell)
        with (self.locks / cell.name).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("two-at-once", cell)
            self.note("again" if (folder / "result.json").exists() else "begun", cell)
            if cell.parent is not None and not list(self.store.root.glob(f"cells/*-{cell.parent[:8]}/result.json")):
                self.note("before-its-parent", cell)
            # half of them almost nothing, so that kills fall on leases and files as often as on work
            time.sleep(max(0.0, random.Random(uuid.uuid4().int).uniform(-1, 1)) * self.longest_s)
            write_json(folder / "pool.json", {"kept": 10**6})
            (folder / "model").mkdir(exist_ok=True)
            write_json(folder / "model/config.json", {})
            token = uuid.uuid4().hex
            lease.check(folder, now=True)
            write_json(folder / "result.json", {"alert": {"halted": False, "factor": 1.0}, "token": token})
            self.note(f"done-{token}", cell)

    def start(self, plan: Plan) -> Process:
        """A process that walks the plan."""
        process = FORK.Process(target=self._walk, args=(plan,))
        process.start()
        return process

    def _walk(self, plan: Plan) -> None:
        counted = walk.walk(plan, Store(self.store.root), self.run, Silent())
        os._exit(0 if counted["done"] == len(plan.cells) else 1)

    def left(self) -> list[str]:
        """Leases and half-written files."""
        found = [*self.store.root.rglob("lease.*"), *self.store.root.rglob(".*.tmp")]
        return [str(path.relative_to(self.store.root)) for path in found]


def plan_of(seeds: int, *words: str) -> Plan:
    """A baseline and three chains of three iterations for each seed: 10 cells."""
    fixed = ("tasks=[nano-math]", "grids=[]", "iterations=3", "proportions=[0,.2,.5]", f"seeds={list(range(seeds))}")
    return make_plan(load_study("quickstart", [*fixed, *words]))


def end(process: Process, timeout_s: float = 60.0) -> int | None:
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def completions(work: Work, plan: Plan) -> Counter[str]:
    """How often each cell was completed: its result is the one that a process said it wrote, or of one killed there."""
    done: Counter[str] = Counter()
    for line in work.notes.read_text().splitlines():
        what, name = line.split()
        if what.startswith("done-"):
            done[name] += 1
            told = json.loads((work.store.root / "cells" / name / "result.json").read_text())
            assert what == f"done-{told['token']}", "a completed cell was written again"
    return done


@pytest.mark.parametrize(
    "processes,seeds,kills,longest_s",
    [(6, 2, 20, 0.2), pytest.param(16, 6, 150, 2.0, marks=pytest.mark.slow)],
    ids=["20-cells", "60-cells"],
)
def test_each_cell_is_completed_once_whoever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, seeds: int, kills: int, longest_s: float
) -> None:
    monkeypatch.setattr(walk, "POLL_S", 0.02)
    work, plan = Work(tmp_path, longest_s), plan_of(seeds)
    choose = keys.generator("whom to kill", seeds)
    running = [work.start(plan) for _ in range(processes)]
    killed = 0
    deadline = time.monotonic() + 120
    while not all(map(work.store.is_done, plan.cells)):
        assert time.monotonic() < deadline, "the walkers do not come to an end"
        time.sleep(float(choose.uniform(0.002, 0.03)))
        if killed < kills:
            victim = int(choose.integers(len(running)))
            running[victim].kill()
            running[victim].join()
            killed += running[victim].exitcode == -signal.SIGKILL
            running[victim] = work.start(plan)
    assert [end(process) for process in running] == [0] * processes
    assert killed, "nobody was killed: this says nothing"
    done, told = completions(work, plan), work.told()
    assert set(done.values()) == {1} and len(done) >= len(plan.cells) - killed
    assert told["again"] == told["two-at-once"] == told["before-its-parent"] == 0
    assert told["begun"] <= len(plan.cells) + killed
    counted = walk.walk(plan, work.store, work.run, Silent())  # the same command once more
    assert counted == {"done": len(plan.cells)} and work.told()["begun"] == told["begun"]
    work.store.sweep(plan)
    assert work.left() == []


@pytest.mark.slow
def test_cells_that_two_studies_share_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "POLL_S", 0.02)
    work = Work(tmp_path)
    plans = [plan_of(2, "name=one"), plan_of(2, "name=other", "proportions=[0,.5,.7]", "iterations=2")]
    together = {cell.hash for plan in plans for cell in plan.cells}
    shared = set(plans[0].by_hash) & set(plans[1].by_hash)
    assert len(shared) == 10 and len(together) == 24
    running = [work.start(plan) for plan in plans * 3]
    assert [end(process) for process in running] == [0] * 6
    done, told = completions(work, plans[0]), work.told()
    assert done == Counter(cell.name for hash_, cell in (plans[0].by_hash | plans[1].by_hash).items())
    assert told["begun"] == 24 and told["two-at-once"] == told["before-its-parent"] == 0
    assert work.left() == []


def until(found: Callable[[], object]) -> None:
    for _ in range(1500):
        if found():
            return
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.slow
def test_a_stopped_holder_that_goes_on_after_it_was_taken_over_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of another machine, as far as leases can tell, that stands still for longer than a holder may."""
    for module in (holder, lease):
        monkeypatch.setattr(module, "TOUCH_S", 0.05)
    monkeypatch.setattr(holder, "STALE_S", 4.0)
    work, plan = Work(tmp_path), plan_of(1, "iterations=0")
    (cell,) = plan.cells
    folder, go = work.store.folder(cell), tmp_path / "go"

    def wait_and_run(cell: Cell) -> None:
        work.note("waits", cell)
        until(go.exists)
        work.run(cell)

    def elsewhere() -> None:
        socket.gethostname = lambda: "elsewhere"
        counted = walk.walk(plan, Store(work.store.root), wait_and_run, Silent())
        os._exit(0 if counted == {"done": 1} else 1)

    other = FORK.Process(target=elsewhere)
    other.start()
    until(lambda: work.notes.exists() and work.told()["waits"])
    for _ in range(100):  # it touches its file: it lives, for longer than STALE_S
        assert lease.acquire(folder) is None
        time.sleep(0.05)
    assert other.pid is not None
    os.kill(other.pid, signal.SIGSTOP)
    assert walk.walk(plan, work.store, work.run, Silent()) == {"done": 1}
    before = (folder / "result.json").read_bytes()
    go.touch()
    os.kill(other.pid, signal.SIGCONT)
    assert end(other) == 0, "it sees that the cell is done"
    assert (folder / "result.json").read_bytes() == before and not (folder / "failure.json").exists()
    assert sum(what.startswith("done-") for what in work.told()) == 1 and work.left() == []
