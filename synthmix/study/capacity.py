"""Whether the models of a plan fit on the machines that it asks for, by the longest document of its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from synthmix.config import HardwareConfig, ModelConfig, StudyConfig
from synthmix.errors import ConfigError
from synthmix.models.memory import Fit, check_fits, describe_fit, dimensions_of, examine, sequences_that_fit
from synthmix.study.cells import Cell, Plan
from synthmix.study.lengths import longest


def check_capacity(plan: Plan, cells: Iterable[Cell] | None = None) -> list[str]:
    """Refuses pairs of model and profile that cannot fit; returns what is too close to tell, as sentences.

    Args:
        plan: the plan.
        cells: those that matter; all by default.

    Raises:
        ConfigError: all such pairs, each with the arithmetic and the nearest pair that fits.
        DataError: data that cannot be read.
    """
    problems, warnings = [], []
    for model, profile, length in _pairs(plan, cells):
        try:
            warning = check_fits(model, profile, plan.config.training, length, _sequences(plan))
        except ConfigError as refused:
            problems += refused.problems
        else:
            warnings += [warning] if warning else []
    if problems:
        raise ConfigError(problems)
    return warnings


def fitting_config(plan: Plan, cell: Cell) -> StudyConfig:
    """A plan's settings, with as many sequences decoded or scored at once as a device has room for, by the estimate.

    Batch sizes of evaluation and generation change no result; profiles that do not say what a device has change nothing.
    """
    for model, profile, length in _pairs(plan, [cell]):
        room = sequences_that_fit(dimensions_of(model), profile, length, _sequences(plan))
        if room is not None:
            return _with_at_most(plan.config, room)
    return plan.config


def _with_at_most(config: StudyConfig, sequences: int) -> StudyConfig:
    generation, evaluation = config.generation, config.evaluation
    return replace(
        config,
        generation=replace(generation, batch_size=min(generation.batch_size, sequences)),
        evaluation=replace(evaluation, batch_size=min(evaluation.batch_size, sequences)),
    )


def capacity(plan: Plan) -> list[Fit]:
    """What each model of a plan needs of its profile, where the profile says what a device has."""
    batch_size, sequences = plan.config.training.batch_size, _sequences(plan)
    return [examine(model, profile, length, batch_size, sequences) for model, profile, length in _pairs(plan)]


def capacity_lines(plan: Plan) -> list[str]:
    """The same in words, a line each."""
    words = {"close": " May not fit.", "too much": " Does not fit: run and submit refuse it."}
    return [
        f"Memory: {fit.model} on {fit.hardware.name}: {describe_fit(fit)}.{words.get(fit.state, '')}"
        for fit in capacity(plan)
    ]


def _pairs(plan: Plan, cells: Iterable[Cell] | None = None) -> Iterator[tuple[ModelConfig, HardwareConfig, int]]:
    """Model, profile, and tokens of the longest document; only where the profile says what a device has."""
    tasks: dict[str, set[str]] = {}
    for cell in plan.cells if cells is None else cells:
        tasks.setdefault(cell.model, set()).add(cell.task)
    limit = plan.config.training.max_tokens
    for name in tasks:
        model, profile = plan.models[name], plan.hardware[name]
        if profile.memory_gib is not None:
            yield model, profile, max(longest(plan.tasks[t], plan.config.data, model, limit) for t in tasks[name])


def _sequences(plan: Plan) -> int:
    return max(plan.config.generation.batch_size, plan.config.evaluation.batch_size)
