"""Which checkpoint a fit goes on from, and what has to be done before its strategy can load it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from synthmix import ranks
from synthmix.config.schema import HardwareConfig
from synthmix.config.strategies import is_sharded, zero_stage
from synthmix.errors import UserError
from synthmix.models.checkpoints import newest_checkpoint
from synthmix.models.sealed import manifest

#: Beside the checkpoints: one of ZeRO's, converted for this number of ranks.
CONVERTED = ".universal"


@dataclass(frozen=True)
class Source:
    """``checkpoint`` is what was found; ``path`` is what the strategy loads, another one if it had to be converted."""

    checkpoint: Path | None = None
    path: Path | None = None

    @property
    def converted(self) -> bool:
        return self.path != self.checkpoint

    def discard(self) -> None:
        """Removes what was converted, once it is loaded."""
        if self.converted and self.path is not None and ranks.here().rank == 0:
            shutil.rmtree(self.path, ignore_errors=True)


def find_source(folder: Path, hardware: HardwareConfig) -> Source:
    """The newest valid checkpoint in ``folder``, ready for the strategy of ``hardware``; all ranks get the same.

    Raises:
        UserError: it was written by a strategy whose checkpoints this one cannot load.
    """
    found: Any = None
    if ranks.here().rank == 0:
        try:
            found = _find(folder, hardware)
        except UserError as error:  # which all ranks are to leave with
            found = error
    found = ranks.broadcast(found)
    if isinstance(found, UserError):
        raise found
    return cast(Source, found)


def _find(folder: Path, hardware: HardwareConfig) -> Source:
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        return Source()
    told = manifest(checkpoint) if checkpoint.is_dir() else {}
    written = told.get("strategy", "auto or ddp")
    same = written == hardware.strategy if is_sharded(hardware) else not told
    on_disk = bool(told.get("on_disk"))
    if zero_stage(hardware) and same:  # its files of weights in bf16 and in fp32 are others, and those on a disk
        same = told.get("precision") == hardware.precision and on_disk == (hardware.offload_folder is not None)
        written = f"{written} in {told.get('precision')}{' with offload_folder' if on_disk else ''}"
    if not same:
        raise UserError(
            f"{checkpoint}: was written with strategy {written}, and the profile {hardware.name} has {hardware.strategy} "
            f"in {hardware.precision}, which cannot go on from it; expected the same strategy, or remove "
            f"{checkpoint.parent} to train from the start"
        )
    if not zero_stage(hardware) or told["world"] == hardware.devices * hardware.nodes:
        return Source(checkpoint, checkpoint)
    if on_disk:
        raise UserError(
            f"{checkpoint}: was written by {told['world']} ranks with offload_folder, and the profile {hardware.name} has "
            f"{hardware.devices * hardware.nodes}; DeepSpeed converts no checkpoints from a disk: expected "
            f"{told['world']} devices, or remove {checkpoint.parent} to train from the start"
        )
    from synthmix.models.zero import to_universal

    target = checkpoint.with_name(CONVERTED)
    shutil.rmtree(target, ignore_errors=True)
    return Source(checkpoint, to_universal(checkpoint, target))
