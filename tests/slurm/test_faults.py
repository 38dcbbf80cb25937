"""Ranks that die under ``srun``: the others end, the cell is let go, and the next sweep goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from synthmix.study import lease

if TYPE_CHECKING:
    from tests.slurm.conftest import Site


def ranks_of(folder: Path) -> dict[int, int]:
    """Process ids by rank of the tasks that run the cell of ``folder``."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            word, inside = (process / "cmdline").read_bytes(), (process / "cwd").resolve()
        except OSError:
            continue
        if b"--index" in word and b"synthmix.cli" in word and folder.is_relative_to(inside):
            found |= {int(v.partition(b"=")[2]): int(process.name) for v in variables if v.startswith(b"SLURM_PROCID=")}
    return found


def test_a_task_that_is_killed_takes_the_others_with_it(site: Site) -> None:
    """``srun --kill-on-bad-exit``; what had been trained by then is not trained again."""
    site.profile(**{"micro_batch: 8": "micro_batch: 8\ndevices: 2\nstrategy: ddp"})
    words = ("tiny", "iterations=0", "training.epochs=300")
    site.sweep(*words)
    _, folder = site.cell()
    site.wait_for((folder / "checkpoints/last.ckpt").exists)
    pids = ranks_of(folder)
    assert set(pids) == {0, 1}
    os.kill(pids[1], signal.SIGKILL)
    started = time.monotonic()
    site.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()))
    assert time.monotonic() - started < 60
    site.wait_for(lambda: lease.holder(folder) is None or (folder / "result.json").exists())
    states = site.settle()
    if set(states.values()) != {"done"}:  # rank 0 was ended before it could queue the job again
        site.sweep(*words)
        assert set(site.settle().values()) == {"done"}
    assert json.loads((folder / "train.json").read_text())["resumed"]
