"""What a study left behind, as one table of cells and one table of evaluated items (docs/tables.md has every column).

``cells`` is read from the small JSON files alone, so that a study of thousands of cells opens at once; ``items`` is
read on first use. A study that is still running, or failed in part, loads as far as it got, and so does one with
damaged files: a cell that cannot be read has the status ``damaged``, and ``error`` says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from synthmix.analysis.cell_files import PLAN_COLUMNS, CellFolders, Source, in_threads, read_json
from synthmix.analysis.item_tables import Checked, gather, of_another_kind
from synthmix.analysis.record import Record
from synthmix.errors import DataError, UserError, unknown

#: What a planned cell must say of itself, and as what; a plan without ``parent`` or ``level`` is an older one.
AXES: dict[str, type | tuple[type, ...]] = {
    "name": str, "hash": str, "model": str, "task": str, "mode": str,
    "proportion": (int, float), "iteration": int, "seed": int,
}  # fmt: skip

#: Notes of one kind that are told one by one.
MOST_NOTES = 5


@dataclass(frozen=True)
class StudyData:
    """One study in a store, a record of one, or any set of cells.

    Attributes:
        name: name of the study.
        root: the store; ``root / "cells" / <name>`` is the folder of a cell.
        plan: ``plan.json`` as it is.
        config: the resolved configuration (``study.yaml``) as plain dicts and lists.
        source: where the cells are read from; None: from the store.
    """

    name: str
    root: Path
    plan: dict[str, Any]
    config: dict[str, Any]
    source: Source | None = None

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a planned cell.

        Columns: ``name, model, task, mode, proportion, iteration, seed, hash, parameters, parent, level``; ``status``
        (``done``, ``failed``, ``started``, ``planned``; ``blocked`` behind a failed ancestor, ``halted`` where an
        ancestor's critical alert ended the chain; ``damaged`` where its files cannot be read) and ``error`` (what a
        failed cell said, what is damaged); ``family, metric, finished``; and for finished cells the result, flat:
        ``test_score``, ``validation_ece``, ``diversity_self_bleu``, ``pool_kept``, ``mixture_synthetic``,
        ``train_loss``, ``alert_level``, ``timings_train`` (seconds), ``versions_torch`` and so on; a pool's levers are
        ``pool_quality_verified`` and the like. Counts by reason (``pool_reasons``) are JSON text.
        """
        frame = self._frame
        if self._damage:
            reasons = frame["name"].map(self._damage)
            hit = reasons.notna()
            frame = frame.assign(status=frame.status.mask(hit, "damaged"), error=frame.error.mask(hit, reasons))
        return frame

    @cached_property
    def done(self) -> pd.DataFrame:
        """The finished cells."""
        return self.cells[self.cells.status == "done"].reset_index(drop=True)

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row an evaluated item of a finished cell.

        Columns: those of the cell (``model, task, mode, proportion, iteration, seed, hash, parameters``), then
        ``split`` (test, validation, a task's probes), ``item`` (id), ``gold, prediction, prediction_flexible,
        completion``, ``score`` (0 to 1), ``score_flexible``, ``correct``, ``invalid`` (reason, or empty), ``stop,
        tokens, logprob, confidence`` and ``confidence_<estimator>`` (mean, sum, answer, agreement, p_true; nan where
        the estimator does not exist), ``score_<name>`` for secondary scores, ``group_<name>`` for groups of items.
        """
        return self.read_items()

    def read_items(
        self, columns: Sequence[str] | None = None, split: str | None = None, cells: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Some columns (those that exist), one split, or some cells (by name) of :attr:`items`.

        A cell whose table cannot be read is set aside: it is not in the result, and no longer among :attr:`done`.
        """
        done = self.done if cells is None else self.done[self.done["name"].isin(list(cells))]
        tables = self._read(list(done["name"]), columns, split)
        for name, reason in of_another_kind(tables).items():
            self._set_aside(name, reason)
            del tables[name]
        return gather(done[done["name"].isin(tables)], tables, columns)

    def item_columns(self, cell_name: str) -> list[str]:
        """Names of the columns of a cell's item table.

        Raises:
            DataError: the table cannot be read.
        """
        return self._source.columns(cell_name)

    def verify(self) -> StudyData:
        """Reads every item table whole, once, and the examples; sets aside cells whose table is damaged or cannot be right.

        Without it a damaged page is found by whoever reads it first, perhaps after cells have been counted. Items that
        differ between the cells of a task are told in :attr:`notes`. Returns the study itself.
        """
        checked = Checked()
        tasks = dict(zip(self.done["name"], self.done["task"], strict=True))

        def check(name: str) -> None:
            try:
                checked.add(name, tasks[name], self._source.table(name, None, None))
                self._source.examples(name)
            except DataError as error:
                checked.damage[name] = str(error)

        in_threads(check, list(tasks))
        checked.settle()
        for name, reason in checked.damage.items():
            self._set_aside(name, reason)
        self._noted[:] = checked.notes()
        return self

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the files, a sentence each: what is damaged, left out, or not alike."""
        hit = self.cells[self.cells.status == "damaged"]
        damaged = [f"Set aside, damaged: {error}" for error in hit.error]
        return [*_first(damaged), *_first(self.remarks)]

    @property
    def remarks(self) -> list[str]:
        """:attr:`notes` on other things than damaged cells, all of them."""
        return [*self._source.said, *self._noted]

    def folder(self, cell_name: str) -> Path:
        """The folder of a cell.

        Raises:
            UserError: the study is a record, which has no folders.
        """
        return self._source.folder(cell_name)

    def examples(self, cell_name: str) -> list[dict[str, str]]:
        """Texts that a cell was trained on: ``[{"source": "external" | "synthetic", "text": ...}]``; may be empty."""
        return self._source.examples(cell_name)

    def pool_texts(self, cell_name: str, n: int) -> list[str]:
        """The first ``n`` texts that a cell's model wrote and the pool kept; may be empty."""
        return self._source.pool_texts(cell_name, n)

    def metrics(self, cell_name: str) -> pd.DataFrame:
        """``metrics.jsonl``, a row a line: ``time`` (Unix, s), ``phase, iteration, step`` and every logged number.

        A torn last line is not read; :attr:`notes` says so. Where a step stands twice, the later line counts.

        Raises:
            UserError: the study is a record, which has no logs.
        """
        frame = pd.DataFrame(self._source.metrics(cell_name))
        return frame if len(frame) else pd.DataFrame(columns=["time", "phase", "iteration", "step"])

    # -- parts ------------------------------------------------------------------------------------------------------

    @cached_property
    def _source(self) -> Source:
        return self.source or CellFolders(self.root)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        frame = self._source.frame(self.plan)
        for column in PLAN_COLUMNS:
            if column not in frame:
                frame[column] = None
        order = ["iteration", "model", "task", "mode", "proportion", "seed"]
        rest = [c for c in frame.columns if c not in PLAN_COLUMNS]
        return frame.sort_values(order, kind="stable", ignore_index=True)[[*PLAN_COLUMNS, *rest]]

    @cached_property
    def _damage(self) -> dict[str, str]:
        """Reasons by cell, of damage that only reading the items has shown."""
        return {}

    @cached_property
    def _noted(self) -> list[str]:
        return []

    def _set_aside(self, name: str, reason: str) -> None:
        self._damage[name] = reason
        for derived in ("cells", "done", "items"):
            self.__dict__.pop(derived, None)

    def _read(self, names: list[str], columns: Sequence[str] | None, split: str | None) -> dict[str, pa.Table]:
        """The tables that can be read, by cell."""

        def read(name: str) -> pa.Table | str:
            try:
                return self._source.table(name, columns, split)
            except DataError as error:
                return str(error)

        found = dict(zip(names, in_threads(read, names), strict=True))
        for name, reason in found.items():
            if isinstance(reason, str):
                self._set_aside(name, reason)
        return {name: table for name, table in found.items() if not isinstance(table, str)}


def _first(sentences: list[str]) -> list[str]:
    more = len(sentences) - MOST_NOTES
    return [*sentences[:MOST_NOTES], *([f"And {more:,} more of this kind."] if more > 0 else [])]


def load_study(path_or_name: str | Path, root: str | Path = "runs") -> StudyData:
    """A study by its name in the store ``root``, or by the path of its folder (``runs/studies/quickstart``), or a
    record (:func:`synthmix.analysis.record.write_record`) by its folder.

    Raises:
        UserError: there is no such study; names a near match.
        DataError: a file of the study cannot be read.
    """
    given = Path(path_or_name)
    folder = given if (given / "plan.json").is_file() else Path(root) / "studies" / str(path_or_name)
    if not (folder / "plan.json").is_file():
        known = sorted(path.parent.name for path in (Path(root) / "studies").glob("*/plan.json"))
        raise UserError(f"{unknown('study', str(path_or_name), known)} Looked in {Path(root) / 'studies'}")
    plan, config = _read_plan(folder / "plan.json"), _read_settings(folder / "study.yaml")
    name = str(plan.get("study", folder.name))
    if (folder / "record.json").is_file():
        return StudyData(name, folder, plan, config, Record(folder))
    return StudyData(name, folder.resolve().parents[1], plan, config)


def _read_plan(path: Path) -> dict[str, Any]:
    """A plan whose cells have at least their axes; ``parent`` and ``level`` are filled in where an older plan lacks them."""
    plan = read_json(path)
    if not isinstance(plan, dict) or not isinstance(plan.get("cells"), list):
        raise DataError("expected an object with a list of 'cells'", path)
    for position, cell in enumerate(plan["cells"]):
        if problem := not_a_cell(cell):
            advice = "a plan of another version? load_cells() reads the cells without it"
            raise DataError(f"cells[{position}] {problem}; {advice}", path)
    hashes = Counter(cell["hash"] for cell in plan["cells"])
    if repeated := [hash_ for hash_, n in hashes.items() if n > 1]:
        raise DataError(f"cell {repeated[0]} is planned {hashes[repeated[0]]} times; expected once", path)
    defaults = [{"parent": None, "level": cell["iteration"]} for cell in plan["cells"]]
    return plan | {"cells": [default | cell for default, cell in zip(defaults, plan["cells"], strict=True)]}


def not_a_cell(cell: Any) -> str:
    if not isinstance(cell, dict):
        return f"is {type(cell).__name__}; expected an object"
    if missing := [key for key in AXES if key not in cell]:
        return f"has no {', '.join(missing)}; expected {', '.join(AXES)}"
    wrong = [key for key, type_ in AXES.items() if not isinstance(cell[key], type_) or isinstance(cell[key], bool)]
    return f"has {wrong[0]} = {cell[wrong[0]]!r}; expected {_named(AXES[wrong[0]])}" if wrong else ""


def _named(type_: type | tuple[type, ...]) -> str:
    return {str: "text", int: "a whole number"}.get(type_, "a number") if isinstance(type_, type) else "a number"


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"not YAML: {str(error).splitlines()[0]}", path) from error
    if not isinstance(config, dict):
        raise DataError(f"expected settings (key: value) but found {type(config).__name__}", path)
    return config
