"""Training: the same gradient on all hardware, exact resumes, and no swallowed NaN."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import synthmix
from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.keys import generator, permutation
from synthmix.models.checkpoints import newest_checkpoint
from synthmix.models.module import CausalLMModule, NonFiniteLoss, flops_per_token, parameter_groups
from synthmix.models.training import FitResult, fit

N = 40
CPU = HardwareConfig(micro_batch=8)


def tiny(width: int = 16) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=67, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return GPTNeoXForCausalLM(config)


def data(micro_batch: int = 8, loss: str = "document", batch_size: int = 8, n: int = N) -> MixtureDataModule:
    docs = []
    for i in range(n):
        rng = generator("doc", i)
        docs.append(Encoded(rng.integers(0, 67, int(rng.integers(3, 20))).tolist(), 2))
    return MixtureDataModule(docs, lambda epoch: permutation(n, "order", epoch), batch_size, micro_batch, loss)


class Spy(Callback):
    """Keeps each step's gradients, and stops the run by an exception before micro-batch ``stop``."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.seen = stop, 0
        self.gradients: list[list[torch.Tensor]] = []

    def on_train_batch_start(self, *args: object) -> None:
        if self.seen == self.stop:
            raise KeyError("interrupted")
        self.seen += 1

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *args: object) -> None:
        self.gradients.append([p.grad.clone() for p in module.parameters()])


class KeepOptimizer(Callback):
    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.state = trainer.optimizers[0].state_dict()


def run(folder: Path, datamodule: MixtureDataModule, *callbacks: Callback, **changes: object) -> tuple:
    model = tiny()
    training = TrainingConfig(**{"batch_size": 8, "epochs": 3} | changes.pop("training", {}))
    result = fit(model, datamodule, training, CPU, folder, 1e-2, callbacks=callbacks, **changes)
    return model, result


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters()]


class Buffers(Callback):
    """What a step is computed with beside the weights."""

    def on_train_batch_start(self, trainer: L.Trainer, module: CausalLMModule, *args: object) -> None:
        self.found = {name: buffer.clone() for name, buffer in module.causal_lm.named_buffers()}
        self.weights = {parameter.dtype for parameter in module.parameters()}


def test_in_bf16_positions_are_what_the_exported_model_has(tmp_path: Path) -> None:
    """A frequency that is rounded to 8 bits is out of phase after some hundred tokens."""
    model, buffers = tiny(width=64), Buffers()
    given = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training, hardware = TrainingConfig(batch_size=8, max_steps=1), HardwareConfig(precision="bf16-true")
    fit(model, data(), training, hardware, tmp_path, 1e-2, callbacks=[buffers])
    assert buffers.weights == {torch.bfloat16} and any("inv_freq" in name for name in given)
    assert not all(torch.equal(buffer, buffer.bfloat16().float()) for buffer in given.values())
    assert buffers.found.keys() == given.keys()
    assert all(torch.equal(buffers.found[name], buffer) for name, buffer in given.items())


@pytest.mark.parametrize("loss", ["document", "completion"])
def test_gradient_does_not_depend_on_accumulation(tmp_path: Path, loss: str) -> None:
    spies = {}
    for micro_batch in (8, 4, 2, 3):
        spies[micro_batch] = Spy()
        run(tmp_path / str(micro_batch), data(micro_batch, loss), spies[micro_batch], training={"max_steps": 1})
    model = tiny()
    first = [data().encoded[slot] for slot in permutation(N, "order", 0)[:8]]
    labels = 0
    total = torch.zeros(())
    for doc in first:
        ids = torch.tensor([doc.ids])
        start = 1 if loss == "document" else doc.completion_start
        logits = model(input_ids=ids).logits[0, start - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum")
        labels += len(doc.ids) - start
    (total / labels).backward()
    for spy in spies.values():
        assert len(spy.gradients) == 1
        for got, parameter in zip(spy.gradients[0], model.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("micro_batch", [8, 3])
@pytest.mark.parametrize("step", [1, 5, 7, 10, 14])
def test_resume_gives_the_same_bits(tmp_path: Path, micro_batch: int, step: int) -> None:
    kept, again = KeepOptimizer(), KeepOptimizer()
    expected, whole = run(tmp_path / "whole", data(micro_batch), kept)
    k = data(micro_batch).accumulation(1)
    folder = tmp_path / "cut"
    with pytest.raises(KeyError):
        run(folder, data(micro_batch), Spy(stop=step * k + k // 2), checkpoint_every_steps=1)
    model, result = run(folder, data(micro_batch), again)
    assert (result.steps, result.tokens, result.final_loss) == (whole.steps, whole.tokens, whole.final_loss)
    assert result.resumed_from is not None and whole.resumed_from is None
    assert all(map(torch.equal, weights(model), weights(expected)))
    for i, state in kept.state["state"].items():
        assert all(torch.equal(state[name], again.state["state"][i][name]) for name in state)


def test_resume_of_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    model, first = run(tmp_path, data())
    again, second = run(tmp_path, data())
    assert all(map(torch.equal, weights(model), weights(again)))
    assert (second.steps, second.tokens, second.final_loss) == (first.steps, first.tokens, first.final_loss)


def test_resume_on_other_hardware_goes_on_at_the_same_batch(tmp_path: Path) -> None:
    expected, whole = run(tmp_path / "whole", data(8))
    with pytest.raises(KeyError):
        run(tmp_path / "cut", data(2), Spy(stop=28), checkpoint_every_steps=1)
    model, result = run(tmp_path / "cut", data(4))
    assert (result.steps, result.tokens) == (whole.steps, whole.tokens)
    for got, wanted in zip(weights(model), weights(expected), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)


class SaveAt(Callback):
    """Saves as Lightning's SLURM signal handler does, before micro-batch ``at``, and stops."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        if self.seen == self.at:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "hpc_ckpt_1.ckpt")
            raise KeyError("preempted")
        self.seen += 1


@pytest.mark.parametrize("at", [4, 13, 14, 21, 29])
def test_a_requeue_checkpoint_from_within_a_batch(tmp_path: Path, at: int) -> None:
    expected, whole = run(tmp_path / "whole", data(3))
    with pytest.raises(KeyError):
        run(tmp_path / "cut", data(3), SaveAt(at))
    model, result = run(tmp_path / "cut", data(3))
    assert result.resumed_from.endswith("hpc_ckpt_1.ckpt")
    assert (result.steps, result.tokens) == (whole.steps, whole.tokens)
    assert all(map(torch.equal, weights(model), weights(expected)))
    assert not list((tmp_path / "cut").glob("hpc_ckpt*"))


class SaveDuringStep(Callback):
    """A signal between the optimizer's step and the schedule's."""

    def on_before_zero_grad(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == 2:
            trainer.optimizers[0].state_dict()
            for state in trainer.optimizers[0].state.values():
                state["step"] += 1
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "hpc_ckpt_1.ckpt")
            raise KeyError("preempted")


def test_a_checkpoint_taken_during_a_step_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(tmp_path, data(), SaveDuringStep())
    assert newest_checkpoint(tmp_path) is None
    assert [path.name for path in tmp_path.glob("hpc*")] == ["hpc_ckpt_1.ckpt.torn"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_damaged_checkpoints_are_skipped(tmp_path: Path, damage: str) -> None:
    with pytest.raises(KeyError):
        run(tmp_path, data(), Spy(stop=7), checkpoint_every_steps=1)
    good = tmp_path / "checkpoints" / "last.ckpt"
    bad = tmp_path / "hpc_ckpt_9.ckpt"
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    at = content.index(good.read_bytes()[largest.header_offset :][:40]) + 30 + len(largest.filename)
    at += int.from_bytes(content[largest.header_offset + 28 :][:2], "little") + largest.file_size // 2
    content[at] ^= 0xFF  # in the middle of a tensor: between two there is padding
    shutil.copy(good, bad)
    damaged = {"cut": bytes(content[:-100]), "flipped": bytes(content), "empty": b"", "foreign": b"not a checkpoint"}
    bad.write_bytes(damaged[damage])
    assert newest_checkpoint(tmp_path) == good
    assert not bad.exists()


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, data(), training={"epochs": 1})
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    from synthmix.models import checkpoints

    def half(checkpoint: object, file: object) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        run(tmp_path, data(), training={"epochs": 2})
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_a_nan_names_step_and_examples(tmp_path: Path, micro_batch: int) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: CausalLMModule, batch: dict, index: int) -> None:
            if index == 8 // micro_batch:
                module.causal_lm.gpt_neox.final_layer_norm.weight.data[0] = float("nan")

    slots = permutation(N, "order", 0)[8:16]
    with pytest.raises(NonFiniteLoss, match="optimizer step 2") as raised:
        run(tmp_path, data(micro_batch), Poison())
    named = str(raised.value).rsplit(": ", 1)[1].split(", ")
    assert sorted(named) == sorted(str(slot) for slot in slots)


def test_what_is_logged(tmp_path: Path) -> None:
    datamodule = data(4)
    _, result = run(tmp_path, datamodule, loggers=[CSVLogger(tmp_path / "logs")], log_every_steps=1)
    import csv

    path = next((tmp_path / "logs").rglob("metrics.csv"))
    rows = [row for row in csv.DictReader(path.open()) if row["train/loss"]]
    assert len(rows) == result.steps == 15
    assert [int(row["step"]) for row in rows] == list(range(15))
    assert float(rows[-1]["train/loss"]) == pytest.approx(result.final_loss, rel=1e-6)
    tokens = sum(len(document.ids) for document in datamodule.encoded)
    assert float(rows[-1]["train/tokens"]) == result.tokens == 3 * tokens
    assert all(float(row["train/grad_norm"]) > 0 for row in rows)
    assert float(rows[1]["train/lr"]) == pytest.approx(1e-2 * 14 / 15)
    assert float(rows[-1]["train/lr"]) == pytest.approx(1e-2 / 15)
    speeds = [row for row in csv.DictReader(path.open()) if row.get("train/device/items_per_sec")]
    assert float(speeds[-1]["train/lengths"]) == result.tokens
    assert all(float(row["train/device/flops_per_sec"]) > 0 for row in speeds)
    assert result.parameters == sum(p.numel() for p in tiny().parameters())


def test_training_learns(tmp_path: Path) -> None:
    model, result = run(tmp_path, data(n=8), training={"epochs": 60, "schedule": "constant"})
    assert result.finished and result.steps == 60
    assert result.final_loss < 1.0


def test_max_steps_stops_in_the_middle(tmp_path: Path) -> None:
    _, result = run(tmp_path, data(3), training={"max_steps": 7})
    assert (result.steps, result.finished) == (7, True)


def test_dropout_is_on_after_from_pretrained(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "model")
    model = GPTNeoXForCausalLM.from_pretrained(tmp_path / "model")
    assert not model.training
    fit(model, data(), TrainingConfig(batch_size=8, max_steps=1), CPU, tmp_path / "cell", 1e-3)
    assert model.training


def test_a_factory_makes_the_model(tmp_path: Path) -> None:
    result = fit(tiny, data(), TrainingConfig(batch_size=8), CPU, tmp_path / "factory", 1e-2)
    _, expected = run(tmp_path / "model", data())
    assert isinstance(result, FitResult)
    assert result.final_loss == expected.final_loss


def test_biases_and_norms_do_not_decay() -> None:
    model = tiny()
    decayed, kept = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_flops_are_six_for_each_multiplied_parameter() -> None:
    model = tiny()
    multiplied = sum(p.numel() for p in model.parameters()) - 67 * 16
    assert flops_per_token(model, 0) == 6 * multiplied
    assert flops_per_token(model, 10) - flops_per_token(model, 0) == 12 * 2 * 16 * 10


def test_a_progress_bar_shows_the_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, data(), progress=True)
    assert "train/loss" in capsys.readouterr().out


def test_lightning_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, data())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


SCRIPT = """
import sys, torch
sys.path[:0] = {folders!r}
from pathlib import Path
from test_training import Spy, data, run, tiny
from synthmix.config.schema import HardwareConfig
import test_training
test_training.CPU = HardwareConfig(devices=2, strategy="ddp", micro_batch=2)
spy = Spy()
model, result = run(Path({out!r}), data(2), spy, training={{"epochs": 1}})
if result and torch.distributed.get_rank() == 0:
    trained = [p.detach() for p in model.parameters()]
    torch.save((spy.gradients, trained, result.final_loss), {out!r} + "/out.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "ddp.py"
    (tmp_path / "out").mkdir()
    folders = [str(Path(__file__).parent), str(Path(synthmix.__file__).parents[1])]
    script.write_text(SCRIPT.format(folders=folders, out=str(tmp_path / "out")))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script], check=True, timeout=900, env=environment)
    gradients, trained, loss = torch.load(tmp_path / "out" / "out.pt", weights_only=False)
    spy = Spy()
    model, result = run(tmp_path / "one", data(8), spy, training={"epochs": 1})
    assert loss == pytest.approx(result.final_loss, rel=1e-4)
    for got, wanted in zip(gradients[0], spy.gradients[0], strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    for got, wanted in zip(trained, weights(model), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)


def test_a_short_last_batch_leaves_empty_micro_batches(tmp_path: Path) -> None:
    """33 examples are a batch of 32 and one of 1, which fills one micro-batch of four; counters must not stand still."""
    logger = CSVLogger(tmp_path, name="log")
    datamodule = data(8, batch_size=32, n=33)
    _, result = run(tmp_path / "cell", datamodule, loggers=[logger], log_every_steps=1)
    assert result.steps == 6
    assert result.tokens == 3 * sum(len(doc.ids) for doc in datamodule.encoded)


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, *args: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_warms_up_and_follows_its_schedule(tmp_path: Path, schedule: str) -> None:
    """15 steps, a fifth of them warming up, against the formulas."""
    rates = Rates()
    run(tmp_path, data(), rates, training={"schedule": schedule, "warmup": 0.2})
    after = {
        "linear": lambda t: 1 - t,
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
        "constant": lambda t: 1.0,
    }[schedule]
    expected = [1e-2 * (step / 3 if step < 3 else after((step - 3) / 12)) for step in range(15)]
    assert rates.seen == pytest.approx(expected)


class Norms(Callback):
    """Gradient norms as the optimizer sees them (clipping comes before ``optimizer_step`` ends its closure)."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_zero_grad(self, trainer: L.Trainer, module: L.LightningModule, *args: object) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if gradients:
            self.seen.append(float(torch.stack([g.norm() for g in gradients]).norm()))


def test_the_gradient_is_clipped_to_its_norm(tmp_path: Path) -> None:
    free, clipped = Norms(), Norms()
    run(tmp_path / "free", data(), free, training={"gradient_clip": 0.0, "max_steps": 3})
    run(tmp_path / "clipped", data(), clipped, training={"gradient_clip": 0.01, "max_steps": 3})
    assert min(free.seen) > 0.1
    assert clipped.seen == pytest.approx([0.01] * len(clipped.seen), rel=1e-3) and clipped.seen
