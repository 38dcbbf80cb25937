"""A plan in words: the grid, the cells by level and hardware, what they cost, and what that rests on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from synthmix.config import HardwareConfig
from synthmix.data.records import data_note
from synthmix.study.capacity import capacity_lines
from synthmix.study.cells import Cell, Plan
from synthmix.study.cost import PHASES, Peak, disk, peak_disk, total
from synthmix.study.lengths import CHARACTERS_A_TOKEN, by_characters, counter
from synthmix.study.published import Published, published_cost
from synthmix.study.store import Store
from synthmix.study.throughput import MIX, Error, Forecast


@dataclass(frozen=True)
class Cost:
    """Estimates for some cells. ``tokens`` and ``device_hours`` by phase, ``disk`` in the end in bytes.

    ``device_hours`` are at measured speeds where there are any, ``stated_hours`` at the profiles' own; None where a cell
    has no speed. ``left`` is the part of ``device_hours`` of cells that are not done.
    """

    cells: int
    done: int
    tokens: dict[str, float]
    flops: float
    device_hours: float | None
    stated_hours: float | None
    left: float | None
    hours_by_phase: dict[str, float]
    disk: float


@dataclass(frozen=True)
class Row:
    """The cells of a level that run on one profile."""

    level: int
    hardware: str
    cost: Cost


@dataclass(frozen=True)
class Estimate:
    """A plan's cost, what it rests on (sentences), and how far such estimates were off for this study's finished cells.

    ``basis`` counts the cells' phases by what their device-hours rest on (see :class:`Prediction`), ``measured_on`` the
    finished cells behind measured speeds. ``memory`` says what each model takes of its profile, where that says what there
    is. ``at_published_sizes`` are the device-hours with the training and test sets as large as published, where published
    figures stand beside.
    """

    study: str
    rows: list[Row]
    total: Cost
    peak: Peak
    rests_on: list[str]
    basis: dict[str, int]
    measured_on: int
    errors: dict[str, Error]
    memory: list[str]
    published: Published | None
    at_published_sizes: float | None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def estimate(plan: Plan, store: Store) -> Estimate:
    """What a plan costs.

    Raises:
        DataError: data that cannot be read.
    """
    forecast = Forecast(plan, store)
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.level, plan.hardware_of(cell).name), []).append(cell)
    rows = [Row(*key, _cost(forecast, store, cells)) for key, cells in sorted(groups.items())]
    published = published_cost(plan)
    basis = Counter(b for cell in plan.cells for b in forecast.predict(cell).basis.values())
    return Estimate(
        study=plan.config.name,
        rows=rows,
        total=_cost(forecast, store, plan.cells),
        peak=peak_disk(plan),
        rests_on=_rests_on(plan, forecast, basis),
        basis=dict(basis),
        measured_on=len(forecast.learned.finished),
        errors=forecast.errors(),
        memory=capacity_lines(plan),
        published=published,
        at_published_sizes=_at_published_sizes(forecast, published) if published is not None else None,
    )


def _cost(forecast: Forecast, store: Store, cells: Sequence[Cell]) -> Cost:
    work = total([forecast.work(cell) for cell in cells])
    predictions = {cell.hash: forecast.predict(cell) for cell in cells}
    stated = [forecast.stated(cell) for cell in cells]
    known = all(prediction.complete for prediction in predictions.values())
    hours = {cell.hash: predictions[cell.hash].total / 3600 for cell in cells}
    done = {cell.hash for cell in cells if store.is_done(cell)}
    sizes = []
    for cell in cells:
        job = forecast.job(cell)
        sizes.append(disk(forecast.plan, cell, job, forecast.estimator.lengths(job)))
    return Cost(
        cells=len(cells),
        done=len(done),
        tokens={phase: load.tokens for phase, load in work.items()},
        flops=sum(load.flops for load in work.values()),
        device_hours=sum(hours.values()) if known else None,
        stated_hours=sum(p.total for p in stated) / 3600 if all(p.complete for p in stated) else None,
        left=sum(value for hash_, value in hours.items() if hash_ not in done) if known else None,
        hours_by_phase={
            phase: sum(p.seconds.get(phase, 0.0) for p in predictions.values()) / 3600 for phase in (*PHASES, MIX)
        },
        disk=sum(sizes),
    )


def _at_published_sizes(forecast: Forecast, published: Published) -> float | None:
    """Device-hours if training, pools and test grew to the published sizes; tasks without one stay as they are."""
    plan, hours = forecast.plan, 0.0
    for cell in plan.cells:
        prediction = forecast.predict(cell)
        if not prediction.complete:
            return None
        items = published.items.get(plan.tasks[cell.task].family, {})
        train = items.get("train", 0) / plan.sizes[cell.task] or 1.0
        test = items.get("test", 0) / forecast.estimator.lengths(forecast.job(cell)).splits["test"].n or 1.0
        grown = {"train": train, "generate": train, "evaluate": test, MIX: train}
        hours += sum(seconds * grown[phase] for phase, seconds in prediction.seconds.items()) / 3600
    return hours


def _rests_on(plan: Plan, forecast: Forecast, basis: Counter[str]) -> list[str]:
    """What the figures are made of, in sentences."""
    said = [_tokens(plan), _shapes(plan, forecast)]
    said += [
        f"Data of {task.name}: {note}." for task in plan.tasks.values() if (note := data_note(task, plan.config.data))
    ]
    profiles = list({profile.name: profile for profile in plan.hardware.values()}.values())
    said += [_speed(profile) for profile in profiles]
    measured = {name: n for name, n in basis.items() if name != "stated"}
    if measured:
        devices = sorted({cell.device for cell in forecast.learned.finished if cell.device})
        alike = {"task": "the same task, model and profile", "model": "the same model and profile",
                 "hardware": "the same profile, other models scaled by FLOPs"}  # fmt: skip
        share = 100 / sum(basis.values())
        said.append(
            f"Device-hours: measured on {len(forecast.learned.finished)} finished cells"
            + (f" ({', '.join(devices)})" if devices else "")
            + ": "
            + ", ".join(f"{n * share:.0f} % of the phases on {alike[name]}" for name, n in measured.items())
            + (f"; stated for {basis['stated'] * share:.0f} %." if basis["stated"] else ".")
        )
    else:
        said.append("Device-hours: stated speeds alone; no cell of these profiles has finished in this store.")
    return said


def _tokens(plan: Plan) -> str:
    without = [name for name, model in plan.models.items() if counter(model) is by_characters]
    counted = "the model's tokenizer"
    if without:
        rough = f"{CHARACTERS_A_TOKEN:g} characters each (no tokenizer of {', '.join(without)} on this machine)"
        counted = rough if len(without) == len(plan.models) else f"{counted}, or {rough}"
    return (
        "Tokens: training tokens are those of all epochs. They are estimated from the lengths of the data, counted by "
        f"{counted}; samples are taken to be as long as the data's documents."
    )


def _shapes(plan: Plan, forecast: Forecast) -> str:
    origins: dict[str, list[str]] = {}
    for name, model in plan.models.items():
        origins.setdefault(forecast.estimator.shape(model).origin, []).append(name)
    shapes = "; ".join(f"{', '.join(names)} from {origin}" for origin, names in origins.items())
    return (
        "FLOPs: 6 N + 12 L H Q T a trained token, a third of that a token read or written (Kaplan et al. 2020; Chowdhery "
        f"et al. 2022, appendix B). Shapes: {shapes}."
    )


def _speed(profile: HardwareConfig) -> str:
    if profile.peak_tflops is None:
        return f"{profile.name}: states no peak (peak_tflops); device-hours are known once a cell has finished on it."
    shares = [100 * u for u in (profile.train_utilisation, profile.read_utilisation, profile.write_utilisation)]
    return (
        f"{profile.name}: stated at {profile.peak_tflops:g} TFLOP/s a device, of which training is taken to reach "
        "{:g} %, reading {:g} % and writing {:g} %.".format(*shares)
    )


# -- in words ---------------------------------------------------------------------------------------------------------


def print_plan(plan: Plan, said: Estimate, console: Console) -> None:
    """What ``synthmix plan`` shows."""
    console.print(_table(said))
    console.print(_grid(plan), highlight=False, markup=False)
    for line in [*_hours(said), *_disk(said, plan), *said.memory, *said.rests_on, *_off(said), *_beside(said)]:
        # lines that go to a file or another program are left whole
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _table(said: Estimate) -> Table:
    title = f"study {said.study}: {said.total.cells} cells"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for column in ("level", "hardware", "cells", "done", "train", "eval", "gen", "FLOPs", "device-h", "disk"):
        table.add_column(column, justify="left" if column == "hardware" else "right", no_wrap=True)
    for row in said.rows:
        table.add_row(f"{row.level} (baselines)" if row.level == 0 else f"{row.level}", row.hardware, *_cells(row.cost))
    if len(said.rows) > 1:
        table.add_row("all", "", *_cells(said.total), style="bold")
    return table


def _cells(cost: Cost) -> list[str]:
    tokens = [_count(cost.tokens[phase]) for phase in PHASES]
    return [
        str(cost.cells),
        str(cost.done),
        *tokens,
        f"{cost.flops:.1e}".replace("+", ""),
        _hour(cost.device_hours),
        _bytes(cost.disk),
    ]


def _hours(said: Estimate) -> list[str]:
    cost = said.total
    if cost.device_hours is None:
        return ["Device-hours are not known for every cell; see below."]
    parts = ", ".join(f"{phase} {_hour(hours)}" for phase, hours in cost.hours_by_phase.items() if hours)
    return [f"Device-hours: {_hour(cost.device_hours)} ({parts}), {_hour(cost.left)} of them still to come."]


def _disk(said: Estimate, plan: Plan) -> list[str]:
    peak = said.peak
    between = f", models that no cell needs in the end up to {_bytes(peak.models)}" if peak.models else ""
    return [
        f"Disk: {_bytes(said.total.disk)} in the end (store.keep = {plan.config.store.keep}). While cells train, "
        f"checkpoints take up to {_bytes(peak.checkpoints)} more ({peak.at_once} at once){between}."
    ]


def _off(said: Estimate) -> list[str]:
    """How far estimates were off, for this study's finished cells."""
    names = {
        "stated": "device-hours at stated speeds",
        "measured": "device-hours at measured speeds, each cell left out in its turn",
        "train": "training tokens",
        "generate": "tokens of the pools",
    }
    return [
        f"Predicted / real {names[name]}: median {e.median:.2f}, range {e.low:.2f} to {e.high:.2f} over {e.n} finished "
        f"cells; {e.of_sum:.2f} for their sum."
        for name, e in said.errors.items()
    ]


def _beside(said: Estimate) -> list[str]:
    theirs, cost = said.published, said.total
    if theirs is None:
        return []
    line = (
        f"Published ({theirs.source}): about {theirs.runs} runs, about {theirs.device_hours:,.0f} GPU-hours "
        f"({theirs.device}), {theirs.device_hours / theirs.runs:.1f} a run."
    )
    if cost.device_hours is None:
        return [line]
    mean = cost.device_hours / cost.cells
    line += f" Here: {cost.cells} cells, {_hour(cost.device_hours)} device-hours, {mean:.1f} a cell"
    if said.at_published_sizes is None:
        return [f"{line}."]
    grown = said.at_published_sizes
    return [f"{line}; with data sets of the published sizes {_hour(grown)}, {grown / cost.cells:.1f} a cell."]


def _grid(plan: Plan) -> str:
    """The axes of what was planned; grids of a union may not hold every combination."""
    axes: dict[str, list[Any]] = {}
    for cell in plan.cells:
        for axis in ("model", "task", "mode", "proportion", "iteration", "seed"):
            values = axes.setdefault(axis, [])
            if getattr(cell, axis) not in values:
                values.append(getattr(cell, axis))
    return "\n".join(f"  {axis + 's':<12}{', '.join(map(str, values))}" for axis, values in axes.items())


def _hour(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.{0 if value >= 100 * size else 1}f} {unit}"
    return f"{value:.0f} B"
