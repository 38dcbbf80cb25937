"""A fit that is asked to stop: it saves between two steps, ends, and goes on from there as if nothing had been."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from transformers import OPTConfig, OPTForCausalLM

from synthmix import interrupts
from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.interrupts import Preempted
from synthmix.keys import generator, permutation
from synthmix.models.training import fit

N = 40


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The handlers of a cell's process; afterwards those of before."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    interrupts.install()
    yield
    interrupts.uninstall(before)


class Send(Callback):
    """Sends a signal to this process in micro-batch ``at``, before its gradient is known."""

    def __init__(self, at: int | None, number: signal.Signals = signal.SIGUSR1) -> None:
        self.at, self.number, self.seen = at, number, 0

    def on_before_backward(self, *args: object) -> None:
        if self.seen == self.at:
            os.kill(os.getpid(), self.number)
        self.seen += 1


def opt() -> OPTForCausalLM:
    """A model with dropout."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=67, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, dropout=0.2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    return OPTForCausalLM(config)


def run(folder: Path, *callbacks: Callback, micro_batch: int = 3, **more: object):  # type: ignore[no-untyped-def]
    documents = []
    for i in range(N):
        rng = generator("doc", i)
        documents.append(Encoded(rng.integers(0, 67, int(rng.integers(3, 20))).tolist(), 2))
    module = MixtureDataModule(documents, lambda epoch: permutation(N, "order", epoch), 8, micro_batch)
    model, training = opt(), TrainingConfig(batch_size=8, epochs=2)
    torch.manual_seed(1)
    result = fit(model, module, training, HardwareConfig(micro_batch=micro_batch), folder, 1e-2,
                 callbacks=callbacks, log_every_steps=1, **more)  # fmt: skip
    return [p.detach() for p in model.parameters()], result


@pytest.mark.parametrize("number", interrupts.SIGNALS)
@pytest.mark.parametrize("at", [0, 4, 13, 14, 15, 29])
def test_a_fit_that_was_asked_to_stop_goes_on_to_the_same_bits(
    tmp_path: Path, at: int, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """Anywhere: first step, within a step, at the end of an epoch, and the last step, after which nothing is left."""
    expected, whole = run(tmp_path / "whole")
    cut = tmp_path / "cut"
    if at < 27:
        with pytest.raises(Preempted) as raised:
            run(cut, Send(at, number))
        step = at // 3 + 1
        assert str(raised.value) == f"preempted by {number.name} in training at step {step} of 10"
        interrupts.reset()
    got, result = run(cut, Send(None if at < 27 else at))
    assert interrupts.asked() is (None if at < 27 else signal.SIGUSR1)
    assert all(map(torch.equal, got, expected)), "dropout included"
    assert (result.steps, result.tokens, result.final_loss) == (whole.steps, whole.tokens, whole.final_loss)
    assert capfd.readouterr().err == ""


def test_no_step_is_left_out_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        run(tmp_path / "cell", Send(7), loggers=[CSVLogger(tmp_path, name="log", version=0)])
    interrupts.reset()
    run(tmp_path / "cell", loggers=[CSVLogger(tmp_path, name="log", version=1)])
    import csv

    rows = [row for i in range(2) for row in csv.DictReader((tmp_path / f"log/version_{i}/metrics.csv").open())]
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(10))


def test_asked_before_the_first_step(tmp_path: Path) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(Preempted, match="in training at step 0 of 10"):
        run(tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_checkpoint_every_so_many_seconds(tmp_path: Path) -> None:
    """Every 0 s is after each step: a kill in step 3 of the first epoch costs that step."""

    class Kill(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
            if trainer.global_step == 2:
                raise KeyError("killed")

    with pytest.raises(KeyError):
        run(tmp_path, Kill(), checkpoint_every_s=0)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=False)["global_step"] == 2


def test_lightning_gives_the_signals_back(tmp_path: Path) -> None:
    """Its own handler of SIGTERM would make the fit leave by an exception of its own, from wherever it is."""
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, *args: object) -> None:
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, Look())
    assert set(seen) == {before} == {signal.getsignal(signal.SIGTERM)}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(interrupts.SIGNALS)
