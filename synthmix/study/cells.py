"""The grid of a study unfolded into cells.

A cell is (model, task, mode, proportion, iteration, seed); its hash covers everything that determines its numbers, its
parent's hash among them, so cells of different studies with the same settings are the same cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from synthmix import keys
from synthmix.config import GridConfig, HardwareConfig, ModelConfig, StudyConfig, load_hardware, load_model
from synthmix.data.mixture import Counts, counts
from synthmix.data.records import fingerprint, load_split
from synthmix.errors import ConfigError, DataError
from synthmix.models.fingerprint import weights_fingerprint
from synthmix.tasks import Task, get_task

#: Raised whenever a change of the code changes what a cell computes: old cells are then other cells.
CODE_VERSION = 3


@dataclass(frozen=True)
class Cell:
    """One model at one point of the experiment.

    ``parent`` is the hash of the cell whose model writes the synthetic data (None for a baseline), ``baseline`` that
    of the phase 0 cell of its chain, ``index`` the place in the plan, ``level`` the iteration.
    """

    name: str
    hash: str
    model: str
    task: str
    mode: str
    proportion: float
    iteration: int
    seed: int
    parent: str | None
    baseline: str
    parameters: int
    index: int = 0

    @property
    def level(self) -> int:
        """Cells of a level depend on the level before only."""
        return self.iteration

    @property
    def group(self) -> str:
        """The cell without its seed: the unit that is averaged."""
        return self.name.rsplit(".s", 1)[0]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"level": self.level}


@dataclass(frozen=True)
class Plan:
    """All cells of a study, parents before children; ``tasks`` and ``sizes`` (N) by the name that the cells have.

    ``hardware`` holds each model's profile.
    """

    config: StudyConfig
    models: dict[str, ModelConfig]
    hardware: dict[str, HardwareConfig]
    tasks: dict[str, Task]
    sizes: dict[str, int]
    cells: tuple[Cell, ...]

    @cached_property
    def by_hash(self) -> dict[str, Cell]:
        return {cell.hash: cell for cell in self.cells}

    @cached_property
    def _children(self) -> dict[str, list[Cell]]:
        children: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.parent is not None:
                children.setdefault(cell.parent, []).append(cell)
        return children

    def children(self, cell: Cell) -> list[Cell]:
        """The cells that draw on this one's pool."""
        return self._children.get(cell.hash, [])

    @cached_property
    def _by_baseline(self) -> dict[str, list[Cell]]:
        chains: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.parent is not None:
                chains.setdefault(cell.baseline, []).append(cell)
        return chains

    def descendants(self, baseline: Cell) -> list[Cell]:
        """All cells of the chains that begin with ``baseline``."""
        return self._by_baseline.get(baseline.hash, [])

    def ancestors(self, cell: Cell) -> list[Cell]:
        """The chain that led here, baseline first, without the cell itself."""
        chain: list[Cell] = []
        while cell.parent is not None:
            cell = self.by_hash[cell.parent]
            chain.append(cell)
        return chain[::-1]

    def hardware_of(self, cell: Cell) -> HardwareConfig:
        """The profile that a cell runs on."""
        return self.hardware[cell.model]

    def counts(self, cell: Cell) -> Counts:
        """Exact sizes of a cell's training set."""
        return counts(cell.mode, cell.proportion, self.sizes[cell.task], cell.iteration)

    def pool_share(self, cell: Cell) -> int:
        """Synthetic examples that each pool must hold for ``cell``; see :func:`synthmix.data.mixture.mix`."""
        share = max(self.counts(cell).synthetic, default=0)
        return share if self.config.mixing.nested or not share else max(share, self.sizes[cell.task])


def make_plan(config: StudyConfig, family: tuple[str, str, int] | None = None) -> Plan:
    """Every cell of a study, with its hash; the union of its grids.

    Args:
        family: (model, task, seed); only their cells, which depend on no others, are unfolded.

    Raises:
        ConfigError, DataError: a model or hardware file with problems; data that cannot be read or is too small.
    """
    grids = [_axes(config, grid) for grid in (GridConfig(), *config.grids)]
    if family is not None:
        grids = _narrow(grids, *family)
    names = list(dict.fromkeys(name for grid in grids for name in grid["models"]))
    models = {name: load_model(name) for name in names}
    tasks = _load_tasks(grids)
    hardware = {name: load_hardware(config.hardware_of.get(name, config.hardware)) for name in names}
    sizes = {name: training_size(task, config) for name, task in tasks.items()}
    namer = _Namer(config, models, hardware, {name: fingerprint(task, config.data) for name, task in tasks.items()})
    _check_shots(config, models, tasks)
    cells: dict[str, Cell] = {}
    for grid in grids:
        for cell in _unfold(grid, namer):
            cells.setdefault(cell.hash, cell)
    ordered = sorted(cells.values(), key=lambda cell: cell.iteration)
    indexed = tuple(dataclasses.replace(cell, index=i) for i, cell in enumerate(ordered))
    return Plan(config, models, hardware, tasks, sizes, indexed)


def _check_shots(config: StudyConfig, models: dict[str, ModelConfig], tasks: dict[str, Task]) -> None:
    """In ``fewshot`` mode every model has room for examples beside a document; without any, it would be ``full``."""
    if config.generation.mode != "fewshot":
        return
    problems = [
        f"generation.mode = fewshot: the context of {model.name} ({model.context} tokens) leaves no room for an example "
        f"beside a document of {task.name} (up to {task.max_document_tokens} tokens)"
        for model in models.values()
        for task in tasks.values()
        if model.context <= task.max_document_tokens
    ]
    if problems:
        raise ConfigError(problems)


def _load_tasks(grids: list[dict[str, Any]]) -> dict[str, Task]:
    """The tasks of a study by their own names, which take the place of paths in ``grids``."""
    tasks: dict[str, Task] = {}
    given: dict[str, str] = {}
    for grid in grids:
        loaded = {name: get_task(name) for name in grid["tasks"]}
        for name, task in loaded.items():
            if given.setdefault(task.name, name) != name:
                raise ConfigError(
                    [f"tasks: {given[task.name]} and {name} are both called '{task.name}'; give one another name: ..."]
                )
            tasks[task.name] = task
        grid["tasks"] = [task.name for task in loaded.values()]
    return tasks


def training_size(task: Task, config: StudyConfig) -> int:
    """N: the size of the external training set."""
    from synthmix.data.records import NANO_TRAIN

    asked = config.data.train_examples
    if task.source is None:
        return asked or NANO_TRAIN
    available = len(load_split(task, "train", config.data))
    if asked is not None and asked > available:
        raise DataError(
            f"data.train_examples = {asked}, but {task.name} has {available} after {config.data.validation_examples} "
            f"examples are held out for validation"
        )
    if (asked or available) < config.training.batch_size:
        raise DataError(
            f"{task.name} has {available} training examples, fewer than one batch (training.batch_size = "
            f"{config.training.batch_size})"
        )
    return asked or available


def _axes(config: StudyConfig, grid: GridConfig) -> dict[str, Any]:
    return {
        spec.name: getattr(config, spec.name) if getattr(grid, spec.name) is None else getattr(grid, spec.name)
        for spec in dataclasses.fields(GridConfig)
    }


def _narrow(grids: list[dict[str, Any]], model: str, task: str, seed: int) -> list[dict[str, Any]]:
    """The part of the grids that has this model, task and seed; a task may be named by the path of its file."""
    kept = []
    for grid in grids:
        tasks = [name for name in grid["tasks"] if name == task or get_task(name).name == task]
        if model in grid["models"] and seed in grid["seeds"] and tasks:
            kept.append(grid | {"models": [model], "tasks": tasks, "seeds": [seed]})
    return kept


def _unfold(grid: dict[str, Any], namer: _Namer) -> Iterator[Cell]:
    for model in grid["models"]:
        for task in grid["tasks"]:
            for seed in grid["seeds"]:
                baseline = namer.cell(model, task, "baseline", 0.0, 0, seed, None, None)
                yield baseline
                for mode, proportion in _conditions(grid):
                    parent = baseline
                    for iteration in range(1, grid["iterations"] + 1):
                        parent = namer.cell(model, task, mode, proportion, iteration, seed, parent.hash, baseline.hash)
                        yield parent


def _conditions(grid: dict[str, Any]) -> list[tuple[str, float]]:
    """(mode, proportion) pairs; 0 % is the same in every mode, and recursive is 100 % whatever the other proportions."""
    pairs = []
    for mode in grid["modes"]:
        shares = [p for p in grid["proportions"] if p == 0] + [1.0] if mode == "recursive" else grid["proportions"]
        pairs += [("replace" if share == 0 else mode, float(share)) for share in shares]
    return list(dict.fromkeys(pairs))


def identity(section: Any) -> dict[str, Any]:
    """The settings of a section that change what comes out."""
    return {
        spec.name: getattr(section, spec.name)
        for spec in dataclasses.fields(section)
        if spec.metadata.get("identity", True)
        and not (spec.metadata.get("since") and getattr(section, spec.name) == spec.default)
    }


def _precision(profile: HardwareConfig) -> str:
    """What of a profile changes a cell's numbers."""
    inference = profile.inference_precision
    return profile.precision if inference == "32-true" else f"{profile.precision}, {inference} from then on"


class _Namer:
    """Names and hashes cells; what they share is digested once, so that 100,000 cells are named in seconds."""

    def __init__(
        self,
        config: StudyConfig,
        models: dict[str, ModelConfig],
        hardware: dict[str, HardwareConfig],
        fingerprints: dict[str, str],
    ) -> None:
        sections = ("data", "training", "generation", "design", "evaluation", "monitoring")
        shared: dict[str, Any] = {name: identity(getattr(config, name)) for name in sections}
        self.shared = {
            name: keys.digest(CODE_VERSION, _precision(profile), shared, length=32)
            for name, profile in hardware.items()
        }
        self.mixing = identity(config.mixing)
        self.models = models
        self.model_digests = {
            name: keys.digest(identity(model), weights_fingerprint(model), length=32) for name, model in models.items()
        }
        self.fingerprints = fingerprints

    def cell(
        self,
        model: str,
        task: str,
        mode: str,
        proportion: float,
        iteration: int,
        seed: int,
        parent: str | None,
        baseline: str | None,
    ) -> Cell:
        mixing = {} if parent is None else self.mixing
        condition = (model, task, mode, proportion, iteration, seed, parent, mixing)
        name_hash = keys.digest(
            self.shared[model], self.model_digests[model], self.fingerprints[task], condition, length=32
        )
        label = "baseline" if parent is None else f"{mode}-{100 * proportion:g}"
        return Cell(
            name=f"{model}.{task}.{label}.it{iteration}.s{seed}-{name_hash[:8]}",
            hash=name_hash,
            model=model,
            task=task,
            mode=mode,
            proportion=proportion,
            iteration=iteration,
            seed=seed,
            parent=parent,
            baseline=baseline or name_hash,
            parameters=self.models[model].parameters,
        )
