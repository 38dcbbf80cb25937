"""The ranks of one cell: rank 0 decides and writes, and has the others do their share.

A job is sent to every rank; each does its part and rank 0 gets all of them. In a world of one a job is simply done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from synthmix import ranks
from synthmix.config import ModelConfig
from synthmix.config.strategies import is_sharded
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.data.mixture import Mixture
from synthmix.errors import UserError
from synthmix.evaluation.evaluate import Evaluator, Piece, Row
from synthmix.generation.backends import make_writer
from synthmix.generation.engine import Completion, Request, Writer
from synthmix.generation.sampling import Sampling
from synthmix.interrupts import Preempted
from synthmix.models.loading import INFERENCE_DTYPES, load_model, load_tokenizer
from synthmix.models.strategies import model_factory
from synthmix.models.training import FitResult, fit
from synthmix.study.capacity import fitting_config
from synthmix.study.cells import Cell, Plan
from synthmix.study.out_of_memory import BatchSizes, Phase, is_out_of_memory, release_memory
from synthmix.study.pool_writer import Loaded

#: Whether the ranks still follow one another: not after an error within a fit, where they wait for gradients.
_in_step = True


class Hands:
    """One rank's part of a cell: the trained model, once it is there, and what works with it.

    Args:
        folder: the cell's; ranks above 0 read the model there and write nothing.
    """

    def __init__(self, cell: Cell, plan: Plan, folder: Path) -> None:
        self.cell, self.plan, self.folder = cell, plan, folder
        self.config, self.task = fitting_config(plan, cell), plan.tasks[cell.task]
        self.hardware = plan.hardware_of(cell)
        self.sizes = BatchSizes(folder, self.hardware, self.config)

    @cached_property
    def loaded(self) -> Loaded:
        """The exported model, which later cells, and users, will load, and its tokenizer."""
        model = load_model(self.folder / "model", self.dtype, self.device)
        return model, load_tokenizer(self.folder / "model")

    @property
    def dtype(self) -> torch.dtype:
        """That of weights and cache in evaluation and generation."""
        return INFERENCE_DTYPES[self.hardware.inference_precision]

    @property
    def device(self) -> torch.device:
        """Where this rank evaluates and generates: the GPU that it trained on."""
        if self.hardware.accelerator != "gpu":
            return torch.device("cpu")
        return torch.device("cuda", ranks.here().local % max(1, torch.cuda.device_count()))

    @cached_property
    def evaluator(self) -> Evaluator:
        generation = self.config.generation
        sampling = Sampling(generation.temperature, generation.top_p)
        return Evaluator(*self.loaded, self.task, self.config.evaluation, sampling, self.cell.hash)

    @cached_property
    def generator(self) -> Writer:
        settings, folder = self.config.generation, self.folder / "model"
        if settings.backend == "vllm":  # loads the model by itself, where nothing else may be in its way
            self.forget()
            release_memory()
        return make_writer(
            settings.backend,
            lambda: self.loaded,
            folder,
            lambda: load_tokenizer(folder),
            settings.batch_size,
            self.dtype,
            ranks.here().local,
        )

    def forget(self) -> None:
        """Lets go of the model."""
        for name in ("loaded", "evaluator", "generator"):
            self.__dict__.pop(name, None)


class Job(ABC):
    """Something that all ranks do."""

    @abstractmethod
    def run(self, hands: Hands) -> Any:
        """This rank's part of it."""


@dataclass(frozen=True)
class Train(Job):
    """A fit over all ranks. ``encoded`` are the documents by slot of ``mixture``, ``start`` says whose weights."""

    start: ModelConfig | Path
    encoded: list[Encoded]
    mixture: Mixture

    def run(self, hands: Hands, loggers: Sequence[Logger] = (), callbacks: Sequence[Callback] = ()) -> FitResult:
        return self.fit(hands, loggers, callbacks)[1]

    def fit(self, hands: Hands, loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> tuple[Any, FitResult]:
        """The trained model, or the folder of its weights where ranks share it out, and what the fit did."""
        hardware, settings = hands.hardware, hands.config.training
        weights = hands.folder / ".weights" if is_sharded(hardware) else None
        model = load_model(self.start) if weights is None else model_factory(self.start, hardware)
        rate = settings.learning_rate or hands.plan.models[hands.cell.model].learning_rate
        # dropout, for models that have it: every rank has other examples, and draws otherwise
        torch.manual_seed(hands.cell.seed + 1_000_003 * ranks.here().rank)
        result = fit(
            model,
            self.data(hands),
            settings,
            hardware,
            hands.folder,
            rate,
            loggers=loggers,
            callbacks=callbacks,
            weights=weights,
        )
        return (model if weights is None else weights), result

    def data(self, hands: Hands) -> MixtureDataModule:
        settings = hands.config.training
        return MixtureDataModule(
            self.encoded,
            self.mixture.epoch_order,
            settings.batch_size,
            hands.hardware.micro_batch,
            settings.loss,  # type: ignore[arg-type]
            names=self.mixture.ids(),
            padding_free=hands.hardware.padding_free,
        )


@dataclass(frozen=True)
class Score(Job):
    """Pieces of a split, one a rank."""

    pieces: Sequence[Piece]
    split: str

    def run(self, hands: Hands) -> list[list[Row]]:
        return hands.evaluator.score(self.pieces[ranks.here().rank :: ranks.here().world], self.split)


@dataclass(frozen=True)
class Complete(Job):
    """Sequences to write, shared out evenly."""

    requests: Sequence[Request]
    sampling: Sampling
    stop: Sequence[str]

    def run(self, hands: Hands) -> list[Completion]:
        mine = self.requests[ranks.here().rank :: ranks.here().world]
        return list(hands.generator.generate(mine, self.sampling, self.stop))


@dataclass(frozen=True)
class Resize(Job):
    """From here on a phase takes ``size`` sequences at once on a device."""

    phase: Phase
    size: int

    def run(self, hands: Hands) -> None:
        hands.sizes.now[self.phase] = self.size
        if self.phase == "train":
            hands.hardware = replace(hands.hardware, micro_batch=self.size)
        elif self.phase == "evaluate":
            hands.config = replace(hands.config, evaluation=replace(hands.config.evaluation, batch_size=self.size))
        else:
            hands.config = replace(hands.config, generation=replace(hands.config.generation, batch_size=self.size))
        hands.forget()
        release_memory()


@dataclass(frozen=True)
class _End:
    """There is nothing more to do; ``status`` is the exit status of all ranks."""

    status: int


# -- rank 0 ---------------------------------------------------------------------------------------------------------


def resize(hands: Hands) -> None:
    """Has all ranks take what fitted, where memory ran out in an earlier attempt."""
    for phase, size in hands.sizes.found().items():
        _together(Resize(phase, size), hands)


def in_step() -> bool:
    """Whether the ranks can do anything more together."""
    return _in_step


def train(job: Train, hands: Hands, loggers: Sequence[Logger], callbacks: Sequence[Callback]) -> tuple[Any, FitResult]:
    """The trained model, and what the fit did. An error leaves the ranks out of step: nothing more can be shared."""
    global _in_step
    ranks.broadcast(job)
    try:
        return job.fit(hands, loggers, callbacks)
    except Exception:
        _in_step = ranks.here().world == 1
        raise


def score(pieces: Sequence[Piece], split: str, hands: Hands) -> list[list[Row]]:
    """Rows of each piece, as :meth:`Evaluator.score` gives them."""
    found: list[list[Row]] = [[] for _ in pieces]
    for rank, rows in enumerate(_together(Score(pieces, split), hands)):
        found[rank :: ranks.here().world] = rows
    return found


class SharedGenerator:
    """Writes with all ranks; what a request yields does not depend on the rank."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop: Sequence[str] = ()
    ) -> Iterator[Completion]:
        if ranks.here().world == 1:
            yield from self.hands.generator.generate(requests, sampling, stop)
            return
        for part in _together(Complete(list(requests), sampling, stop), self.hands):
            yield from part


def _together(job: Job, hands: Hands) -> list[Any]:
    """Each rank's part, by rank; an error of one of them is raised here."""
    ranks.broadcast(job)
    if ranks.here().world == 1:
        return [job.run(hands)]
    mine: tuple[Any, BaseException | None]
    try:
        mine = job.run(hands), None
    except (Exception, Preempted) as error:
        mine = None, error
    parts = ranks.gather((mine[0], None))
    errors = [error for _, error in [mine, *parts[1:]] if error is not None]
    if errors:
        raise next((error for error in errors if isinstance(error, Preempted)), errors[0])
    return [part for part, _ in parts]


def end(status: int) -> bool:
    """Lets the other ranks go; False if they cannot be told, so that whoever started them has to end them."""
    if _in_step:
        ranks.broadcast(_End(status))
    return _in_step


# -- the others -----------------------------------------------------------------------------------------------------


def follow(hands: Hands, failed: Callable[[Exception], int]) -> int:
    """Does what rank 0 says until it ends; returns the exit status.

    Args:
        failed: told of an error within a fit, where the other ranks wait for this one and cannot be told; gives the
            exit status.
    """
    while True:
        try:
            job: Any = ranks.broadcast()
        except RuntimeError as gone:
            print(f"rank {ranks.here().rank}: rank 0 is gone ({str(gone).splitlines()[0]})", flush=True)
            return 1
        if isinstance(job, _End):
            return job.status
        if isinstance(job, Train):
            try:
                job.run(hands)
            except Preempted:
                continue
            except Exception as error:
                return failed(hands.sizes.answer("train", error) if is_out_of_memory(error) else error)
        else:
            ranks.gather(_outcome(job, hands))


def _outcome(job: Job, hands: Hands) -> tuple[Any, BaseException | None]:
    """This rank's part, or why there is none, as it can be sent."""
    try:
        return job.run(hands), None
    except Preempted as stopped:
        return None, stopped
    except UserError as error:
        return None, UserError(str(error))
    except Exception as error:
        if is_out_of_memory(error):
            return None, MemoryError(f"rank {ranks.here().rank}: {error}")
        return None, RuntimeError(f"rank {ranks.here().rank}: {type(error).__name__}: {error}")
