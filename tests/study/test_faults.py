"""Faults that are put into a cell: a loss that is no number, and memory that runs out.

Whatever happens is said, nothing that was finished is lost, and a cell that goes on ends with the numbers of one that met
no fault.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file

from synthmix.config import load_study
from synthmix.config.schema import HardwareConfig
from synthmix.evaluation.likelihood import document_logprobs
from synthmix.generation.backbone import Backbone
from synthmix.generation.engine import Completion, Generator
from synthmix.models.checkpoints import newest_checkpoint
from synthmix.models.export import export
from synthmix.models.loading import load_model, load_tokenizer
from synthmix.models.module import CausalLMModule
from synthmix.study import lease
from synthmix.study.out_of_memory import BatchSizes, is_out_of_memory, rows_at_once

Run = Callable[..., tuple[int, str]]
#: A baseline of eight optimizer steps, two an epoch.
WORDS = ("tiny", "iterations=0", "training.epochs=4", "hardware=small")
CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.15 GiB of which 3.25 MiB is free."


@pytest.fixture
def small(workplace: Path) -> Path:
    """The workplace, with a profile of small micro-batches: four a step."""
    (workplace / "configs/hardware").mkdir(parents=True)
    profile(workplace, 8)
    return workplace


def profile(workplace: Path, micro_batch: int) -> None:
    (workplace / "configs/hardware/small.yaml").write_text(f"micro_batch: {micro_batch}\n")


def folder_of(root: Path) -> Path:
    """The folder of the baseline."""
    (folder,) = (root / "cells").glob("*.baseline.*")
    return folder


def result_of(root: Path) -> dict[str, Any]:
    return json.loads((folder_of(root) / "result.json").read_text())


def numbers(root: Path) -> dict[str, Any]:
    """What a cell found out, without times."""
    folder = folder_of(root)
    samples = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    return {
        "weights": [tensor.tobytes() for tensor in load_file(folder / "model/model.safetensors").values()],
        "items": pd.read_parquet(folder / "items.parquet").to_json(orient="records"),
        "samples": [(sample["id"], sample["text"], sample["kept"]) for sample in samples],
        "loss": result_of(root)["train"]["loss"],
    }


# -- a loss that is no number ---------------------------------------------------------------------------------------


class Poison:
    """Makes the loss, or only its gradient, infinite at an optimizer step, once; looks at the checkpoint before."""

    def __init__(self, what: str, step: int, folder: Callable[[], Path]) -> None:
        self.what, self.step, self.folder = what, step, folder
        self.examples: list[str] = []
        self.checkpoint = b""

    def install(self, patch: pytest.MonkeyPatch) -> None:
        train = CausalLMModule.training_step

        def poisoned(module: CausalLMModule, batch: dict[str, Any], index: int) -> torch.Tensor:
            loss = train(module, batch, index) if self.what == "gradient" else None
            if module.global_step == self.step:
                self.examples += batch["ids"]
                self.checkpoint = (self.folder() / "checkpoints/last.ckpt").read_bytes()
                if len(self.examples) == 24:  # in the third of four micro-batches
                    self._poison(module, loss)
            return train(module, batch, index) if loss is None else loss

        patch.setattr(CausalLMModule, "training_step", poisoned)

    def _poison(self, module: CausalLMModule, loss: torch.Tensor | None) -> None:
        if loss is None:
            next(module.causal_lm.parameters()).data.fill_(float("nan"))
        else:
            loss.register_hook(lambda gradient: gradient * float("inf"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_that_diverges(in_process: Run, small: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The step and its examples are said, the checkpoint of the epoch before stays, and --retry-failed goes on from it."""
    words = (*WORDS, "iterations=1", "proportions=[0.5]")
    poison = Poison(what, 5, lambda: folder_of(small / "runs"))
    with monkeypatch.context() as patch:
        poison.install(patch)
        status, said = in_process("run", *words)
        assert status == 1, said
    folder = folder_of(small / "runs")
    failure = json.loads((folder / "failure.json").read_text())
    found = re.fullmatch(
        r"training diverged at optimizer step 6: (loss|gradient norm) (nan|inf); examples of the batch: (.*)",
        failure["error"],
    )
    assert found is not None and found[1] == ("loss" if what == "loss" else "gradient norm"), failure["error"]
    assert sorted(found[3].split(", ")) == sorted(poison.examples) and len(poison.examples) == 32
    assert (failure["user_error"], failure["final"], failure["attempts"]) == (False, True, 1)
    assert (folder / "checkpoints/last.ckpt").read_bytes() == poison.checkpoint != b""
    assert newest_checkpoint(folder) == folder / "checkpoints/last.ckpt"
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=False)["global_step"] == 4
    assert not (folder / "model").exists() and not list(folder.glob("lease.*"))
    said = " ".join(said.split())
    assert "1 failed, 1 blocked" in said and f"by {folder.name}: training diverged at optimizer step 6" in said

    before = sorted(path.name for path in folder.iterdir())
    status, said = in_process("run", *words)
    assert status == 1 and "left alone (--retry-failed)" in " ".join(said.split()), "it would diverge again"
    status, said = in_process("cell", "runs/studies/tiny/plan.json", "--name", folder.name)
    assert status == 1 and "training diverged" in said and "--retry-failed tries again, from where it stands" in said
    assert sorted(path.name for path in folder.iterdir()) == before

    status, said = in_process("run", *words, "--retry-failed")
    assert status == 0, said
    assert result_of(small / "runs")["train"]["resumed"]
    assert in_process("run", *words, "store.root=whole")[0] == 0
    assert numbers(small / "runs") == numbers(small / "whole")


# -- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                      "to allocate 4000 bytes. Error code 12 (Cannot allocate memory)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'"), True),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError(), False),
        (RuntimeError(3), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_allocation_that_cannot_be_had() -> None:
    """What torch really says, here."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("micro_batch", "devices", "rows"), [(32, 1, 32), (24, 1, 16), (11, 1, 11), (32, 8, 4), (1, 2, 1), (64, 1, 32)]
)
def test_examples_that_a_device_takes_at_once(micro_batch: int, devices: int, rows: int) -> None:
    assert rows_at_once(32, HardwareConfig(micro_batch=micro_batch, devices=devices)) == rows


def test_sizes_are_halved_once_and_remembered_under_the_same_settings(workplace: Path) -> None:
    config = load_study("tiny", ["evaluation.batch_size=5"])
    hardware = HardwareConfig(name="mine", micro_batch=24)
    sizes = BatchSizes(workplace, hardware, config)
    assert sizes.now == {"train": 16, "evaluate": 5, "generate": 128} and sizes.found() == {}
    first = sizes.answer("train", torch.OutOfMemoryError(CUDA))
    assert first.changed and str(first).startswith(
        "out of memory in training with micro-batches of 16 (OutOfMemoryError: CUDA out of memory. Tried to allocate"
    )
    assert str(first).endswith("; from here on 8")
    assert sizes.answer("evaluate", MemoryError()).changed
    assert BatchSizes(workplace, hardware, config).found() == {"train": 8, "evaluate": 3}

    sizes.now["train"] = 8
    second = sizes.answer("train", torch.OutOfMemoryError(CUDA))
    assert not second.changed and "with micro-batches of 8, after 16 had been too many" in str(second)
    assert "in the profile mine micro_batch: 4, activation_checkpointing: true; another profile (hardware=...)" in str(
        second
    )
    other = HardwareConfig(name="mine", micro_batch=24, activation_checkpointing=True)
    assert BatchSizes(workplace, other, config).found() == {"evaluate": 3}, "with another setting nothing is known"
    one = BatchSizes(workplace, HardwareConfig(micro_batch=1), config)
    assert not one.answer("train", MemoryError()).changed, "half of one is none"
    (workplace / "memory.json").write_text("{")
    assert BatchSizes(workplace, hardware, config).found() == {}


@pytest.mark.parametrize("length", [20, 200])
def test_half_the_sequences_at_once_are_half_the_tokens(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Also of texts so long that the bound on tokens, and not that on sequences, ends a batch."""
    read: list[int] = []
    hidden = Backbone.hidden

    def counted(backbone: Backbone, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        read.append(ids.numel())
        return hidden(backbone, ids, *args, **kwargs)

    monkeypatch.setattr(Backbone, "hidden", counted)
    model, documents = load_model(tiny_model), [(list(range(1, length + 2)), 1)] * 40
    most, found = {}, {}
    for size in (16, 8):
        read.clear()
        found[size] = document_logprobs(model, documents, size)
        most[size] = max(read)
    assert most[8] <= 0.6 * most[16]
    assert [score.logprob for score in found[8]] == pytest.approx([score.logprob for score in found[16]], rel=1e-5)


class Limits:
    """Lets memory run out wherever more than so many sequences are taken at once; from optimizer step ``after`` on."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int = 0, **most: int) -> None:
        self.most = {"train": 1000, "evaluate": 1000, "generate": 1000} | most
        self.seen: list[tuple[str, int]] = []
        self.models: list[weakref.ref[Any]] = []
        train, generate = CausalLMModule.training_step, Generator.generate

        def training_step(module: CausalLMModule, batch: dict[str, Any], index: int) -> torch.Tensor:
            if module.global_step >= after:
                self._check("train", len(batch["ids"]), module.causal_lm)
            return train(module, batch, index)

        def generated(generator: Generator, requests: Any, *args: Any, **kwargs: Any) -> Iterator[Completion]:
            requests = list(requests)
            phase = "generate" if requests[0].id.rpartition(":")[0] else "evaluate"
            for i, completion in enumerate(generate(generator, requests, *args, **kwargs)):
                if i == 1:
                    self._check(phase, generator.batch_size, generator.model)
                yield completion

        patch.setattr(CausalLMModule, "training_step", training_step)
        patch.setattr(Generator, "generate", generated)

    def _check(self, phase: str, size: int, model: Any) -> None:
        if not self.seen or self.seen[-1] != (phase, size):
            self.seen.append((phase, size))
            assert all(one() is None or one() is model for one in self.models), "what failed is still in memory"
        if size > self.most[phase]:
            self.models.append(weakref.ref(model))
            raise torch.OutOfMemoryError(CUDA)


#: Where a cell of eight steps runs out of memory: sizes that are too many, from which step on, what fits.
MOST = {"train": 4, "evaluate": 3, "generate": 100}


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 5])
def test_memory_that_runs_out_in_every_phase(
    in_process: Run, small: Path, monkeypatch: pytest.MonkeyPatch, tipped: Any, after: int
) -> None:
    """Half of everything does: the same cell, at once from the newest checkpoint, or from the start if there is none."""
    words = (*WORDS, "evaluation.batch_size=6")
    with monkeypatch.context() as patch:
        limits = Limits(patch, after, **MOST)
        status, said = in_process("run", *words)
    assert status == 0, said
    said = " ".join(said.split())
    for phase, size, half in (
        ("training with micro-batches of", 8, 4),
        ("evaluation with", 6, 3),
        ("generation with", 128, 64),
    ):
        assert re.search(rf"out of memory in {phase} {size}[^;]*; from here on {half}", said), said
        assert said.count(f"out of memory in {phase}") == 1
    assert "train: 4 at once, 8 ran out of memory" in said
    assert limits.seen == [
        ("train", 8), ("train", 4), ("evaluate", 6), ("evaluate", 3), ("generate", 128), ("generate", 64)
    ]  # fmt: skip
    result = result_of(small / "runs")
    assert {phase: (told["configured"], told["at_once"]) for phase, told in result["memory"].items()} == {
        "train": (8, 4), "evaluate": (6, 3), "generate": (128, 64)
    }  # fmt: skip
    assert result["train"]["micro_batch"] == 4 and result["train"]["resumed"] is bool(after)
    assert not (folder_of(small / "runs") / "failure.json").exists()

    profile(small, 8 if after else 4)
    assert in_process("run", *WORDS, "store.root=whole", f"evaluation.batch_size={6 if after else 3}")[0] == 0
    whole, halved = numbers(small / "whole"), numbers(small / "runs")
    if not after:
        tipped(folder_of(small / "whole"), folder_of(small / "runs"))
        del whole["samples"], halved["samples"]
        assert whole == halved, "the same cell with half of everything from the start"
    else:
        assert halved["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert result_of(small / "whole")["train"]["tokens"] == result["train"]["tokens"]
        assert result_of(small / "whole")["memory"] == {}


@pytest.mark.slow
def test_memory_that_runs_out_twice(in_process: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell fails, and says what can be changed; what it did stays, and another setting goes on from there."""
    with monkeypatch.context() as patch:
        limits = Limits(patch, 5, train=3)
        status, said = in_process("run", *WORDS)
        assert status == 1, said
        assert limits.seen == [("train", 8), ("train", 4)]
        folder = folder_of(small / "runs")
        failure = json.loads((folder / "failure.json").read_text())
        assert (
            failure["final"]
            and "out of memory in training with micro-batches of 4, after 8 had been" in failure["error"]
        )
        assert "in the profile small micro_batch: 2, activation_checkpointing: true" in failure["error"]
        assert (folder / "checkpoints/last.ckpt").exists() and failure["traceback"].count("OutOfMemoryError") >= 1

        status, said = in_process("run", *WORDS)
        assert status == 1 and "left alone (--retry-failed)" in " ".join(said.split()), said
        limits.seen.clear()
        status, said = in_process("run", *WORDS, "--retry-failed")
        assert status == 1 and limits.seen == [("train", 4)], "what was too many is not tried again"
        profile(small, 2)
        status, said = in_process("run", *WORDS, "--retry-failed")
        assert status == 0 and limits.seen[1] == ("train", 2), said
    result = result_of(small / "runs")
    assert result["train"]["micro_batch"] == 2 and result["train"]["resumed"]


LIMITED = """
import os, resource, sys
from pathlib import Path
from synthmix.cli import main
from synthmix.models.module import CausalLMModule

step = CausalLMModule.training_step

def limited(self, batch, index):
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        most = 1024 * int(held.split()[1]) + (int(os.environ["ROOM"]) << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    return step(self, batch, index)

CausalLMModule.training_step = limited
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("room", "fits"), [(370, True), (120, False)])
def test_a_process_whose_memory_really_runs_out(small: Path, room: int, fits: bool) -> None:
    """Training 128 examples at once takes 490 MB here, 64 half of that; the system gives ``room`` MB."""
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from synthmix.models.nano import TOKENIZER

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    GPTNeoXForCausalLM(config).save_pretrained(small / "wide")
    tokenizer.save_pretrained(small / "wide")
    told = (small / "configs/model/tiny.yaml").read_text().splitlines()
    told[1] = f"id: {small / 'wide'}"
    (small / "configs/model/tiny.yaml").write_text("\n".join(told) + "\n")
    (small / "configs/hardware/small.yaml").write_text("micro_batch: 128\nthreads: 1\n")
    (small / "limited.py").write_text(LIMITED)
    words = ("tiny", "iterations=0", "hardware=small", "data.train_examples=128", "training.batch_size=128",
             "data.test_examples=4", "data.validation_examples=4", "evaluation.diversity_samples=0")  # fmt: skip
    # every large piece of memory goes back to the system as soon as it is freed
    environment = os.environ | {"ROOM": str(room), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(
        [sys.executable, "limited.py", "run", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if fits else 1), done.stderr
    said = " ".join(done.stdout.split())
    assert "out of memory in training with micro-batches of 128 (RuntimeError: [enforce fail at" in said
    assert "DefaultCPUAllocator: can't allocate memory" in said
    if fits:
        assert result_of(small / "runs")["train"]["micro_batch"] == 64
    else:
        assert "out of memory in training with micro-batches of 64, after 128 had been too many" in said
        assert not (folder_of(small / "runs") / "result.json").exists()


# -- a folder of weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["weights", "tokenizer", "first rename", "second rename"])
def test_a_process_that_is_killed_while_it_exports(tmp_path: Path, tiny_model: Path, moment: str) -> None:
    """The folder of the model is the former one, the new one, or not there; the next export leaves nothing else."""
    from transformers import PreTrainedTokenizerBase

    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    folder = export(model, tokenizer, tmp_path / "model", "former")
    renames = iter(range(3))

    def kill(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(tensors: dict[str, torch.Tensor], path: Path, **kwargs: Any) -> None:
        Path(path).write_bytes(safetensors.torch.save(tensors)[:1000])
        kill()

    def rename(path: Path, target: Path, rename: Callable[..., Path] = Path.rename) -> Path:
        if next(renames) == (moment == "second rename"):
            kill()
        return rename(path, target)

    def child() -> None:
        if moment == "weights":
            safetensors.torch.save_file = half
        elif moment == "tokenizer":
            PreTrainedTokenizerBase.save_pretrained = kill  # type: ignore[method-assign,assignment]
        else:
            Path.rename = rename  # type: ignore[method-assign,assignment]
        export(model, tokenizer, folder, "new")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if moment == "second rename":
        assert not folder.exists()
    else:
        assert (folder / "README.md").read_text() == "former"
        load_model(folder)
    export(model, tokenizer, folder, "new")
    assert (folder / "README.md").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["model"]


# -- several ranks --------------------------------------------------------------------------------------------------

#: Loaded by each Python that starts, before anything else. ``RANK`` stands in the environment of the ranks alone.
FAULTS = """
import os, time

def fail(what, size, most):
    if os.environ["RANK"] == "1" and what in os.environ["FAULT"].split() and size > most:
        raise MemoryError(f"no memory for {size} at once")

if "RANK" in os.environ and os.environ.get("FAULT"):
    from pathlib import Path
    from transformers import PreTrainedTokenizerBase
    from synthmix.evaluation.evaluate import Evaluator
    from synthmix.models.module import CausalLMModule

    step, score, save = CausalLMModule.training_step, Evaluator.score, PreTrainedTokenizerBase.save_pretrained

    def training_step(self, batch, index):
        fail("training", len(batch["ids"]), 2)
        loss = step(self, batch, index)
        if "gradient" in os.environ["FAULT"] and os.environ["RANK"] == "1" and self.global_step == 5:
            Path("fault").touch()
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    def scored(self, pieces, split):
        fail("evaluation", self.config.batch_size, 4)
        return score(self, pieces, split)

    def saved(self, *args, **kwargs):
        if "export" in os.environ["FAULT"]:
            Path("fault").touch()
            time.sleep(300)
        return save(self, *args, **kwargs)

    CausalLMModule.training_step, Evaluator.score, PreTrainedTokenizerBase.save_pretrained = training_step, scored, saved
"""
#: Sizes that leave a short last batch, and pieces that two ranks cannot share evenly.
TWO = ("tiny", "iterations=0", "data.train_examples=70", "data.test_examples=45", "evaluation.batch_size=8")


@pytest.fixture
def two(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace, with a profile of two processes on this machine, and faults that ``$FAULT`` turns on in them."""
    (workplace / "configs/hardware").mkdir(parents=True)
    (workplace / "configs/hardware/two.yaml").write_text("devices: 2\nstrategy: ddp\nmicro_batch: 4\nthreads: 1\n")
    (workplace / "faults").mkdir()
    (workplace / "faults/sitecustomize.py").write_text(FAULTS)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(workplace / "faults"), *([before] if before else [])]))
    return workplace


def assert_alike(one: Path, other: Path, tipped: Callable[[Path, Path], int]) -> None:
    """The same samples, but for draws that rounding tips; weights and scores to rounding, which gradients are summed with."""
    weights, others = (load_file(folder_of(root) / "model/model.safetensors") for root in (one, other))
    apart = sum(float(((weights[name] - others[name]) ** 2).sum()) for name in weights)
    assert (apart / sum(float((weight**2).sum()) for weight in weights.values())) ** 0.5 < 2e-6
    items = [pd.read_parquet(folder_of(root) / "items.parquet") for root in (one, other)]
    columns = ["split", "item", "prediction", "score", "stop", "tokens"]
    pd.testing.assert_frame_equal(items[0][columns], items[1][columns])
    tipped(folder_of(one), folder_of(other))
    for key in ("tokens", "steps"):
        assert result_of(one)["train"][key] == result_of(other)["train"][key]


@pytest.mark.slow
def test_a_gradient_that_is_infinite_on_one_rank_ends_all(
    in_process: Run, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure names the examples of all ranks, and nothing is tried again by itself."""
    monkeypatch.setenv("FAULT", "gradient")
    status, said = in_process("run", *TWO, "training.epochs=4", "hardware=two")
    seconds = time.time() - (two / "fault").stat().st_mtime
    assert status == 1 and seconds < 60, said
    folder = folder_of(two / "runs")
    failure = json.loads((folder / "failure.json").read_text())
    told, examples = failure["error"].split("; examples of the batch: ")
    assert re.fullmatch(r"training diverged at optimizer step 6: gradient norm (nan|inf)", told)
    assert len(set(examples.split(", "))) == 6 and failure["final"], "the short last batch of the second epoch"
    assert newest_checkpoint(folder) == folder / "checkpoints/last.ckpt" and not list(folder.glob("lease.*"))
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=False)["global_step"] == 3
    monkeypatch.delenv("FAULT")
    status, said = in_process("run", *TWO, "training.epochs=4", "hardware=two", "--retry-failed")
    assert status == 0 and result_of(two / "runs")["train"]["resumed"], said


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank(
    in_process: Run, two: Path, monkeypatch: pytest.MonkeyPatch, tipped: Any
) -> None:
    """In training the ranks are started anew, by themselves; in evaluation they go on together."""
    monkeypatch.setenv("FAULT", "training evaluation")
    status, said = in_process("run", *TWO, "hardware=two")
    assert status == 0, said
    said = " ".join(said.split())
    assert (
        "rank 1: out of memory in training with micro-batches of 4 (MemoryError: no memory for 4 at once); from here"
        in said
    )
    assert "out of memory in evaluation with 8 sequences at once (MemoryError: rank 1: no memory for 8 at once)" in said
    memory = result_of(two / "runs")["memory"]
    assert {phase: (told["at_once"], told["rank"]) for phase, told in memory.items()} == {
        "train": (2, 1), "evaluate": (4, 0)
    }  # fmt: skip
    assert result_of(two / "runs")["train"]["micro_batch"] == 2
    assert not list(folder_of(two / "runs").glob("*failure.json"))
    assert in_process("run", *TWO, "store.root=whole")[0] == 0
    assert_alike(two / "runs", two / "whole", tipped)


def start_ranks(plan: Path) -> subprocess.Popen[str]:
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "synthmix.cli"]
    command = [sys.executable, *module, "cell", str(plan), "--index", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rank_processes(agent: int) -> list[int]:
    """Process ids of the ranks that torchrun started, by rank."""
    found = {}
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(v.removeprefix(b"RANK=")): int(pid) for v in variables if v.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
def test_a_rank_that_is_killed_takes_the_others_with_it(
    in_process: Run, two: Path, monkeypatch: pytest.MonkeyPatch, watch: Any, tipped: Any
) -> None:
    """While rank 0 exports alone, in evaluation, and rank 0 in generation: all end, and the next start goes on."""
    words = (*TWO, "data.test_examples=301", "evaluation.diversity_samples=800")
    assert in_process("plan", *words, "hardware=two", "store.root=two")[0] == 0
    plan = two / "two/studies/tiny/plan.json"
    folder = two / "two/cells" / json.loads(plan.read_text())["cells"][0]["name"]

    def killed(ready: Callable[[], bool], rank: int) -> None:
        agent = start_ranks(plan)
        watch.wait_for(agent, ready)
        pids = rank_processes(agent.pid)
        started = time.monotonic()
        os.kill(pids[rank], signal.SIGKILL)
        agent.communicate(timeout=180)
        # a minute is what is promised; of it, torchrun gives a rank that does not hear it 30 s
        assert time.monotonic() - started < 60 and agent.returncode != 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids) and lease.holder(folder) is None
        assert not (folder / "result.json").exists()

    with monkeypatch.context() as patch:
        patch.setenv("FAULT", "export")
        killed(lambda: (two / "fault").exists(), rank=1)
    assert not (folder / "model").exists() and newest_checkpoint(folder) is not None
    killed(lambda: watch.lines(folder / "items.jsonl") >= 40, rank=1)
    assert (folder / "model/config.json").exists() and not list(folder.glob(".model.*"))
    scored = watch.lines(folder / "items.jsonl")
    killed(lambda: watch.lines(folder / "synthetic.jsonl") >= 100, rank=0)
    assert 40 <= scored and (folder / "items.parquet").exists()
    agent = start_ranks(plan)
    said, _ = agent.communicate(timeout=600)
    assert agent.returncode == 0, said
    assert in_process("run", *words, "store.root=one")[0] == 0
    assert_alike(two / "one", two / "two", tipped)
    assert json.loads((folder / "train.json").read_text())["resumed"]
