"""How fast cells really were, and what that says about those to come.

A finished cell took so many device-seconds for work that the stated speeds of its profile would have done in so many
others. The ratio of the two, its median over the finished cells that are most alike, corrects the estimate: the same
task, model and profile; else the same model and profile; else the profile alone, where another model's time is scaled
by its operations.
"""

from __future__ import annotations

import bisect
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synthmix.config import HardwareConfig, ModelConfig, StudyConfig, load_hardware
from synthmix.errors import UserError
from synthmix.study.cells import Cell, Plan
from synthmix.study.cost import PHASES, Estimator, Job, Work, job_of, plain_attempts, stated_seconds
from synthmix.study.store import Store
from synthmix.tasks import get_task

#: Finished cells of other studies that are looked at: the newest.
OTHERS = 100
#: What a measured ratio is taken over, from the most to the least alike.
ALIKE = ("hardware", "model", "task")
#: Device-seconds of a cell beside its phases: reading and mixing the data.
MIX = "mix"
ATTEMPTS = "attempts"
#: Phases whose tokens a result counts as the estimate does (prompts that shots and questions make are not in a pool's).
COUNTED = ("train", "generate")

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One measurement: ``measured`` of something where ``expected`` was stated, and what it was measured on."""

    what: str
    on: Path_
    measured: float
    expected: float

    @property
    def ratio(self) -> float:
        return self.measured / self.expected


@dataclass(frozen=True)
class Finished:
    """A finished cell's figures: device-seconds of its phases over all attempts, mixing among them, and the tokens it
    was trained on and wrote."""

    hash: str
    hardware: str
    device: str
    seconds: dict[str, float]
    tokens: dict[str, float]
    entries: tuple[Entry, ...]


@dataclass
class Learned:
    """Ratios of finished cells, of which any one cell can be left out. Their medians are used: on a machine that is
    shared, some cells take several times as long as the others."""

    finished: list[Finished] = field(default_factory=list)
    _ratios: dict[tuple[str, Path_], list[float]] = field(default_factory=dict)

    def add(self, cell: Finished) -> None:
        self.finished.append(cell)
        for entry in cell.entries:
            for depth in range(1, len(entry.on) + 1):
                bisect.insort(self._ratios.setdefault((entry.what, entry.on[:depth]), []), entry.ratio)

    def ratio(self, what: str, on: Path_, without: Finished | None = None, least: int = 1) -> tuple[float, int] | None:
        """(median of measured / expected, how many parts of ``on`` the cells share), the most alike cells first; None
        without any. ``least``: how many parts must be shared."""
        for depth in range(len(on), least - 1, -1):
            ratios = self._ratios.get((what, on[:depth]), [])
            for entry in without.entries if without is not None else ():
                if (entry.what, entry.on[:depth]) == (what, on[:depth]):
                    place = bisect.bisect_left(ratios, entry.ratio)
                    ratios = ratios[:place] + ratios[place + 1 :]
            if ratios:
                return (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2, depth
        return None


@dataclass(frozen=True)
class Prediction:
    """Device-seconds of a cell by phase, and what each rests on: ``stated``, or what finished cells have in common with
    it (``hardware``, ``model``, ``task``). Phases without a known speed are absent."""

    seconds: dict[str, float]
    basis: dict[str, str]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def complete(self) -> bool:
        return set(PHASES) <= set(self.seconds)


@dataclass(frozen=True)
class Error:
    """Predicted over real: median and range over ``n`` cells, and for their sum."""

    n: int
    median: float
    low: float
    high: float
    of_sum: float


class Forecast:
    """Predicts the cells of a plan from what has finished in its store.

    Raises:
        DataError: data that cannot be read.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.estimator, self.learned = plan, Estimator(), Learned()
        self._works: dict[tuple[Any, ...], Work] = {}
        for finished in _finished(plan, store, self.estimator):
            self.learned.add(finished)
        self._own = {cell.hash: cell for cell in self.learned.finished}

    def job(self, cell: Cell, learn: bool = True, without: Finished | None = None) -> Job:
        """A cell's job; with ``learn``, as many attempts a sample as finished cells of its model and task took."""
        seen = self.learned.ratio(ATTEMPTS, (cell.model, cell.task), without, least=2) if learn else None
        return job_of(self.plan, cell, seen[0] if seen else plain_attempts(self.plan.config))

    def work(self, cell: Cell, learn: bool = True, without: Finished | None = None) -> Work:
        """Tokens and FLOPs of a cell by phase."""
        job = self.job(cell, learn, without)
        key = (cell.model, cell.task, job.examples, job.attempts)
        if key not in self._works:
            self._works[key] = self.estimator.work(job)
        return self._works[key]

    def stated(self, cell: Cell) -> Prediction:
        """At the profile's stated speeds; nothing where it states no peak."""
        hardware = self.plan.hardware_of(cell)
        if hardware.peak_tflops is None:
            return Prediction({}, {})
        work = self.work(cell, learn=False)
        return Prediction({p: stated_seconds(work[p], hardware) for p in PHASES}, dict.fromkeys(PHASES, "stated"))

    def predict(self, cell: Cell, without: Finished | None = None) -> Prediction:
        """At measured speeds where there are any, without what one cell measured."""
        hardware, seconds, basis = self.plan.hardware_of(cell), dict[str, float](), dict[str, str]()
        work, on = self.work(cell, without=without), (hardware.name, cell.model, cell.task)
        for phase in PHASES:
            seen = self.learned.ratio(phase, on, without)
            if seen is not None:
                seconds[phase] = seen[0] * stated_seconds(work[phase], hardware)
                basis[phase] = ALIKE[seen[1] - 1]
            elif hardware.peak_tflops is not None:
                seconds[phase], basis[phase] = stated_seconds(work[phase], hardware), "stated"
        mixing = self.learned.ratio(MIX, on, without)
        return Prediction(seconds | ({MIX: mixing[0]} if mixing else {}), basis)

    def errors(self) -> dict[str, Error]:
        """Of this study's finished cells: device-time at ``stated`` speeds, and at ``measured`` ones, where each cell is
        left out in its turn; tokens of ``train`` and ``generate`` from the lengths of the data."""
        pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in ("stated", "measured", *COUNTED)}
        for cell in self.plan.cells:
            finished = self._own.get(cell.hash)
            if finished is None or not set(PHASES) <= set(finished.seconds):
                continue
            real, work = sum(finished.seconds.values()), self.work(cell, learn=False)
            predicted = self.predict(cell, without=finished)
            if predicted.complete and "stated" not in predicted.basis.values():
                pairs["measured"].append((predicted.total, real))
            if (stated := self.stated(cell)).complete:
                pairs["stated"].append((stated.total, real))
            for phase in COUNTED if self.plan.config.generation.mode == "full" else COUNTED[:1]:
                if finished.tokens[phase]:
                    pairs[phase].append((work[phase].tokens, finished.tokens[phase]))
        return {name: _error(found) for name, found in pairs.items() if found}


def _error(pairs: Sequence[tuple[float, float]]) -> Error:
    ratios = [predicted / real for predicted, real in pairs]
    of_sum = sum(predicted for predicted, _ in pairs) / sum(real for _, real in pairs)
    return Error(len(ratios), statistics.median(ratios), min(ratios), max(ratios), of_sum)


# -- finished cells -----------------------------------------------------------------------------------------------------


def _finished(plan: Plan, store: Store, estimator: Estimator) -> Iterator[Finished]:
    """Finished cells of this study, and of other studies of its store on the profiles of this one."""
    profiles = {profile.name: profile for profile in plan.hardware.values()}
    for cell in plan.cells:
        if store.is_done(cell):
            result = store.result(cell)
            job = job_of(plan, cell, 1.0)
            profile = _profile(result, plan.hardware_of(cell), profiles)
            if profile is not None and (found := _measured(result, job, profile, estimator, own=True)):
                yield found
    own = {cell.name for cell in plan.cells}
    for folder in _others(store.root / "cells", own):
        found = _other(folder, profiles, estimator)
        if found is not None:
            yield found


def _others(cells: Path, own: set[str]) -> list[Path]:
    """Folders of other studies' cells, the newest first."""
    dated = []
    for folder in cells.iterdir() if cells.is_dir() else ():
        result = folder / "result.json"
        if folder.name not in own and result.is_file():
            dated.append((result.stat().st_mtime, folder))
    return [folder for _, folder in sorted(dated, reverse=True)[:OTHERS]]


def _other(folder: Path, profiles: dict[str, HardwareConfig], estimator: Estimator) -> Finished | None:
    """Another study's cell, from its own settings; None if it says nothing of these profiles, or cannot be read."""
    result = _read(folder / "result.json")
    profile = profiles.get(result.get("work", {}).get("hardware", "")) if result is not None else None
    if result is None or profile is None:
        return None
    try:
        told = yaml.load(
            (folder / "config.yaml").read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        config = _typed(StudyConfig, told["study"])
        job = Job(_typed(ModelConfig, told["model"]), get_task(result["task"]), config, 0, 0.0)
        return _measured(result, job, profile, estimator, own=False)
    except (OSError, KeyError, TypeError, yaml.YAMLError, OmegaConfBaseException, UserError):
        return None  # of another version, or its data or task is not at hand: it teaches nothing here


def _typed(schema: type[Any], values: dict[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))


def _profile(
    result: dict[str, Any], planned: HardwareConfig, profiles: dict[str, HardwareConfig]
) -> HardwareConfig | None:
    """The profile that a cell ran on; before results said so, the planned one is taken for it."""
    name = result.get("work", {}).get("hardware", planned.name)
    if name in profiles:
        return profiles[name]
    try:
        return load_hardware(name)
    except UserError:  # a file that is gone
        return None


def _measured(
    result: dict[str, Any], job: Job, profile: HardwareConfig, estimator: Estimator, own: bool
) -> Finished | None:
    """What a result says about speeds, against what its work was taken to be."""
    told, timings = result.get("work", {}), result.get("timings", {})
    devices = int(told.get("devices", profile.devices)) * int(told.get("nodes", profile.nodes))
    seconds = {
        phase: devices * float(told.get(f"{phase}_seconds", timings.get(phase, 0.0))) for phase in (*PHASES, MIX)
    }
    seconds = {phase: spent for phase, spent in seconds.items() if spent > 0}
    mixture, pool = result["mixture"], result["pool"]
    job = Job(job.model, job.task, job.config, mixture["external"] + mixture["synthetic"], float(pool["tries"]))
    work = estimator.work(job)
    on = (profile.name, job.model.name, job.task.name)
    expected = {phase: stated_seconds(work[phase], profile) for phase in PHASES if phase in seconds}
    entries = [Entry(phase, on, seconds[phase], stated) for phase, stated in expected.items() if stated > 0]
    if MIX in seconds:
        entries.append(Entry(MIX, on, seconds[MIX], 1.0))
    if own and pool["kept"]:
        entries.append(Entry(ATTEMPTS, on[1:], float(pool["tries"]), float(pool["kept"])))
    tokens = {"train": float(result["train"].get("tokens", 0)), "generate": float(pool["tokens"])}
    return Finished(result["hash"], profile.name, str(told.get("device", "")), seconds, tokens, tuple(entries))


def _read(path: Path) -> dict[str, Any] | None:
    """Another study's result; None for one that cannot be read."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
