"""A plan on disk: ``study.yaml``, the resolved settings, and ``plan.json``, the cells that they gave.

A plan that is read back knows its cells, sizes and machines, and no data: enough to say where a study stands, in a
fraction of the time that unfolding it anew takes. To run a cell, its settings are unfolded again and compared.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import yaml

from synthmix import __version__
from synthmix.config import HardwareConfig, ModelConfig, SlurmConfig, StudyConfig, load_study
from synthmix.errors import ConfigError, UserError
from synthmix.files import disk_errors, write_atomic
from synthmix.study.cells import CODE_VERSION, Cell, Plan, make_plan


def to_plain(config: StudyConfig) -> dict[str, Any]:
    """A configuration as plain YAML values."""
    return dataclasses.asdict(config)


def write(folder: Path, plan: Plan) -> Path:
    """Writes a plan into a folder; returns the path of its ``plan.json``, which is written last."""
    content = {
        "study": plan.config.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "code": CODE_VERSION,
        "version": __version__,
        "sizes": plan.sizes,
        "models": {name: dataclasses.asdict(model) for name, model in plan.models.items()},
        "hardware": {name: dataclasses.asdict(profile) for name, profile in plan.hardware.items()},
        "cells": [cell.to_dict() for cell in plan.cells],
    }
    with disk_errors(folder):
        write_atomic(folder / "study.yaml", yaml.safe_dump(to_plain(plan.config), sort_keys=False))
        write_atomic(folder / "plan.json", json.dumps(content))
    return folder / "plan.json"


def read(path: Path) -> Plan:
    """The plan behind a ``plan.json``, without its tasks.

    Raises:
        ConfigError: there is none, or it is none.
    """
    content = _content(path)
    try:
        names = {spec.name for spec in dataclasses.fields(Cell)}
        cells = tuple(Cell(**{k: v for k, v in cell.items() if k in names}) for cell in content["cells"])
        models = {name: ModelConfig(**model) for name, model in content["models"].items()}
        hardware = {name: _profile(given) for name, given in content.get("hardware", {}).items()}
        sizes = dict(content["sizes"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_plan(path, error) from error
    return Plan(_settings(path), models, hardware, {}, sizes, cells)


def reopen(path: Path, name: str | None = None) -> Plan:
    """The plan behind a ``plan.json``, unfolded again from its settings, with its data.

    Args:
        name: of a cell; of others, only those with its model, task and seed are unfolded: its family. None: all cells.

    Raises:
        ConfigError: there is no such plan, or no such cell in it.
        UserError: the cells are no longer those that were frozen: other data, model files or code.
    """
    before = read(path)
    if name is None:
        plan, wanted = make_plan(before.config), list(before.cells)
    else:
        one = next((cell for cell in before.cells if cell.name == name), None)
        if one is None:
            raise ConfigError([f"cell {name!r}: not in {path}, which has {len(before.cells)} cells"])
        family = (one.model, one.task, one.seed)
        plan = make_plan(before.config, family)
        wanted = [cell for cell in before.cells if (cell.model, cell.task, cell.seed) == family]
    if {cell.hash for cell in wanted} != set(plan.by_hash):
        raise UserError(f"{path}: {_why_other(_content(path))}; 'synthmix plan STUDY' freezes them anew")
    # the machine was asked for as the profile was then
    return dataclasses.replace(
        plan, hardware=plan.hardware | {k: v for k, v in before.hardware.items() if k in plan.hardware}
    )


def _why_other(content: dict[str, Any]) -> str:
    if content.get("code") != CODE_VERSION:
        return (
            f"the plan was frozen by code version {content.get('code')} (synthmix {content.get('version', 'before 0.2')}), "
            f"this is code version {CODE_VERSION} (synthmix {__version__}), whose cells are others"
        )
    return (
        "the cells that were frozen are not those that its settings give here: the data (SYNTHMIX_DATA) or a model file "
        "differs"
    )


def _settings(path: Path) -> StudyConfig:
    return load_study(str(path.parent / "study.yaml"))


def _profile(given: dict[str, Any]) -> HardwareConfig:
    return HardwareConfig(**given | {"slurm": SlurmConfig(**given.get("slurm", {}))})


def _content(path: Path) -> dict[str, Any]:
    if not (path.is_file() and (path.parent / "study.yaml").is_file()):
        raise ConfigError([f"PLAN = {str(path)!r}: no such plan; 'synthmix plan STUDY' writes one"])
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise _no_plan(path, error) from error
    if not isinstance(content, dict):
        raise _no_plan(path, f"it holds a {type(content).__name__}")
    return content


def _no_plan(path: Path, error: object) -> ConfigError:
    return ConfigError([f"PLAN = {str(path)!r}: not a plan ({error}); 'synthmix plan STUDY' writes one"])
