"""What a cell does where memory runs out: once a phase it goes on with half as many sequences at once.

The batch that an optimizer step sees stays what it is, and so do the order of the examples and the loss: half the
micro-batch is twice the accumulation. ``memory.json`` in the cell's folder says what ran out and what is taken instead;
every later attempt starts with that, until the settings that it was found under are changed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from synthmix import ranks
from synthmix.config import HardwareConfig, StudyConfig
from synthmix.errors import CellError
from synthmix.files import write_json

FILE = "memory.json"
Phase = Literal["train", "evaluate", "generate"]

_WHAT: dict[str, str] = {
    "train": "training with micro-batches of {}",
    "evaluate": "evaluation with {} sequences at once",
    "generate": "generation with {} sequences at once",
}
#: Words of libraries for memory that is not to be had, in small letters, beside those that Lightning knows.
_WORDS = (
    "cublas_status_alloc_failed",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "out of memory",
)
#: Characters of a library's message that are passed on: CUDA's goes on for a page.
_SAID = 200


class OutOfMemory(CellError):
    """Memory ran out; says in what, and what is taken instead or what the user can change."""

    def __init__(self, text: str, changed: bool) -> None:
        super().__init__(text)
        self.changed = changed


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, of a device or of the host."""
    import torch
    from lightning.pytorch.utilities.memory import is_oom_error

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError) or not error.args or not isinstance(error.args[0], str):
        return False
    said = error.args[0].lower()  # NCCL's is of "Cuda"
    return is_oom_error(error) or any(word in said for word in _WORDS)


class BatchSizes:
    """How many sequences a device takes at once, by phase.

    Args:
        folder: the cell's.
        hardware, config: the settings; what they say is :attr:`configured`.

    Attributes:
        now: what is taken now; never more than configured.
    """

    def __init__(self, folder: Path, hardware: HardwareConfig, config: StudyConfig) -> None:
        self.folder = folder
        self.hardware, self.config = hardware, config
        self.configured: dict[Phase, int] = {
            "train": rows_at_once(config.training.batch_size, hardware),
            "evaluate": config.evaluation.batch_size,
            "generate": config.generation.batch_size,
        }
        self.now = dict(self.configured)

    def found(self) -> dict[Phase, int]:
        """The sizes that earlier attempts came to, of phases in which memory ran out under these settings."""
        told = self.told().items()
        return {phase: record["at_once"] for phase, record in told if record["under"] == self._under(phase)}

    def told(self) -> dict[Phase, dict[str, Any]]:
        """See :func:`read`."""
        return read(self.folder)

    def answer(self, phase: Phase, error: BaseException) -> OutOfMemory:
        """What is done about an error: half the size from the next attempt on (recorded), or nothing more."""
        size, most = self.now[phase], self.configured[phase]
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:_SAID]}"
        where = f"rank {ranks.here().rank}: " if ranks.here().world > 1 else ""
        what = f"{where}out of memory in {_WHAT[phase].format(size)}"
        if size < most or size == 1:
            half = f", after {most} had been too many" if size < most else ""
            return OutOfMemory(f"{what}{half} ({said}). {self._remedy(phase)}", changed=False)
        smaller = -(-size // 2)
        record = {"configured": most, "at_once": smaller, "error": said, "rank": ranks.here().rank}
        write_json(self.folder / FILE, {**self.told(), phase: record | {"under": self._under(phase)}})
        return OutOfMemory(f"{what} ({said}); from here on {smaller}", changed=True)

    def _under(self, phase: Phase) -> dict[str, Any]:
        """The settings that decide how much memory a phase takes: another value of one makes a record void."""
        profile = dataclasses.asdict(self.hardware)
        names = ["name", "accelerator", "devices", "nodes", "inference_precision"]
        if phase == "train":
            names = [*names[:-1], "precision", "strategy", "offload", "micro_batch", "activation_checkpointing"]
        return {name: profile[name] for name in names} | {"configured": self.configured[phase]}

    def _remedy(self, phase: Phase) -> str:
        ways = self._of_training() if phase == "train" else self._of_inference(phase)
        return (
            f"To take less: {'; '.join([*ways, 'another profile (hardware=...)'])}. Then run it again with "
            "--retry-failed; nothing that was finished is lost"
        )

    def _of_training(self) -> list[str]:
        """Keys of the hardware profile that make training smaller, as far as they are not set yet."""
        size, profile = self.now["train"], self.hardware
        ways = [f"micro_batch: {size // 2}"] if size > 1 else []
        if not profile.activation_checkpointing:
            ways.append("activation_checkpointing: true")
        if profile.strategy in ("auto", "ddp") and profile.devices * profile.nodes > 1:
            ways.append("strategy: deepspeed_stage_3 or fsdp2")
        elif profile.strategy.startswith("deepspeed") and profile.offload == "none":
            ways.append("offload: optimizer")
        return [f"in the profile {profile.name} {', '.join(ways)}"] if ways else []

    def _of_inference(self, phase: Phase) -> list[str]:
        size, key = self.now[phase], "evaluation" if phase == "evaluate" else "generation"
        ways = [f"{key}.batch_size={size // 2}"] if size > 1 else []
        if self.hardware.inference_precision == "32-true":
            ways.append(f"in the profile {self.hardware.name} inference_precision: bf16-true (other cells)")
        return ways


def read(folder: Path) -> dict[Phase, dict[str, Any]]:
    """Content of a cell's ``memory.json``: by phase what was ``configured``, what is taken ``at_once`` instead, the
    ``error``, its ``rank``, and the settings that it was found ``under``. Empty where memory never ran out."""
    try:
        return cast(dict[Phase, dict[str, Any]], json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def rows_at_once(batch_size: int, hardware: HardwareConfig) -> int:
    """The most examples of a micro-batch: a profile's ``micro_batch``, or fewer where a batch leaves no more."""
    from synthmix.data.batching import micro_batches_per_step

    world = hardware.devices * hardware.nodes
    return -(-batch_size // (micro_batches_per_step(batch_size, hardware.micro_batch, world) * world))


def in_words(told: Mapping[Phase, Mapping[str, Any]]) -> list[str]:
    """``train: 16 at once, 32 ran out of memory`` for each phase of ``memory.json``."""
    return [
        f"{phase}: {record['at_once']} at once, {record['configured']} ran out of memory"
        for phase, record in told.items()
    ]


def release_memory() -> None:
    """Gives freed memory back to the system.

    glibc keeps it in its arenas, where it lies in pieces that the next phase may not fit: a process that trained a
    135M model on a CPU held 7.4 GB ever after, and grew by more with each cell.
    """
    from lightning.pytorch.utilities.memory import garbage_collection_cuda

    garbage_collection_cuda()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
