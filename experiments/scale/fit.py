"""One fit, measured: ``python fit.py SPEC OUT``, by torchrun where there are several devices.

SPEC is JSON: ``weights`` (a model folder), ``documents`` (ids of each), ``hardware`` (keys of HardwareConfig),
``batch``, ``steps``, ``warmup`` (steps that are not timed), ``folder`` (the fit's own); ``stop_at`` (a step after which
it is asked to stop) and ``export`` (a folder that gets the trained model) where given. The fit is the project's:
:func:`synthmix.models.training.fit`, with everything that a cell has but loggers and checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from synthmix import interrupts, ranks
from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.config.strategies import is_sharded
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.models.loading import load_model
from synthmix.models.strategies import model_factory, whole
from synthmix.models.training import fit
from synthmix.study.out_of_memory import is_out_of_memory

GIB = 1024**3


class Steps(Callback):
    """The loss of every optimizer step, and the seconds from the end of step ``warmup`` to the last one's.

    The device is waited for at the two ends only: a wait after every step would be one that training has not.
    """

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps = warmup, steps
        self.losses: list[float] = []
        self.times: list[float] = []

    def on_train_start(self, *args: object) -> None:
        self._stamp(wait=True)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: dict[str, Any], index: int) -> None:
        if batch["last"]:
            self.losses.append(module.last_loss)
            self._stamp(wait=len(self.losses) in (self.warmup, self.steps))

    def _stamp(self, wait: bool) -> None:
        if wait and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[self.warmup]


class NoCheckpoints(Callback):
    """Leaves out the checkpoint at the end: 12 bytes a parameter to disk would be most of a run of fifty steps."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]


class Memory:
    """Peak memory of this process: what CUDA's allocator held, or on a CPU the resident set beyond what it began with."""

    def __init__(self, accelerator: str) -> None:
        self.gpu = accelerator == "gpu"
        if not self.gpu:
            self.start = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here

    def peak(self) -> dict[str, float]:
        """GiB."""
        if self.gpu:
            free, total = torch.cuda.mem_get_info()
            return {
                "allocated": torch.cuda.max_memory_allocated() / GIB,
                "reserved": torch.cuda.max_memory_reserved() / GIB,
                "device": (total - free) / GIB,
            }
        return {"resident": (_status("VmHWM") - self.start) / GIB}


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def data(spec: dict[str, Any], hardware: HardwareConfig) -> MixtureDataModule:
    """The documents in order, every epoch."""
    encoded = [Encoded(ids, 1) for ids in spec["documents"]]
    return MixtureDataModule(
        encoded, lambda epoch: np.arange(len(encoded)), spec["batch"], hardware.micro_batch,
        padding_free=hardware.padding_free,
    )  # fmt: skip


class StopAt(Callback):
    """Asks for a stop once so many steps are done, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: dict[str, Any], index: int) -> None:
        if batch["last"] and trainer.global_step == self.step:
            interrupts.note(interrupts.AGAIN)


class Digests(Callback):
    """SHA-256 of every trained weight, whole and in fp32, while the ranks still hold their shares of it."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def on_train_end(self, trainer: Any, module: Any) -> None:
        for name, parameter in module.causal_lm.named_parameters():
            self.found[name] = digest(whole(parameter))


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's numbers in fp32."""
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


def run(spec: dict[str, Any], hardware: HardwareConfig) -> dict[str, Any]:
    """Fits, and returns rank 0's figures with every rank's peak of memory."""
    memory, module = Memory(hardware.accelerator), data(spec, hardware)
    steps, digests = Steps(spec["warmup"], spec["steps"]), Digests()
    weights = Path(spec["weights"])
    made: Any = model_factory(weights, hardware) if is_sharded(hardware) else load_model(weights)
    extra: list[Callback] = [StopAt(spec["stop_at"])] if spec.get("stop_at") else []
    extra += [digests] if spec.get("export") else []
    result = fit(
        made, module, TrainingConfig(epochs=1, max_steps=spec["steps"]), hardware, Path(spec["folder"]),
        spec["learning_rate"], callbacks=[steps, *extra, NoCheckpoints()],
        weights=Path(spec["export"]) if spec.get("export") else None,
    )  # fmt: skip
    figures = {
        "steps": result.steps, "losses": steps.losses, "resumed": result.resumed_from is not None,
        "peak_gib": ranks.gather(memory.peak()), "digests": digests.found, "batch": spec["batch"],
        "hardware": {k: v for k, v in asdict(hardware).items() if k != "slurm"},
    }  # fmt: skip
    return figures | (speed(spec, steps, module) if len(steps.losses) == spec["steps"] else {})


def speed(spec: dict[str, Any], steps: Steps, module: MixtureDataModule) -> dict[str, Any]:
    """Tokens of text a second over the timed steps, and what model FLOPs and memory are estimated from."""
    counts = np.array([len(document) for document in spec["documents"]])
    timed = counts[spec["warmup"] * spec["batch"] : spec["steps"] * spec["batch"]]
    tokens = int(timed.sum())
    fullest = max(batch["inputs"]["input_ids"].numel() for batch in module.loader(0, spec["hardware"]["devices"]))
    return {
        "seconds": steps.seconds, "tokens": tokens, "tokens_per_s": tokens / steps.seconds,
        "mean_length": float((timed**2).sum() / tokens), "step_seconds": np.diff(steps.times).tolist(),
        "fullest_tokens": fullest,
    }  # fmt: skip


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out, hardware = Path(sys.argv[2]), HardwareConfig(**spec["hardware"])
    place = ranks.find_place(hardware.devices * hardware.nodes)
    try:
        ranks.join(place, hardware.accelerator)
        try:
            figures = run(spec, hardware)
        except interrupts.Preempted as stopped:
            figures = {"stopped": str(stopped)}
    except BaseException as error:
        kind = "OutOfMemory" if is_out_of_memory(error) else type(error).__name__
        words = f"{kind}: {str(error).strip()[:600]}"
        out.with_name(f"{out.name}.error{place.rank}").write_text(words, encoding="utf-8")
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # what is left of a group may wait for ranks that are gone
    if place.rank == 0:
        out.write_text(json.dumps(figures), encoding="utf-8")
    ranks.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo can abort at interpreter exit


if __name__ == "__main__":
    main()
