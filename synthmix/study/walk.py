"""Walks the cells of a plan: takes what is ready, waits for what others run, goes on past what failed."""

from __future__ import annotations

import gc
import json
import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from synthmix import ranks
from synthmix.errors import CellError, UserError
from synthmix.files import write_json
from synthmix.study import lease
from synthmix.study.cells import Cell, Plan
from synthmix.study.launch import launch, processes
from synthmix.study.reporting import Reporter
from synthmix.study.store import State, Store

if TYPE_CHECKING:
    from synthmix.study.runner import CellRunner

POLL_S = 0.3
#: A cell that failed so often, and not by the user's doing, is left alone until it is asked for (``--retry-failed``).
MAX_ATTEMPTS = 3


def walk(plan: Plan, store: Store, run: Callable[[Cell], None], reporter: Reporter) -> Counter[State]:
    """Runs every cell that can be run; several processes may walk one plan, each cell is run once.

    A cell that fails is recorded and blocks its descendants only. Returns how many cells ended in which state.
    """
    while True:
        ran, waiting = _pass(plan, store, run, reporter)
        if not ran and not waiting:
            store.sweep(plan)
            return Counter(states(plan, store).values())
        if not ran:
            time.sleep(POLL_S)


def _pass(plan: Plan, store: Store, run: Callable[[Cell], None], reporter: Reporter) -> tuple[bool, bool]:
    """One look at all cells, and the first that can be had is run: (a cell was run, something is running elsewhere)."""
    known = states(plan, store)
    for cell in plan.cells:
        if known[cell.hash] == "ready" and attempt(cell, plan, store, run, reporter):
            return True, False
    return False, any(state in ("ready", "running", "waiting") for state in known.values())


def attempt(cell: Cell, plan: Plan, store: Store, run: Callable[[Cell], None], reporter: Reporter) -> bool:
    """Runs a cell if nobody else does; False if somebody else does.

    A cell that takes several devices is run by processes of its own, unless this is one of them.
    """
    if ranks.here().world == 1 and processes(plan.hardware_of(cell)) > 1:
        return launch(cell, plan, store, reporter)
    held = lease.acquire(store.folder(cell))
    if held is None:
        return False
    with held:
        if store.state(cell, plan) not in ("running", "ready"):  # done by another between look and lease
            return True
        try:
            run(cell)
        except lease.LeaseLost as lost:  # the cell is another's now, and so is what becomes of it
            reporter.line(str(lost))
            return False
        except Exception as error:
            if held.lost():  # then what failed may be that the new holder removed our half-written files
                reporter.line(f"{cell.name}: left to the process that holds it now ({error})")
                return False
            record(cell, store, error)
            reporter.line(f"{cell.name}: failed: {error}")
        else:
            forget_failures(cell, store)
            store.tidy(cell, plan)
    gc.collect()  # of a cell that failed: its model, to which the error referred
    return True


def record(cell: Cell, store: Store, error: Exception) -> None:
    """Writes ``failure.json``: what went wrong, where, and how often something did. Of several ranks the first counts.

    ``final`` says that the cell is not tried again by itself, ``changed`` that the next attempt is another one.
    """
    if (store.folder(cell) / "failure.json").exists():
        return
    user, own = isinstance(error, UserError), isinstance(error, CellError)
    changed = isinstance(error, CellError) and error.changed
    told = {
        "error": str(error) if user or own else f"{type(error).__name__}: {error}",
        "user_error": user,
        "final": own and not changed,
        "changed": changed,
        "attempts": _earlier_attempts(cell, store) + (not user and not changed),
        "job": ranks.slurm_job(),
        "log": os.environ.get("SYNTHMIX_LOG"),
        "host": socket.gethostname(),
        "rank": ranks.here().rank,
        "traceback": traceback.format_exc(),
    }
    try:
        write_json(store.folder(cell) / "failure.json", told)
    except UserError as full:  # the disk may be what failed: then there is no room for saying so, either
        raise full from error


def _earlier_attempts(cell: Cell, store: Store) -> int:
    """How often a cell has failed before this attempt; what the user can put right does not count."""
    try:
        return int(json.loads((store.folder(cell) / "last_failure.json").read_text())["attempts"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def may_try_again(failure: dict[str, Any]) -> bool:
    """Whether a failed cell is tried again without being asked for."""
    again = failure.get("user_error") or int(failure.get("attempts", 1)) < MAX_ATTEMPTS
    return bool(again) and not failure.get("final")


def set_aside(cell: Cell, store: Store) -> None:
    """Makes a failed cell one that can be run; how often it failed, and why last, is kept in ``last_failure.json``."""
    path = store.folder(cell) / "failure.json"
    if path.exists():
        os.replace(path, path.with_name("last_failure.json"))


def forget_failures(cell: Cell, store: Store) -> None:
    """As if the cell had never failed."""
    for name in ("failure.json", "last_failure.json"):
        (store.folder(cell) / name).unlink(missing_ok=True)


def clear_failures(plan: Plan, store: Store, everything: bool = False) -> int:
    """Sets failures aside, so that a rerun tries those cells again; returns how many there were.

    Args:
        everything: also of the cells that failed :data:`MAX_ATTEMPTS` times, and the number of attempts is forgotten.
    """
    failures = {cell: failure for cell in plan.cells if (failure := store.failure(cell)) is not None}
    again = [cell for cell, failure in failures.items() if everything or may_try_again(failure)]
    for cell in again:
        (forget_failures if everything else set_aside)(cell, store)
    return len(again)


def states(plan: Plan, store: Store, cells: Iterable[Cell] | None = None) -> dict[str, State]:
    """State of each cell, by hash."""
    return store.states(plan, cells)


def make_runner(plan: Plan, store: Store, reporter: Reporter, threads: int) -> CellRunner:
    """A runner in this process, with its share of the machine's cores."""
    from synthmix.study.runner import CellRunner

    prepare_process(threads)
    return CellRunner(plan, store, reporter)


def prepare_process(threads: int) -> None:
    """Sets what the libraries read once: the threads, and no bar for each load and save, however short."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
