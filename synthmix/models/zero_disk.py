"""ZeRO-3 that offloads to a disk: a folder of its own for each process, and checkpoints from which training goes on.

DeepSpeed 0.19 copies the files of the disk into a checkpoint and back, but creates Adam's moments only at the first step:
a resumed run would start with none, at step 0, and what is too small for the disk (biases, norms) it would not restore at
all. Here all of it is put back.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_PREFIX = "synthmix-"
#: Held by the process whose folder it is; the kernel lets go of it however the process ends.
_LOCK = "in-use"
#: Locks of this process, which last as long as it does.
_held: list[IO[str]] = []


def own_folder(parent: Path) -> Path:
    """A new folder in ``parent``, gone when this process ends at the latest.

    In one folder the cells of a machine would overwrite each other's files. What processes that were killed have left in ``parent`` is removed.
    """
    for left in parent.glob(f"{_PREFIX}*"):
        _remove_abandoned(left)
    # Locked before it has the name by which others look for it.
    made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    lock = (made / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.append(lock)
    folder = made.rename(made.with_name(made.name.removeprefix(".")))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove_abandoned(folder: Path) -> None:
    # Somebody else's, or being removed: let it be.
    with contextlib.suppress(OSError), (folder / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a child that was forked
        shutil.rmtree(folder, ignore_errors=True)


def restore(engine: Any, checkpoint: Path) -> None:
    """Puts an engine's optimizer in the state of a checkpoint that the same number of ranks has written.

    Args:
        engine: DeepSpeed's, with ZeRO-3 and its optimizer on a disk, after its own ``load_checkpoint``.
        checkpoint: the folder ``checkpoint`` in that of the checkpoint.
    """
    zero, rank = engine.optimizer, engine.global_rank
    file = Path(engine._get_zero_ckpt_name(str(checkpoint.parent), checkpoint.name))
    saved = torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"]
    groups, states = saved["optimizer_state_dict"]["param_groups"], saved["optimizer_state_dict"]["state"]
    for group, values in zip(zero.optimizer.param_groups, groups, strict=True):
        group.update({key: value for key, value in values.items() if key != "params"})
    zero.checkpoint_event_prologue()
    weights = zero.fp32_partitioned_groups_flat
    swapped = [i for i in range(len(weights)) if zero._swappable_optimizer_subgroup(i)]
    stored = checkpoint / "offloaded_tensors" / f"rank{rank:02d}"
    files = dict(zip(swapped, _weights_on_disk(stored), strict=True))
    names = [name for group in groups for name in group["params"]]
    for i, (name, weight) in enumerate(zip(names, weights, strict=True)):
        state = states.get(name, {})
        if i not in files:
            weight.data.copy_(saved["fp32_flat_groups"][i])
            zero.optimizer.state[weight] = dict(state)
            continue
        zero._optimizer_states_and_gradient_swap_in(i)
        weight.data.copy_(_read(files[i], weight))
        zero.optimizer.state[weight] = {
            key: _read(stored / f"{key}-{files[i].name}", weight) if _is_on_disk(value) else value
            for key, value in state.items()
        }
        zero._optimizer_states_and_gradient_swap_out(i)
    zero.reset_swap_buffers()  # the weights of the model follow from these
    zero.checkpoint_event_epilogue()
    # A second fit of a process has other numbers: DeepSpeed's copies would get into its checkpoints.
    own = {f"{weights[i].ds_id}.tensor.swp" for i in swapped}
    for path in Path(zero.optimizer_swapper.swap_folder).glob("*.tensor.swp"):
        if path.name.split("-")[-1] not in own:
            path.unlink()


def _weights_on_disk(folder: Path) -> list[Path]:
    """The files of weights, ``FIRST_LAST.tensor.swp``, by the numbers of their parameters; moments have ``KEY-`` before."""
    files = [path for path in folder.glob("*.tensor.swp") if path.name[0].isdigit()]
    return sorted(files, key=lambda path: int(path.name.split("_")[0]))


def _is_on_disk(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 0


def _read(path: Path, like: Tensor) -> Tensor:
    """The numbers of a file, which is padded at its end."""
    return torch.from_file(str(path), shared=False, size=like.numel(), dtype=like.dtype).clone()
