"""This process among the processes that run one cell together: one a device, started by ``srun`` or ``torchrun``.

Rank 0 decides and writes; the others do what it says. What is said goes over gloo, also between GPUs, so that a rank
that waits for a word costs nothing, and learns at once when the one that it waits for is gone. In a world of one all of
this does nothing.

A rank that dies takes the others with it: on the CPU they see its connection close; on GPUs, where NCCL may wait for what
never comes, whoever started them ends them (torchrun and ``srun --kill-on-bad-exit``: SIGTERM, and SIGKILL 30 s later).
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from synthmix.errors import UserError

T = TypeVar("T")

#: Ranks may wait long for rank 0, which waits for a cell that another job runs.
TIMEOUT = datetime.timedelta(days=7)
#: How long a rank may keep the others waiting within training: it may write a checkpoint, but not stand still for ever.
#: NCCL's watchdog then ends the process (TORCH_NCCL_ASYNC_ERROR_HANDLING, on by default); gloo raises.
STEP_TIMEOUT = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Place:
    """A process among ``world`` of them; ``local`` counts on its node, ``node`` the nodes."""

    rank: int = 0
    world: int = 1
    local: int = 0
    node: int = 0


_here = Place()
#: The group over which rank 0 is waited for (a ProcessGroup).
_words: Any = None


def find_place(processes: int, environment: Mapping[str, str] = os.environ) -> Place:
    """The place that torchrun, or else SLURM's ``srun``, gave this process.

    Args:
        processes: as many as the hardware profile has devices on all nodes. For one, the surroundings do not matter.

    Raises:
        UserError: this process is not one of so many.
    """
    if processes == 1:
        return Place()
    if "LOCAL_RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")
    else:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID")
    found = [int(environment.get(name, default)) for name, default in zip(names, (0, 1, 0, 0), strict=True)]
    place = Place(*found)
    if place.world != processes:
        raise UserError(
            f"the hardware profile asks for {processes} processes, one a device, but this one is 1 of {place.world}; "
            f"expected srun --ntasks={processes} (slurm/sweep.sh does it), torchrun, or 'synthmix run', which starts them"
        )
    return place


def join(place: Place, accelerator: str) -> None:
    """Meets the other ranks; Lightning takes over the group that is made here.

    Args:
        accelerator: ``cpu`` or ``gpu``; a rank takes the GPU of its number on the node.
    """
    global _here, _words
    if place.world == 1:
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if accelerator == "gpu":
        torch.cuda.set_device(place.local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    os.environ.setdefault("MASTER_ADDR", _address(os.environ))
    os.environ.setdefault("MASTER_PORT", str(_port(os.environ)))
    distributed.init_process_group(backend, rank=place.rank, world_size=place.world, timeout=STEP_TIMEOUT)
    _words = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    _here = place


def leave() -> None:
    """Ends the group, if there is one."""
    global _here, _words
    if _here.world > 1:
        from torch import distributed

        distributed.destroy_process_group()
    _here, _words = Place(), None


def here() -> Place:
    """This process's place; that of a process alone before :func:`join`."""
    return _here


def broadcast(value: T | None = None) -> T:
    """What rank 0 gave, on every rank."""
    if _here.world == 1:
        return cast(T, value)
    from torch import distributed

    held: list[Any] = [value]
    distributed.broadcast_object_list(held, src=0, group=_words)
    return cast(T, held[0])


def gather(value: T) -> list[T]:
    """On rank 0 what each rank gave, by rank; elsewhere an empty list."""
    if _here.world == 1:
        return [value]
    from torch import distributed

    found: list[Any] | None = [None] * _here.world if _here.rank == 0 else None
    distributed.gather_object(value, found, dst=0, group=_words)
    return found or []


def highest(number: int) -> int:
    """The highest number that a rank gave, on every rank; for within training, where none is waited for long."""
    if _here.world == 1:
        return number
    import torch
    from torch import distributed

    held = torch.tensor([number])
    distributed.all_reduce(held, op=distributed.ReduceOp.MAX)
    return int(held)


def barrier() -> None:
    """Waits until every rank is here."""
    highest(0)


def _address(environment: Mapping[str, str]) -> str:
    """The node of rank 0: the first of the step's list.

    >>> [_address({"SLURM_STEP_NODELIST": nodes}) for nodes in ("gpu[07-09,12],gpu3", "a1,a2", "login")]
    ['gpu07', 'a1', 'login']
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def _port(environment: Mapping[str, str]) -> int:
    """A port that all ranks of a step know without asking: jobs and steps on one node have others."""
    job, step = (int(environment.get(name) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 15000 + (job * 31 + step) % 15000


# -- SLURM's job ----------------------------------------------------------------------------------------------------


def slurm_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The SLURM job that this process belongs to, of an array as ``JOB_TASK``; None outside SLURM."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")


def slurm_line(environment: Mapping[str, str] = os.environ) -> str | None:
    """What a log says first: job, node and which restart it is; None outside SLURM.

    >>> slurm_line({"SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1", "SLURM_RESTART_COUNT": "2"})
    'SLURM job 12, node n1, restart 2'
    """
    job = slurm_job(environment)
    if job is None:
        return None
    node, restart = environment.get("SLURMD_NODENAME", ""), environment.get("SLURM_RESTART_COUNT", "0")
    number = environment.get("SLURM_JOB_ID", job)
    parts = [f"SLURM job {job}" + (f" ({number})" if number != job else "")]
    parts += [f"node {node}"] if node else []
    parts += [f"restart {restart}"] if restart != "0" else []
    return ", ".join(parts)
