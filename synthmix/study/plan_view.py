"""A plan in words: the grid, the cells by level, tokens and disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from synthmix.data.records import load_split
from synthmix.study.cells import Cell, Plan
from synthmix.study.store import Store

#: Documents read to estimate lengths, and characters a token where no tokenizer is at hand (English, 50k vocabulary).
SAMPLE, CHARACTERS_A_TOKEN = 64, 4.0
#: Bytes a parameter: exported in fp32, and a checkpoint with AdamW's two moments.
MODEL_BYTES, CHECKPOINT_BYTES = 4, 12


@dataclass(frozen=True)
class Cost:
    """Estimates for some cells: training tokens, tokens of the pools (samples as long as the data's documents, none
    dropped by a filter), and disk at the end (bytes)."""

    cells: int
    done: int
    train_tokens: float
    generated_tokens: float
    disk: float


def estimate(plan: Plan, store: Store, cells: list[Cell]) -> Cost:
    """Sums over ``cells``; document lengths come from the data, four characters a token."""
    lengths = {task: _mean_tokens(plan, task) for task in {cell.task for cell in cells}}
    train = written = disk = 0.0
    for cell in cells:
        examples = plan.counts(cell).total
        epochs = plan.config.training.epochs
        train += examples * epochs * lengths[cell.task]
        pool = max([plan.config.evaluation.diversity_samples, *map(plan.pool_share, plan.children(cell))])
        written += pool * lengths[cell.task]
        kept = _keeps_model(plan, cell)
        disk += cell.parameters * MODEL_BYTES * kept + (pool + examples) * lengths[cell.task] * CHARACTERS_A_TOKEN
    return Cost(len(cells), sum(map(store.is_done, cells)), train, written, disk)


def _keeps_model(plan: Plan, cell: Cell) -> bool:
    keep = plan.config.store.keep
    return keep == "all" or (keep == "leaves" and (cell.parent is None or not plan.children(cell)))


def _mean_tokens(plan: Plan, task_name: str) -> float:
    task = plan.tasks[task_name]
    examples = load_split(task, "train", plan.config.data)[:SAMPLE]
    return sum(len(task.render(e.record).text) for e in examples) / len(examples) / CHARACTERS_A_TOKEN + 1


def print_plan(plan: Plan, store: Store, console: Console) -> None:
    """The table that ``synthmix plan`` shows."""
    config = plan.config
    table = Table(title=f"study {config.name}: {len(plan.cells)} cells", title_justify="left")
    columns = ("level", "cells", "done", "training tokens", "synthetic tokens", "disk")
    for column in columns:
        table.add_column(column, justify="right")
    levels = sorted({cell.level for cell in plan.cells})
    for level in levels:
        cost = estimate(plan, store, [cell for cell in plan.cells if cell.level == level])
        label = f"{level} (baselines)" if level == 0 else f"{level}"
        table.add_row(label, str(cost.cells), str(cost.done), *_amounts(cost))
    if len(levels) > 1:
        cost = estimate(plan, store, list(plan.cells))
        table.add_row("all", str(cost.cells), str(cost.done), *_amounts(cost), style="bold")
    console.print(table)
    console.print(_grid(plan), highlight=False, markup=False)
    largest = max(plan.models.values(), key=lambda model: model.parameters)
    console.print(
        f"While a cell trains, checkpoints take up to {_bytes(largest.parameters * CHECKPOINT_BYTES)} more. "
        f"Tokens are estimated at {CHARACTERS_A_TOKEN:g} characters each.",
        highlight=False,
    )


def _grid(plan: Plan) -> str:
    """The axes of what was planned; grids of a union may not hold every combination."""
    axes: dict[str, list[Any]] = {}
    for cell in plan.cells:
        for axis in ("model", "task", "mode", "proportion", "iteration", "seed"):
            values = axes.setdefault(axis, [])
            if getattr(cell, axis) not in values:
                values.append(getattr(cell, axis))
    return "\n".join(f"  {axis + 's':<12}{', '.join(map(str, values))}" for axis, values in axes.items())


def _amounts(cost: Cost) -> tuple[str, str, str]:
    return _count(cost.train_tokens), _count(cost.generated_tokens), _bytes(cost.disk)


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"
