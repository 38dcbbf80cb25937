"""Where a study stands: what the store says of its cells, and the queue of those that are not done."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from synthmix.cluster import queue
from synthmix.cluster.submissions import Place, jobs_with, places, submissions
from synthmix.study import lease
from synthmix.study.cells import Cell, Plan
from synthmix.study.out_of_memory import in_words, read
from synthmix.study.store import Store
from synthmix.study.walk import states

#: The states of a table, in its order. To the store's own come: ``queued``, in SLURM's queue, and ``lost``, a job that
#: ended and left neither a result nor a reason.
ORDER = ("done", "running", "queued", "ready", "waiting", "failed", "lost", "blocked", "halted")
#: States of which each cell is listed.
LISTED = ("running", "failed", "lost", "blocked", "halted")
#: SLURM's words for an end that is nobody's failure.
_QUIET = ("COMPLETED", "CANCELLED", "PREEMPTED", "REQUEUED")
LOG_LINES = 3


@dataclass(frozen=True)
class CellState:
    """One cell: ``about`` is what a reader wants to know beside the state, ``log`` the last lines of its job's output."""

    cell: Cell
    state: str
    about: str = ""
    log: tuple[str, ...] = ()


def study_state(
    plan: Plan, store: Store, log_lines: int = LOG_LINES, say: Callable[[str], object] = lambda text: None
) -> list[CellState]:
    """The state of each cell of a plan, in its order; ``say`` is told if SLURM could not be asked."""
    known = states(plan, store)
    where = _places(plan, store, known, say)
    return [_one(cell, known[cell.hash], where.get(cell.name), plan, store, log_lines) for cell in plan.cells]


def _places(plan: Plan, store: Store, known: Mapping[str, str], say: Callable[[str], object]) -> dict[str, Place]:
    """Where cells that are not done are queued; SLURM is asked only if something of the store was ever submitted."""
    open_ = {cell.name for cell in plan.cells if known[cell.hash] != "done"}
    if not open_:
        return {}
    found = list(submissions(store))
    try:
        return places(found, queue.tasks(jobs_with(found, open_)))
    except queue.SlurmError as error:  # looked at from a machine without SLURM, or its controller is away
        say(f"What is queued is not known here, and not shown as queued: {error}")
        return places(found, {})


def _one(cell: Cell, state: str, place: Place | None, plan: Plan, store: Store, log_lines: int) -> CellState:
    task = place.task if place is not None else None
    if state == "running":
        return CellState(cell, state, _running(cell, store, place))
    if state == "failed":
        failure = store.failure(cell) or {}
        again = "; queued again" if place and place.is_alive else ""
        counted = f"attempt {failure['attempts']}: " if failure.get("attempts") else ""
        about = f"{counted}{failure.get('error', '')}{again}"
        log = Path(failure["log"]) if failure.get("log") else None
        return CellState(cell, state, about, _tail(log, log_lines))
    if state in ("blocked", "halted"):
        return CellState(cell, state, _culprit(cell, plan, store, state))
    if state in ("ready", "waiting") and task is not None and place is not None:
        if place.is_alive:
            word = "starts" if task.state in ("RUNNING", "CONFIGURING") else task.reason or task.state.lower()
            return CellState(cell, "queued", f"job {task.name}, {word}")
        if task.state not in _QUIET and not task.is_alive:
            return CellState(cell, "lost", f"job {task.name} ended: {task.state}", _tail(place.log, log_lines))
    return CellState(cell, state)


def _running(cell: Cell, store: Store, place: Place | None) -> str:
    held = lease.holder(store.folder(cell)) or {}
    job = (
        f"job {held['job']} on {held.get('host')}"
        if held.get("job")
        else f"process {held.get('pid')} on {held.get('host')}"
    )
    parts = [job, *_progress(store.folder(cell) / "progress.json"), *in_words(read(store.folder(cell)))]
    if place is not None and place.task is not None and place.task.left:
        parts.append(f"limit in {place.task.left}")
    return ", ".join(parts)


def _progress(path: Path) -> list[str]:
    """``evaluate 120/400 items, 35 s left`` of a cell; nothing if it has not said anything yet."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        done = f"{told['phase']} {told['done']}/{told['total']} {told['unit']}"
        left = "" if told["left_s"] is None else f"{datetime.timedelta(seconds=round(told['left_s']))} left of it"
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [done, *([left] if left else [])]


def _culprit(cell: Cell, plan: Plan, store: Store, state: str) -> str:
    if state == "halted":
        return "by a critical alert of its chain"
    for above in plan.ancestors(cell):
        if (failure := store.failure(above)) is not None:
            return f"by {above.name}: {failure.get('error', '')}"
    return ""


def _tail(path: Path | None, lines: int) -> tuple[str, ...]:
    if path is None or not lines or not path.is_file():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = file.read().decode("utf-8", errors="replace")
    return tuple([line for line in text.splitlines() if line.strip()][-lines:])


# -- shown ----------------------------------------------------------------------------------------------------------


def render(plan: Plan, found: Sequence[CellState], limit: int | None = 20) -> list[Table | Text]:
    """The table by level, then a line for each cell that runs, failed or is blocked: at most ``limit`` of each state."""
    counted = Counter(one.state for one in found)
    columns = [state for state in ORDER if counted[state]]
    said = ", ".join(f"{counted[state]} {state}" for state in columns)
    table = Table(title=f"study {plan.config.name}: {said}", title_justify="left")
    for column in ("level", "cells", *columns):
        table.add_column(column, justify="right")
    for level in sorted({one.cell.level for one in found}):
        row = Counter(one.state for one in found if one.cell.level == level)
        table.add_row(str(level), str(row.total()), *(str(row[state] or "") for state in columns))
    shown: list[Table | Text] = [table]
    for state in LISTED:
        ones = [one for one in found if one.state == state]
        shown += [Text("\n".join(_lines(one))) for one in ones[:limit]]
        if limit is not None and len(ones) > limit:
            shown.append(Text(f"{state:<8} … and {len(ones) - limit} more (--all shows them)"))
    return shown


def _lines(one: CellState) -> list[str]:
    first, *rest = one.about.splitlines() or [""]
    return [
        f"{one.state:<8} {one.cell.name}  {first}",
        *(f"{'':9}{line}" for line in (*rest, *(f"| {line}" for line in one.log))),
    ]


def print_status(plan: Plan, store: Store, console: Console, limit: int | None = 20) -> Counter[str]:
    """Shows where a study stands; returns how many cells are in which state."""
    found = study_state(plan, store, say=lambda text: console.print(text, highlight=False, soft_wrap=True))
    for part in render(plan, found, limit):
        console.print(part, highlight=False, soft_wrap=isinstance(part, Text))
    return Counter(one.state for one in found)
