"""What the ranks of tests/models/test_strategies.py do, started by torchrun, or alone for a world of one.

    sharded_fits.py PLAN

PLAN is a JSON list of fits, done one after the other: ``phase``, ``strategy``, ``folder``, ``model`` (a folder), and
``options`` (keys of a HardwareConfig). Phases: ``whole`` trains without a break; ``stop`` breaks off in the middle of
step 7; ``go-on`` resumes what it finds; ``poison`` has the last rank's gradient become infinite at step 3 and looks at the
weights after; ``load`` trains one step, and tells the memory that making the model took, whether the
model was moved meanwhile, and what is left behind. What each rank saw is written
to FOLDER/PHASE.json.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from transformers import PreTrainedModel

from synthmix import ranks
from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.keys import generator, permutation
from synthmix.models.module import CausalLMModule, NonFiniteLoss
from synthmix.models.strategies import model_factory, whole
from synthmix.models.training import fit
from synthmix.study.out_of_memory import release_memory

#: 33 examples in batches of 8 leave one for the last, which fills one micro-batch of four.
EXAMPLES, BATCH, MICRO = 33, 8, 2
STEPS = 10


def examples() -> MixtureDataModule:
    docs = []
    for i in range(EXAMPLES):
        rng = generator("doc", i)
        docs.append(Encoded(rng.integers(0, 67, int(rng.integers(3, 20))).tolist(), 2))
    return MixtureDataModule(docs, lambda epoch: permutation(EXAMPLES, "order", epoch), BATCH, MICRO)


class Record(Callback):
    """Loss and gradient norm of each step, and this rank's examples in order."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.order: list[str] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        self.order += batch["ids"]

    def on_train_batch_end(self, trainer: L.Trainer, module: CausalLMModule, outputs: Any, batch: Any, i: int) -> None:
        if batch["last"]:
            self.losses.append(module.last_loss)
            self.norms.append(float(module._grad_norm))  # type: ignore[arg-type]


class Stop(Callback):
    """Breaks off before a micro-batch of the seventh step."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == 6:
            raise KeyError("stopped")


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


class Poison(Callback):
    """Makes the gradient of rank 1 (or the only rank) infinite in the third step."""

    def __init__(self) -> None:
        self.unchanged: bool | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: CausalLMModule, *args: object) -> None:
        if trainer.global_step != 2 or hasattr(self, "before"):
            return
        self.before = [whole(p).clone() for p in module.parameters()]
        loss: Callable[..., torch.Tensor] = module._loss
        if ranks.here().rank == ranks.here().world - 1:
            module._loss = lambda **inputs: _Infinite.apply(loss(**inputs))  # type: ignore[method-assign]

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        after = [whole(p) for p in module.parameters()]
        self.unchanged = all(map(torch.equal, self.before, after))


class Memory:
    """Memory of this process that no file backs: what it was, and the most that it was while the model was made."""

    def __init__(self) -> None:
        self.before, self.peak = 0, 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        self.before = self.peak = anonymous()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                self.peak = max(self.peak, anonymous())
                time.sleep(0.001)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """Bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def tensors() -> int:
    """Bytes behind all tensors that Python knows of."""
    found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter) and o.device.type != "meta"]
    return sum({storage.data_ptr(): storage.nbytes() for o in found if (storage := o.untyped_storage())}.values())


def load(strategy: str, model: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    memory, configure = Memory(), CausalLMModule.configure_model
    held, moved = tensors(), False

    def watched(module: CausalLMModule) -> None:
        nonlocal moved
        to = PreTrainedModel.to

        def seen(model: PreTrainedModel, *args: Any, **options: Any) -> PreTrainedModel:
            nonlocal moved
            moved = True
            return to(model, *args, **options)

        PreTrainedModel.to = seen  # type: ignore[method-assign]
        try:
            with memory.watched():
                configure(module)
        finally:
            PreTrainedModel.to = to  # type: ignore[method-assign]

    hardware = HardwareConfig(devices=ranks.here().world, strategy=strategy, micro_batch=MICRO, **options)
    training = TrainingConfig(batch_size=BATCH, max_steps=1)
    CausalLMModule.configure_model = watched  # type: ignore[method-assign]
    try:
        fit(model_factory(model, hardware), examples(), training, hardware, folder, 0.0, weights=folder / "weights")
    finally:
        CausalLMModule.configure_model = configure  # type: ignore[method-assign]
    release_memory()
    return {"bytes": memory.peak - memory.before, "moved": moved, "left": tensors() - held}


def train(phase: str, strategy: str, model: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    hardware = HardwareConfig(devices=ranks.here().world, strategy=strategy, micro_batch=MICRO, **options)
    training = TrainingConfig(batch_size=BATCH, epochs=2, gradient_clip=0.5, weight_decay=0.1)
    record, poison = Record(), Poison()
    also = {"stop": [Stop()], "poison": [poison]}.get(phase, [])
    told: dict[str, Any] = {}
    try:
        result = fit(
            model_factory(model, hardware), examples(), training, hardware, folder, 1e-2, callbacks=[record, *also],
            checkpoint_every_steps=1, weights=folder / "weights",
        )  # fmt: skip
        told = {"steps": result.steps, "resumed": result.resumed_from, "parameters": result.parameters}
    except KeyError:
        assert phase == "stop"
    except NonFiniteLoss as error:
        assert phase == "poison"
        told = {"error": str(error), "unchanged": poison.unchanged}
    return told | {"losses": record.losses, "norms": record.norms, "order": record.order}


def main(plan: str) -> None:
    ranks.join(ranks.find_place(int(os.environ.get("WORLD_SIZE", "1"))), "cpu")
    for job in json.loads(Path(plan).read_text()):
        folder, phase = Path(job["folder"]), job["phase"]
        words = job["strategy"], Path(job["model"]), folder, job["options"]
        everyone = ranks.gather(load(*words) if phase == "load" else train(phase, *words))
        if everyone:
            (folder / f"{phase}.json").write_text(json.dumps(everyone))
    ranks.leave()


if __name__ == "__main__":
    main(sys.argv[1])
