"""Training throughput against TRL's SFTTrainer: useful tokens a second, on the same text, with the same loss.

    SYNTHMIX_DATA=DIR python experiments/benchmarks/training.py --tokenizer DIR

Both sides train the same random weights on the same 32 GSM8K documents a step, in the same order, with the same AdamW,
in fp32. TRL is at its defaults but for what makes the two comparable (its defaults are bf16 and another optimizer
setting, see ``trl_config``). The sides take turns, a step each, so that both see the same machine; a step's loss must
agree to 1e-3, every step. Useful tokens are those of the documents, not padding. Needs ``pip install trl``.
"""

from __future__ import annotations

import argparse
import copy
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _bench import summary, write
from lightning.pytorch.callbacks import Callback
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from synthmix.config.schema import DataConfig, HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded, encode_documents
from synthmix.data.records import load_split
from synthmix.models.loading import load_tokenizer
from synthmix.models.training import fit
from synthmix.tasks.gsm8k import GSM8K

BATCH, RATE, SEED = 32, 1e-4, 0
SHAPES: dict[str, Callable[[], PreTrainedModel]] = {
    "pythia-14m": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=50304,
            hidden_size=128,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=2048,
        )
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
    """Two threads that take turns, a training step each; ``seconds[side]`` holds what each step took."""

    def __init__(self) -> None:
        self.go = {"ours": queue.SimpleQueue(), "trl": queue.SimpleQueue()}
        self.started: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {"ours": [], "trl": []}
        self.alone: set[str] = set()

    def wait(self, side: str) -> None:
        self.go[side].get()
        self.started[side] = time.perf_counter()

    def done(self, side: str) -> None:
        """Ends a step of ``side`` and hands over; returns when it is this side's turn again."""
        self.seconds[side].append(time.perf_counter() - self.started[side])
        self.hand_over(side)
        if not self.alone:
            self.wait(side)
        else:
            self.started[side] = time.perf_counter()

    def hand_over(self, side: str) -> None:
        self.go["trl" if side == "ours" else "ours"].put(True)

    @contextmanager
    def side(self, side: str) -> Iterator[None]:
        try:
            yield
        finally:
            self.alone.add(side)
            self.hand_over(side)


class OurTurns(Callback):
    def __init__(self, turns: Turns) -> None:
        self.turns, self.losses = turns, []

    def on_train_start(self, *args: object) -> None:
        self.turns.wait("ours")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: dict[str, Any], index: int) -> None:
        if batch["last"]:
            self.losses.append(module.last_loss)
            self.turns.done("ours")


class TrlTurns(TrainerCallback):
    def __init__(self, turns: Turns) -> None:
        self.turns, self.losses = turns, []

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        self.turns.hand_over("trl")  # ours goes first
        self.turns.wait("trl")

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.turns.done("trl")

    def on_log(self, args: object, state: object, control: object, logs: dict[str, Any], **kwargs: object) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


def train_ours(
    model: PreTrainedModel, docs: list[Encoded], micro_batch: int, callback: Callback, precision: str = "32-true"
) -> None:
    data = MixtureDataModule(docs, lambda epoch: np.arange(len(docs)), BATCH, micro_batch)
    training = TrainingConfig(epochs=1, warmup=0.0, schedule="constant")
    hardware = HardwareConfig(micro_batch=micro_batch, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, data, training, hardware, Path(folder), RATE, callbacks=[callback])


def trl_config(folder: str, **changes: Any) -> Any:
    """TRL's defaults, in fp32, in order, with this benchmark's batch size, rate and schedule, and without saving."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **changes,
    )


def train_trl(
    model: PreTrainedModel,
    docs: list[Encoded],
    tokenizer: PreTrainedTokenizerBase,
    callback: TrainerCallback,
    **changes: Any,
) -> None:
    from datasets import Dataset
    from trl import SFTTrainer

    dataset = Dataset.from_dict({"input_ids": [document.ids for document in docs]})
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            args=trl_config(folder, **changes),
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[callback],
        )
        trainer.train()


def documents(tokenizer: PreTrainedTokenizerBase, steps: int) -> list[Encoded]:
    task = GSM8K()
    examples = load_split(task, "train", DataConfig())[: steps * BATCH]
    return encode_documents(tokenizer, [task.render(example.record) for example in examples])


def duel(
    shape: str, tokenizer: PreTrainedTokenizerBase, steps: int, micro_batch: int, **changes: Any
) -> dict[str, Any]:
    """One warm-up step and ``steps`` timed ones a side; asserts that the losses agree at every step."""
    torch.manual_seed(SEED)
    model = SHAPES[shape]()
    twin = copy.deepcopy(model)
    docs = documents(tokenizer, steps + 1)
    turns = Turns()
    ours, trl = OurTurns(turns), TrlTurns(turns)

    def work() -> None:
        with turns.side("ours"):
            train_ours(model, docs, micro_batch, ours)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with turns.side("trl"):
        train_trl(twin, docs, tokenizer, trl, **changes)
    thread.join()
    difference = max(abs(a - b) for a, b in zip(ours.losses, trl.losses, strict=True))
    assert len(ours.losses) == steps + 1 and difference < 1e-3, (ours.losses, trl.losses)
    tokens = [sum(len(d.ids) for d in docs[i * BATCH : (i + 1) * BATCH]) for i in range(1, steps + 1)]
    result: dict[str, Any] = {"shape": shape, "parameters": sum(p.numel() for p in model.parameters()), **changes}
    for side in ("ours", "trl"):
        seconds = turns.seconds[side][1:]
        rates = [n / s for n, s in zip(tokens, seconds, strict=True)]
        result[side] = {**summary(seconds), "useful_tokens_per_s": median(rates)}
    result["ratio"] = result["ours"]["useful_tokens_per_s"] / result["trl"]["useful_tokens_per_s"]
    result |= {"micro_batch": micro_batch, "largest_loss_difference": difference}
    result |= {"losses_ours": ours.losses, "losses_trl": trl.losses, "tokens_per_step": tokens}
    return result


def solo(
    shape: str, tokenizer: PreTrainedTokenizerBase, steps: int, micro_batch: int, precision: str
) -> dict[str, Any]:
    """Our side alone, in another precision."""
    torch.manual_seed(SEED)
    docs = documents(tokenizer, steps + 1)
    turns = Turns()
    turns.alone.add("trl")
    turns.go["ours"].put(True)
    ours = OurTurns(turns)
    train_ours(SHAPES[shape](), docs, micro_batch, ours, precision=precision)
    seconds = turns.seconds["ours"][1:]
    tokens = [sum(len(d.ids) for d in docs[i * BATCH : (i + 1) * BATCH]) for i in range(1, steps + 1)]
    rates = [n / s for n, s in zip(tokens, seconds, strict=True)]
    return {"shape": shape, "precision": precision, **summary(seconds), "useful_tokens_per_s": median(rates)}


def show(row: dict[str, Any]) -> None:
    ours, trl = (row[side]["useful_tokens_per_s"] for side in ("ours", "trl"))
    changed = "" if "gradient_checkpointing" not in row else " (TRL without gradient checkpointing)"
    print(
        f"{row['shape']}{changed}: {ours:,.0f} useful tokens/s, TRL {trl:,.0f}: {row['ratio']:.1f} times; "
        f"losses within {row['largest_loss_difference']:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True, help="folder of the GPT-NeoX tokenizer")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--steps", type=int, default=5, help="timed steps a side")
    parser.add_argument("--micro-batch", type=int, default=8, help="examples that our side takes at once")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    settings = {"batch_size": BATCH, "learning_rate": RATE, "threads": torch.get_num_threads(), "trl": version("trl")}
    for shape in arguments.shapes:
        results: dict[str, Any] = {"settings": settings, "against_trl": [], "ours_alone": []}
        # TRL recomputes activations by default; on the small shape, also without.
        for changes in [{}, {"gradient_checkpointing": False}] if shape == "pythia-14m" else [{}]:
            row = duel(shape, tokenizer, arguments.steps, arguments.micro_batch, **changes)
            show(row)
            results["against_trl"].append(row | {"load_average": list(os.getloadavg())})
        alone = solo(shape, tokenizer, arguments.steps, arguments.micro_batch, "bf16-mixed")
        print(f"{shape}, bf16 autocast: {alone['useful_tokens_per_s']:,.0f} useful tokens/s", flush=True)
        results["ours_alone"].append(alone | {"load_average": list(os.getloadavg())})
        if not arguments.no_write:
            print(write(f"training-{shape}", results))


if __name__ == "__main__":
    main()
