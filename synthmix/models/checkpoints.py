"""Checkpoints that are whole or not there: written atomically, checked before they are loaded.

A run finds its newest checkpoint by itself: ``checkpoints/*.ckpt``, which its own callbacks write, and
``hpc_ckpt_N.ckpt``, which a Trainer with Lightning's own handler of SLURM's signal leaves (cells have another:
:mod:`.saving`). The second can catch a run anywhere, so its counters are set back to the last finished optimizer step, and
it counts only if no step was under way. Sharded strategies write folders instead of files, sealed by a manifest
(:mod:`.sealed`).
"""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from synthmix.models.sealed import inspect_folder, recover

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name and renames, without holding the file in memory as Lightning's own does."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _inconsistency(checkpoint: dict[str, Any]) -> str | None:
    """Why the parts of a checkpoint do not belong to one moment between two optimizer steps, or None."""
    step = checkpoint["global_step"]
    scheduler = checkpoint["lr_schedulers"][0]["last_epoch"]
    counts = {int(state["step"]) for o in checkpoint["optimizer_states"] for state in o["state"].values()}
    if step == 0:
        return "it holds no finished step"
    if counts != {step} or scheduler != step:
        return f"it was taken during a step: counter {step}, optimizer {sorted(counts)}, schedule {scheduler}"
    return None


def _read(path: Path) -> tuple[int, str | None]:
    """``(optimizer steps, problem or None)`` of a checkpoint file. Tensors stay on disk."""
    try:
        with zipfile.ZipFile(path) as archive:  # its directory is at the end: a cut file fails here
            torn = archive.testzip()
        if torn is not None:
            return 0, f"'{torn}' in it is damaged"
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
        return checkpoint["global_step"], _inconsistency(checkpoint)
    except Exception as error:  # whatever a damaged file brings about, it is not loaded
        return 0, f"it cannot be read ({type(error).__name__}: {error})"


def _inspect(path: Path) -> tuple[int, str | None]:
    return inspect_folder(path) if path.is_dir() else _read(path)


def newest_checkpoint(folder: Path) -> Path | None:
    """The valid checkpoint of ``folder`` with the most optimizer steps, or None.

    Others are renamed to ``*.torn`` with a warning: Lightning would load a left-over ``hpc_ckpt_N.ckpt`` by itself.
    """
    recover(folder / "checkpoints")
    candidates = [*(folder / "checkpoints").glob("*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")]
    valid = []
    for path in candidates:
        step, problem = _inspect(path)
        if problem is None:
            valid.append((step, path.stat().st_mtime, path))
        else:
            log.warning("%s is not used: %s", path, problem)
            _set_aside(path)
    return max(valid)[2] if valid else None


def _set_aside(path: Path) -> None:
    torn = path.with_name(path.name + ".torn")
    if torn.is_dir():
        shutil.rmtree(torn)
    path.rename(torn)


def remove_requeue_checkpoints(folder: Path) -> None:
    """Removes what preemption left in ``folder``; called when the run is done and nothing will resume it."""
    for path in folder.glob("hpc_ckpt_*.ckpt"):
        if path.is_file():
            path.unlink()


def align(checkpoint: dict[str, Any], micro_batches: int, steps_per_epoch: int) -> None:
    """Sets a checkpoint's counters, in place, to those right after its last optimizer step.

    The state is the one that Lightning's ModelCheckpoint leaves in ``on_train_batch_end``, counted in this run's
    ``micro_batches`` a step. A checkpoint from an epoch's end, with the same number of them, is left as it is.
    """
    loop = checkpoint["loops"]["fit_loop"]
    loader = loop["state_dict"]["combined_loader"][0]
    step, same = checkpoint["global_step"], loader["micro_batches"] == micro_batches
    ended = loop["epoch_progress"]["current"]["processed"] * steps_per_epoch == step
    if same and ended:
        return
    epoch = (step - 1) // steps_per_epoch
    done = step - epoch * steps_per_epoch
    for counts in (loop["epoch_progress"]["total"], loop["epoch_progress"]["current"]):
        counts.update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
    batches = loop["epoch_loop.batch_progress"]
    for name, count in (("total", step), ("current", done)):
        n = count * micro_batches
        batches[name].update(ready=n, started=n, processed=n, completed=n - 1)
    batches["is_last_batch"] = done == steps_per_epoch
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1
    loader.update(epoch=epoch, position=done * micro_batches, micro_batches=micro_batches)
