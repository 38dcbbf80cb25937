"""Walks the cells of a plan: takes what is ready, waits for what others run, goes on past what failed."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from synthmix.errors import UserError
from synthmix.files import write_json
from synthmix.study import lease
from synthmix.study.cells import Cell, Plan
from synthmix.study.reporting import Reporter
from synthmix.study.store import State, Store

if TYPE_CHECKING:
    from synthmix.study.runner import CellRunner

POLL_S = 0.3


def walk(plan: Plan, store: Store, run: Callable[[Cell], None], reporter: Reporter) -> Counter[State]:
    """Runs every cell that can be run; several processes may walk one plan, each cell is run once.

    A cell that fails is recorded and blocks its descendants only. Returns how many cells ended in which state.
    """
    while True:
        ran, waiting = _pass(plan, store, run, reporter)
        if not ran and not waiting:
            return Counter(states(plan, store).values())
        if not ran:
            time.sleep(POLL_S)


def _pass(plan: Plan, store: Store, run: Callable[[Cell], None], reporter: Reporter) -> tuple[bool, bool]:
    """One scan, parents before children: (a cell was run, something is running elsewhere)."""
    ran = waiting = False
    for cell in plan.cells:
        state = store.state(cell, plan)
        mine = state == "ready" and attempt(cell, plan, store, run, reporter)
        ran |= mine
        waiting |= not mine and state in ("ready", "running", "waiting")
    return ran, waiting


def attempt(cell: Cell, plan: Plan, store: Store, run: Callable[[Cell], None], reporter: Reporter) -> bool:
    """Runs a cell if nobody else does; False if somebody else does."""
    held = lease.acquire(store.folder(cell))
    if held is None:
        return False
    with held:
        if store.state(cell, plan) not in ("running", "ready"):  # done by another between look and lease
            return True
        try:
            run(cell)
        except Exception as error:
            _record(cell, store, error)
            reporter.line(f"{cell.name}: failed: {error}")
        else:
            store.tidy(cell, plan)
    return True


def _record(cell: Cell, store: Store, error: Exception) -> None:
    said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    told = {"error": said, "user_error": isinstance(error, UserError), "traceback": traceback.format_exc()}
    try:
        write_json(store.folder(cell) / "failure.json", told)
    except UserError as full:  # the disk may be what failed: then there is no room for saying so, either
        raise full from error


def clear_failures(plan: Plan, store: Store) -> int:
    """Forgets failures, so that a rerun tries those cells again; returns how many there were."""
    paths = [store.folder(cell) / "failure.json" for cell in plan.cells]
    found = [path for path in paths if path.exists()]
    for path in found:
        path.unlink()
    return len(found)


def states(plan: Plan, store: Store, cells: Iterable[Cell] | None = None) -> dict[str, State]:
    """State of each cell, by hash."""
    return {cell.hash: store.state(cell, plan) for cell in (plan.cells if cells is None else cells)}


def make_runner(plan: Plan, store: Store, reporter: Reporter, threads: int) -> CellRunner:
    """A runner in this process, with its share of the machine's cores."""
    import torch
    import transformers

    from synthmix.study.runner import CellRunner

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()  # one for each load and save, however short
    return CellRunner(plan, store, reporter)
