"""Replays the finished cells of a study as runs of Weights & Biases, and sends them where there is a key."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synthmix.callbacks.wandb import resolve_mode
from synthmix.callbacks.wandb_run import CellRun, first_line, is_written, require_wandb, write_cell_run
from synthmix.callbacks.wandb_upload import is_sent, send, server
from synthmix.errors import DataError, UserError
from synthmix.study import lease
from synthmix.study.cells import Cell, Plan
from synthmix.study.store import Store

Say = Callable[[str], None]


@dataclass
class Written:
    """What became of the finished cells: folders of their runs, how many were new, and why some have none."""

    runs: list[Path] = field(default_factory=list)
    new: int = 0
    problems: list[str] = field(default_factory=list)


def sync_study(plan: Plan, store: Store, say: Say, summary: Callable[[], Path] | None = None) -> None:
    """Writes a run for each finished cell that has none, then the study's own; online, sends what was not sent.

    A run that was written or sent before stays as it is, unless its cell or the list of its studies changed.

    Args:
        say: where lines go.
        summary: writes the run of the study and returns its folder.

    Raises:
        UserError: W&B is disabled or not installed; no cell is finished; a cell's files cannot be read; runs were not
            sent. What was written stays.
    """
    mode = _mode(plan)
    require_wandb()
    finished = [cell for cell in plan.cells if store.is_done(cell)]
    if not finished:
        raise UserError(
            f"study {plan.config.name}: none of its {len(plan.cells)} cells is finished, so there is nothing to send; "
            f"'synthmix run {plan.config.name}' runs them"
        )
    written = write_runs(finished, plan, store)
    present = len(written.runs) - written.new
    say(
        f"study {plan.config.name}: {len(finished)} of {len(plan.cells)} cells {_be(len(finished))} finished; "
        f"{_runs(written.new, 'W&B run')} written, {present} {_were(present)} there already"
    )
    runs = [*written.runs, *_summary(summary, written)]
    if mode == "online":
        send_runs(runs, plan.config.wandb.timeout, say)
    else:
        say(f"offline: the runs lie in {store.root}/cells/*/wandb; with a key and wandb.mode=online, this sends them")
    if written.problems:
        raise UserError("\n".join(["W&B runs that could not be written:", *written.problems]))


def _summary(write: Callable[[], Path] | None, written: Written) -> list[Path]:
    try:
        return [] if write is None else [write()]
    except Exception as error:  # as above; the cells' runs are worth sending without it
        written.problems.append(f"  the study's summary: {first_line(error)}")
        return []


def write_runs(cells: Sequence[Cell], plan: Plan, store: Store) -> Written:
    """Writes the runs of finished cells, each under its cell's lease, as the process that ends a cell does."""
    written = Written()
    for cell in cells:
        folder = store.folder(cell)
        held = lease.acquire(folder)
        if held is None:
            written.problems.append(f"  {cell.name}: another process is at it; try again")
            continue
        with held:
            try:
                run = CellRun.of_folder(folder, plan.config.name)
                written.new += not is_written(run, plan.config.wandb)
                written.runs.append(write_cell_run(run, plan.config.wandb))
            except DataError as error:
                written.problems.append(f"  {error}")
            except Exception as error:  # wandb raises many kinds
                written.problems.append(f"  {cell.name}: W&B: {first_line(error)}")
    return written


def send_runs(runs: Sequence[Path], timeout: float, say: Say) -> None:
    """Sends what was not sent: one run first, so that a service that cannot be reached costs ``timeout`` seconds once.

    Raises:
        UserError: some were not sent.
    """
    waiting = [run for run in runs if not is_sent(run)]
    said = send(waiting[:1], timeout)
    if all(map(is_sent, waiting[:1])):
        said = send(waiting[1:], timeout)
    failed = [run for run in waiting if not is_sent(run)]
    sent = len(waiting) - len(failed)
    say(f"online: {_runs(sent)} sent to {server()}, {len(runs) - len(waiting)} had been sent before")
    if failed:
        raise UserError(
            f"{_runs(len(failed))} {_were(len(failed))} not sent to {server()} within wandb.timeout = {timeout:g} s a run; the last that "
            f"W&B said: {said or 'nothing'}. They are kept offline, and the same command tries again"
        )


def _runs(n: int, what: str = "run") -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _be(n: int) -> str:
    return "is" if n == 1 else "are"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def _mode(plan: Plan) -> str:
    mode = resolve_mode(plan.config.wandb.mode)
    if mode == "disabled":
        given = f"wandb.mode = {plan.config.wandb.mode!r}"
        if plan.config.wandb.mode == "auto":
            given = f"WANDB_MODE = {os.environ.get('WANDB_MODE', '')!r}"
        raise UserError(f"{given}: W&B is switched off; expected auto, online or offline (wandb.mode=offline)")
    return mode
