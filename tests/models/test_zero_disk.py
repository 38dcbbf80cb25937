"""ZeRO-3 on a disk: the same steps, resumed with the same bits, and nothing left behind.

What runs among ranks needs libaio-dev and a compiler, for DeepSpeed's file I/O (minutes on first use).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from synthmix.config.schema import HardwareConfig
from synthmix.errors import UserError
from synthmix.models.resuming import find_source
from synthmix.models.sealed import seal
from synthmix.models.zero_disk import own_folder

from .sharded_runs import job, neox, start, told, weights

ZERO = "deepspeed_stage_3"
_HOLD = """
import sys, time
from pathlib import Path
from synthmix.models.zero_disk import own_folder
print(own_folder(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def hold(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    (folder / "weights").mkdir()
    (folder / "weights/0.swp").write_bytes(b"x")
    return process, folder


def test_a_folder_of_ones_own_ends_with_its_process(tmp_path: Path) -> None:
    (tmp_path / "of somebody else").mkdir()
    one, first = hold(tmp_path)
    other, second = hold(tmp_path)
    assert first != second and first.exists(), "two cells on one machine"
    one.communicate()
    assert not first.exists() and second.exists()
    other.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["of somebody else"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    killed, left = hold(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert left.exists()
    mine = own_folder(tmp_path)
    assert not left.exists() and mine.exists()
    forked = os.fork()
    if not forked:
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(forked, 0)
    own_folder(tmp_path)
    assert mine.exists(), "it is in use, by this process itself"


def test_other_ranks_cannot_go_on_from_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    path.mkdir(parents=True)
    seal(path, {"strategy": ZERO, "precision": "32-true", "on_disk": True, "world": 2, "step": 3, "files": {}})
    keys = {"strategy": ZERO, "offload": "all", "offload_folder": "/scratch"}
    assert find_source(tmp_path, HardwareConfig(devices=2, **keys)).path == path
    with pytest.raises(UserError, match=re.escape("by 2 ranks with offload_folder, and the profile cpu has 1")):
        find_source(tmp_path, HardwareConfig(**keys))
    assert path.exists()


@pytest.mark.slow
def test_offloaded_to_a_disk(tmp_path: Path) -> None:
    """Large enough to be swapped: DeepSpeed keeps what is less than a megabyte, here biases and norms."""
    builder = pytest.importorskip("deepspeed.ops.op_builder").AsyncIOBuilder
    if not builder().is_compatible():
        pytest.skip("no libaio-dev")
    disk = tmp_path / "disk"
    disk.mkdir()
    neox(hidden_size=256, num_attention_heads=4, intermediate_size=1024).save_pretrained(tmp_path / "neox")
    jobs = [job("whole", ZERO, "memory")]
    for offload in ("optimizer", "all"):
        options = {"offload": offload, "offload_folder": str(disk)}
        jobs += [job("whole", ZERO, offload, options=options)]
        jobs += [job(phase, ZERO, f"cut-{offload}", options=options) for phase in ("stop", "go-on")]
    start(tmp_path, jobs, 2)
    memory = told(tmp_path / f"memory-{ZERO}", "whole")[0]
    for offload in ("optimizer", "all"):
        found = told(tmp_path / f"{offload}-{ZERO}", "whole")[0]
        assert found["losses"] == pytest.approx(memory["losses"], rel=1e-6)
        assert found["norms"] == pytest.approx(memory["norms"], rel=1e-5)
        cut = tmp_path / f"cut-{offload}-{ZERO}"
        moments = list((cut / "checkpoints/last.ckpt").rglob("offloaded_tensors/rank0?/exp_avg_sq-*.swp"))
        assert len(moments) == 2 and all(path.stat().st_size > 2**20 for path in moments), "it was on the disk"
        assert told(cut, "go-on")[0]["losses"] == found["losses"][6:]
        ours, whole = weights(cut), weights(tmp_path / f"{offload}-{ZERO}")
        assert all(torch.equal(ours[name], whole[name]) for name in whole)
    assert not list(disk.iterdir())
