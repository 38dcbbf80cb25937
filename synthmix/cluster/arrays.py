"""From a plan to arrays: which cells SLURM is to run, in which order, and with which options."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from synthmix.config import HardwareConfig
from synthmix.study.cells import Cell, Plan


@dataclass
class Array:
    """Cells of one level on one kind of machine: task I of the array runs the I-th.

    Attributes:
        name: of its files in the submission, e.g. ``l1.gpu1``.
        cells: names of the cells, in the order of the tasks.
        job: SLURM's job id, once submitted.
        after: jobs that must have ended before it begins.
    """

    name: str
    level: int
    hardware: str
    cells: list[str]
    job: str | None = None
    after: list[str] = field(default_factory=list)


def make_arrays(cells: Sequence[Cell], plan: Plan, largest: int) -> list[Array]:
    """An array for each level and profile, parents first; split where it has more than ``largest`` tasks."""
    groups: dict[tuple[int, str], list[str]] = {}
    for cell in cells:
        groups.setdefault((cell.level, plan.hardware_of(cell).name), []).append(cell.name)
    arrays = []
    for (level, hardware), names in sorted(groups.items()):
        parts = [names[i : i + largest] for i in range(0, len(names), largest)]
        for i, part in enumerate(parts):
            suffix = f".{i + 1}" if len(parts) > 1 else ""
            arrays.append(Array(f"l{level}.{hardware}{suffix}", level, hardware, part))
    return arrays


def jobs_before(array: Array, plan: Plan, job_of: Mapping[str, str]) -> list[str]:
    """The jobs that run what an array's cells start from (a cell's whole chain: a grandparent may be asked for a longer
    pool, or for its model again), or those cells themselves for another study.

    Args:
        job_of: the array job of each cell that is queued, by name.
    """
    by_name = {cell.name: cell for cell in plan.cells}
    needed = {one.name for name in array.cells for one in (*plan.ancestors(by_name[name]), by_name[name])}
    return sorted({job_of[name] for name in needed if name in job_of}, key=int)


def sbatch_options(array: Array, profile: HardwareConfig, study: str, folder: Path) -> list[str]:
    """Options of ``sbatch`` for an array; what they mean is in ``man sbatch``.

    ``afterany``: a failed cell blocks its descendants only, which find out and say so; the others of the next level run.
    The signal goes to the cells' processes, not to the shell around them.
    """
    asked = profile.slurm
    limit = f"%{asked.max_tasks}" if asked.max_tasks else ""
    named = {
        "job-name": f"{study}.{array.name}",
        "array": f"0-{len(array.cells) - 1}{limit}",
        "output": f"{folder}/logs/%x.%A_%a.out",
        "open-mode": "append",
        "signal": f"USR1@{asked.warn_s}",
        "nodes": str(profile.nodes),
        "ntasks-per-node": str(profile.devices),
        "cpus-per-task": str(asked.cpus_per_task),
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "gres": asked.gpus,
        "mem": asked.memory,
        "time": asked.time,
        "dependency": f"afterany:{':'.join(array.after)}" if array.after else None,
    }
    return ["--requeue", *(f"--{name}={value}" for name, value in named.items() if value), *asked.sbatch]


def environment_script(profile: HardwareConfig) -> str:
    """What ``slurm/cell.sh`` reads before it runs a cell: modules, setup, and how Python is called."""
    asked = profile.slurm
    python = asked.python or ("python3" if asked.container else sys.executable)
    return "\n".join(
        [
            f"# profile {profile.name}: frozen when the sweep was submitted",
            *(f"module load {shlex.quote(name)}" for name in asked.modules),
            *asked.setup,
            f"SRUN=({' '.join(map(shlex.quote, asked.srun))})",
            f"CONTAINER=({asked.container or ''})",
            f"PYTHON={shlex.quote(python)}",
            "",
        ]
    )


def runnable(plan: Plan, states: Mapping[str, str], lost: Set[str]) -> tuple[list[Cell], list[Cell]]:
    """(cells that a sweep is to run, cells that it cannot).

    Args:
        states: of each cell, by hash; see :meth:`synthmix.study.store.Store.state`.
        lost: hashes of cells that failed and stay so.
    """
    run: list[Cell] = []
    never: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.hash in lost or states[cell.hash] == "halted" or any(a.hash in never for a in plan.ancestors(cell)):
            never[cell.hash] = cell
        elif states[cell.hash] != "done":
            run.append(cell)
    return run, list(never.values())
