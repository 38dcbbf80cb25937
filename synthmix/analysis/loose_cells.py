"""Any set of cells as one study: cells of several studies or stores, or a store whose plan is gone.

Each cell's own files say what it is: ``result.json``, or ``config.yaml`` where it has not finished.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from synthmix.analysis.cell_files import THREADS, CellFolders, read_json
from synthmix.analysis.load import StudyData, not_a_cell
from synthmix.errors import DataError, UserError

#: What makes a cell one point of an experiment; two cells that share it differ in something else.
POINT = ("model", "task", "mode", "proportion", "iteration", "seed")
#: Settings that say where and by whom a cell was computed, and which cells there are: they may differ.
_ELSEWHERE = ("name", "tasks", "models", "modes", "proportions", "iterations", "seeds", "grids", "wandb", "store",
              "hardware", "workers", "data.root")  # fmt: skip
#: The safe loader in C, where PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class _Found:
    """A cell as its folder describes it: its axes, and the text of the settings that it was computed with."""

    folder: Path
    cell: dict[str, Any]
    settings: str


def load_cells(places: str | Path | Iterable[str | Path], name: str = "cells") -> StudyData:
    """Cells by their folders, by folders that hold them (a store, its ``cells``), or by patterns (``runs*/cells/*math*``).

    ``cells`` has one column more than that of a study: ``study``, the study whose settings a cell was computed with.
    A cell that is found twice (by its hash) is one cell; the finished one counts. Folders that do not say which cell
    they are, are named in :attr:`StudyData.notes`. ``config`` holds the settings that all cells share.

    Raises:
        UserError: there is no cell in a place; or two cells are the same point of the experiment (model, task, mode,
            proportion, iteration, seed) with different settings, which a comparison over seeds would mix.
    """
    folders = list(_folders([places] if isinstance(places, (str, Path)) else places))
    with ThreadPoolExecutor(THREADS) as pool:
        described = list(pool.map(_describe, folders))
    found = _once([one for one in described if isinstance(one, _Found)])
    settings = {text: _parse(text) for text in sorted({one.settings for one in found})}
    _check_points(found, settings)
    source = CellFolders(Path(os.path.commonpath([one.folder for one in found])), _places(found))
    source.said += [said for said in described if isinstance(said, str)] + _differing(list(settings.values()))
    cells = [one.cell | {"study": str(settings[one.settings].get("name", ""))} for one in found]
    return StudyData(name, source.root, {"study": name, "cells": cells}, _common(list(settings.values())), source)


def _folders(places: Iterable[str | Path]) -> Iterator[Path]:
    """The folders of cells in some places, each once.

    Raises:
        UserError: a place without any.
    """
    seen: set[Path] = set()
    for place in places:
        paths = [Path(path) for path in sorted(glob.glob(str(place), recursive=True))]
        cells = [cell.resolve() for path in paths for cell in _inside(path)]
        if not cells:
            what = (
                "there is no such folder" if not paths else "no cell there (a folder with result.json or config.yaml)"
            )
            raise UserError(f"{place}: {what}; expected cells' folders, a store, or a pattern like runs/cells/*")
        yield from (cell for cell in cells if cell not in seen)
        seen.update(cells)


def _inside(path: Path) -> list[Path]:
    if _is_cell(path):
        return [path]
    for folder in (path / "cells", path):
        if found := [inner for inner in (sorted(folder.iterdir()) if folder.is_dir() else []) if _is_cell(inner)]:
            return found
    return []


def _is_cell(path: Path) -> bool:
    return (path / "result.json").is_file() or (path / "config.yaml").is_file()


def _describe(folder: Path) -> _Found | str:
    """The cell of a folder; or, where its files do not tell, a sentence that says so."""
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    head, _, settings = text.partition("\nstudy:\n")
    try:
        cell = read_json(folder / "result.json") if (folder / "result.json").is_file() else None
    except DataError:
        cell = None  # its axes may still be known; the table of cells will say that it is damaged
    if not_a_cell(cell):
        cell = _parse(head).get("cell")
    problem = not_a_cell(cell)
    if problem or not isinstance(cell, dict):
        return f"Left out: {folder.name}: neither result.json nor config.yaml says which cell it is ({problem})."
    keys = ("name", "hash", *POINT, "parent", "baseline", "parameters")
    known = {key: cell[key] for key in keys if key in cell}
    return _Found(folder, {"parent": None, "level": known["iteration"]} | known, settings)


def _parse(text: str) -> dict[str, Any]:
    """The mapping that a part of a YAML file holds; an empty one where it cannot be read."""
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _once(found: Sequence[_Found]) -> list[_Found]:
    """One folder a hash: the finished one, else the first."""
    chosen: dict[str, _Found] = {}
    for one in found:
        before = chosen.get(one.cell["hash"])
        if before is None or not (before.folder / "result.json").is_file():
            chosen[one.cell["hash"]] = one
    return list(chosen.values())


def _places(found: Sequence[_Found]) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for one in found:
        if other := places.get(one.cell["name"]):
            raise UserError(f"two cells are named {one.cell['name']}: {other} and {one.folder}; load them apart")
        places[one.cell["name"]] = one.folder
    return places


def _check_points(found: Sequence[_Found], settings: dict[str, dict[str, Any]]) -> None:
    points: dict[tuple[Any, ...], _Found] = {}
    for one in found:
        other = points.setdefault(tuple(one.cell[key] for key in POINT), one)
        if other is not one:
            theirs, ours = (_flat(settings[each.settings]) for each in (other, one))
            changed = [f"{key}: {theirs.get(key)} and {ours.get(key)}" for key in {**theirs, **ours}
                       if theirs.get(key) != ours.get(key)]  # fmt: skip
            raise UserError(
                f"{other.folder.name} and {one.folder.name} are the same model, task, mode, proportion, iteration and"
                f" seed with other settings ({'; '.join(changed[:3]) or 'the code or the data changed'}); load them"
                " apart, and join the tables if that is what you want"
            )


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """In which settings the cells differ, as one sentence."""
    flat = [_flat(one) for one in settings]
    values = {key: sorted({str(one.get(key)) for one in flat}) for key in sorted(set().union(*flat))}
    told = [f"{key} ({', '.join(found)})" for key, found in values.items() if len(found) > 1]
    return [f"The cells were not all computed with the same settings: {'; '.join(told)}."] if told else []


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names, without those that may differ."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if (dotted := prefix + str(key)) not in _ELSEWHERE:
            flat |= _flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return flat


def _common(settings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several settings say alike."""
    first, *others = settings
    common: dict[str, Any] = {}
    for key, value in first.items():
        theirs = [other.get(key) for other in others]
        if isinstance(value, dict) and all(isinstance(other, dict) for other in theirs):
            common[key] = _common([value, *theirs])  # type: ignore[list-item]
        elif all(key in other for other in others) and all(other == value for other in theirs):
            common[key] = value
    return common
