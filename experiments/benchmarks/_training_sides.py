"""The sides of the training benchmark, each a function that a process of its own runs, step by step as it is told.

Every side trains the same random weights on the same documents, 32 a step, in the same order, with the same AdamW.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from transformers import (
    DataCollatorForLanguageModeling,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from synthmix.config.schema import DataConfig, HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded, encode_documents
from synthmix.data.records import load_split
from synthmix.models.loading import load_tokenizer
from synthmix.models.training import fit
from synthmix.tasks.gsm8k import GSM8K

BATCH, RATE, SEED, PACKED = 32, 1e-4, 0, 1024
NEOX = {"vocab_size": 50304, "num_hidden_layers": 6, "max_position_embeddings": 2048}
SHAPES: dict[str, Callable[[], PreTrainedModel]] = {
    "pythia-14m": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**NEOX, hidden_size=128, num_attention_heads=4, intermediate_size=512)
    ),
    "pythia-70m": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**NEOX, hidden_size=512, num_attention_heads=8, intermediate_size=2048)
    ),
    # The shape of SmolLM2-135M, with the vocabulary of the tokenizer in use (49,152 in the original).
    "smollm2-135m": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50304,
            hidden_size=576,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    ),
}


class Turns:
    """The parent's end of the pipe says when a step may be taken; each is answered with what it took."""

    def __init__(self, pipe: Connection, shape: str, tokenizer: str, steps: int, tokens: int | None) -> None:
        self.pipe, self.shape, self.steps = pipe, shape, steps
        self.before = _resident()
        self.tokenizer = load_tokenizer(tokenizer)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = "<|padding|>"  # not the EOS, which the Trainer would take out of the loss
        self.documents = documents(self.tokenizer, steps, tokens)
        torch.manual_seed(SEED)
        self.model = SHAPES[shape]()

    def begin(self) -> None:
        """Waits for leave to take the next step."""
        self.pipe.recv()
        self._start, self._cpu = time.perf_counter(), time.process_time()

    def end(self, **values: float) -> None:
        """Tells what the step took: seconds, CPU seconds over all threads, ``values``, and the peak memory so far."""
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before
        self.pipe.send({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, **values})


def _resident() -> int:
    """Bytes that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def documents(tokenizer: Any, steps: int, tokens: int | None = None) -> list[Encoded]:
    task = GSM8K()
    examples = load_split(task, "train", DataConfig())[: steps * BATCH]
    return encode_documents(tokenizer, [task.render(example.record) for example in examples], tokens)


class _OurTurns(Callback):
    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_start(self, *_: object) -> None:
        self.turns.begin()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: dict[str, Any], index: int) -> None:
        if batch["last"]:
            self.turns.end(loss=module.last_loss)
            self.turns.begin()  # after the last turn: until the parent ends this process


def synthmix(turns: Turns, precision: str, hardware: HardwareConfig) -> None:
    """:func:`synthmix.models.training.fit`, which is what a cell calls: Lightning's Trainer and all."""
    hardware.precision = "bf16-mixed" if precision == "bf16" else "32-true"
    order = np.arange(len(turns.documents))
    data = MixtureDataModule(
        turns.documents, lambda epoch: order, BATCH, hardware.micro_batch, padding_free=hardware.padding_free
    )
    training = TrainingConfig(epochs=1, warmup=0.0, schedule="constant")
    with tempfile.TemporaryDirectory() as folder:
        fit(turns.model, data, training, hardware, Path(folder), RATE, callbacks=[_OurTurns(turns)])


class _TheirTurns(TrainerCallback):
    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.turns.begin()

    def on_log(self, args: object, state: Any, control: object, logs: dict[str, Any], **_: object) -> None:
        if "loss" in logs:  # logged after every step
            self.turns.end(loss=float(logs["loss"]), tokens_so_far=float(logs.get("num_tokens", 0)))
            self.turns.begin()


def _arguments(precision: str, folder: str, **changes: Any) -> dict[str, Any]:
    """Defaults but for what makes the sides comparable: batch, rate and schedule, order, precision; nothing is saved."""
    options = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "bf16": precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return options | changes


def hugging_face(turns: Turns, precision: str) -> None:
    """transformers' Trainer, each batch padded to its longest document."""
    from datasets import Dataset

    dataset = Dataset.from_dict({"input_ids": [document.ids for document in turns.documents]})
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            turns.model,
            TrainingArguments(**_arguments(precision, folder)),
            DataCollatorForLanguageModeling(turns.tokenizer, mlm=False),
            dataset,
            callbacks=[_TheirTurns(turns)],
        ).train()


def trl(turns: Turns, precision: str, **changes: Any) -> None:
    """TRL's SFTTrainer; ``changes`` to its settings."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    dataset = Dataset.from_dict({"input_ids": [document.ids for document in turns.documents]})
    with tempfile.TemporaryDirectory() as folder:
        SFTTrainer(
            turns.model,
            args=SFTConfig(**_arguments(precision, folder, **changes)),
            train_dataset=dataset,
            processing_class=turns.tokenizer,
            callbacks=[_TheirTurns(turns)],
        ).train()


def trl_packed(turns: Turns, precision: str) -> None:
    """TRL with ``packing=True`` and its defaults: as many rows of 1,024 tokens as 32 documents fill on average."""
    mean = sum(len(document.ids) for document in turns.documents) / len(turns.documents)
    rows = max(1, round(BATCH * mean / PACKED))
    trl(turns, precision, packing=True, per_device_train_batch_size=rows)


def matrix_rate(turns: Turns, precision: str, size: int = 4096) -> None:
    """The machine's rate in matrix products that are large enough to be at their best: the best of three each turn."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right, out = (torch.randn(size, size, dtype=dtype) for _ in range(3))
    for _ in range(turns.steps):
        turns.begin()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            seconds.append(time.perf_counter() - start)
        turns.end(flops_per_s=2 * size**3 / min(seconds))


SIDES: dict[str, Callable[..., None]] = {
    "synthmix": synthmix,
    "trainer": hugging_face,
    "trl": trl,
    "trl_packed": trl_packed,
    "matrix_rate": matrix_rate,
}


def work(pipe: Connection, side: str, shape: str, precision: str, settings: dict[str, Any]) -> None:
    """What the process of a side does from beginning to end."""
    sys.stdout = open(os.devnull, "w")  # Trainers print every log
    if side.startswith("trl"):
        importlib.import_module("trl")  # its modules are no memory of training
    # what is packed may fill fewer rows than on average
    steps = settings["steps"] + (2 if side == "trl_packed" else 0)
    turns = Turns(pipe, shape, settings["tokenizer"], steps, settings.get("tokens"))
    options = {"hardware": settings["hardware"]} if side == "synthmix" else {}
    SIDES[side](turns, precision, **options)
