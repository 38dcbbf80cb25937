"""The files that cells left behind. A file that is damaged costs its cell, with the reason, and never the whole study.

What a cell needs to count as done: a ``result.json`` that can be read and is its own, and an ``items.parquet`` that is
whole. Anything else that is damaged (examples, logs) is left out, and :attr:`CellFolders.said` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synthmix.errors import DataError

#: Columns that say which cell a row belongs to: in ``cells``, and joined to every row of ``items``.
CELL_COLUMNS = ("model", "task", "mode", "proportion", "iteration", "seed", "hash", "parameters")
#: Sections of a result that become columns named ``<section>_<key>``.
SECTIONS = (
    *("test", "validation", "probes", "diversity", "pool", "mixture", "train", "data", "alert", "timings"),
    "versions",
)
#: Everything that ``cells`` always has, even where no cell has finished.
PLAN_COLUMNS = ("name", *CELL_COLUMNS, "parent", "level", "status", "error", "family", "metric", "finished")
#: What every item table has.
ITEM_KEYS = ("split", "item", "score")
#: Files are read in so many threads: a network file system answers them side by side.
THREADS = 8
#: Most files that a thread takes at a time: handing over one by one costs as much as reading it.
_PIECE = 64
_MAGIC = b"PAR1"

A = TypeVar("A")
B = TypeVar("B")


class Source(Protocol):
    """Where a study's cells are: folders of a store (:class:`CellFolders`), or a record of them."""

    said: list[str]  #: what was left out and why, a sentence each

    def frame(self, plan: dict[str, Any]) -> pd.DataFrame:
        """One row a planned cell, unsorted."""

    def folder(self, name: str) -> Path:
        """The folder of a cell."""

    def columns(self, name: str) -> list[str]:
        """Names of the columns of a cell's item table."""

    def table(self, name: str, columns: Sequence[str] | None, split: str | None) -> pa.Table:
        """A cell's items: some columns (those that exist), one split. Raises DataError for one that is damaged."""

    def examples(self, name: str) -> list[dict[str, str]]:
        """Texts that a cell was trained on."""

    def pool_texts(self, name: str, n: int) -> list[str]:
        """The first ``n`` texts that a cell's model wrote and the pool kept."""

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""


class CellFolders:
    """Cells as folders: ``root / "cells" / <name>``, or wherever ``places`` says."""

    def __init__(self, root: Path, places: Mapping[str, Path] | None = None) -> None:
        self.root, self.places = root, places
        self.said: list[str] = []

    def folder(self, name: str) -> Path:
        return self.root / "cells" / name if self.places is None else self.places[name]

    # -- cells ------------------------------------------------------------------------------------------------------

    def frame(self, plan: dict[str, Any]) -> pd.DataFrame:
        models = plan.get("models") or {}
        rows = in_threads(lambda cell: self._row(cell, models.get(cell["model"], {})), plan["cells"])
        _pass_on_ends(rows)
        self.said += [sentence for sentence in map(self._torn, rows) if sentence]
        return pd.DataFrame(rows)

    def _row(self, cell: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        folder = self.folder(cell["name"])
        row = {"parameters": model.get("parameters")} | cell | {"status": "planned", "error": ""}
        try:
            if (folder / "result.json").is_file():
                row |= flatten(self._own_result(cell, folder / "result.json"))
                _check_ends(folder / "items.parquet")
                return row | {"status": "done"}
        except DataError as error:
            return row | {"status": "damaged", "error": f"{folder.name}/{error}"}
        if (folder / "failure.json").is_file():
            return row | {"status": "failed", "error": _failure(folder / "failure.json")}
        return row | {"status": "started"} if folder.is_dir() else row

    def _own_result(self, cell: dict[str, Any], path: Path) -> dict[str, Any]:
        result = read_json(path, shown=path.name)
        if not isinstance(result, dict):
            raise DataError(f"expected an object with the cell's results but found {type(result).__name__}", path.name)
        if result.get("hash", cell["hash"]) != cell["hash"]:
            raise DataError(f"holds the result of cell {result['hash']}; expected {cell['hash']}", path.name)
        return result

    def _torn(self, row: dict[str, Any]) -> str:
        """What is wrong with the log of a finished cell; one that still runs may be writing its line."""
        path = self.folder(row["name"]) / "metrics.jsonl"
        if row["status"] != "done" or not path.is_file() or not (size := path.stat().st_size):
            return ""
        with path.open("rb") as file:
            file.seek(size - 1)
            whole = file.read(1) == b"\n"
        return "" if whole else f"{row['name']}/metrics.jsonl ends in the middle of a line: only whole lines are read."

    # -- items ------------------------------------------------------------------------------------------------------

    def columns(self, name: str) -> list[str]:
        return list(self._open(name).schema_arrow.names)

    def table(self, name: str, columns: Sequence[str] | None, split: str | None) -> pa.Table:
        file = self._open(name)
        present = file.schema_arrow.names
        if missing := [key for key in ITEM_KEYS if key not in present]:
            raise DataError(f"has no column {' and '.join(missing)}; expected one row an item", f"{name}/items.parquet")
        wanted = present if columns is None else [column for column in columns if column in present]
        read = wanted if split is None or "split" in wanted else [*wanted, "split"]
        try:
            table = file.read(columns=read, use_threads=False).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(name, error) from error
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return _typed(table.select(wanted))

    def _open(self, name: str) -> pq.ParquetFile:
        path = self.folder(name) / "items.parquet"
        _check_ends(path, name)
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            file.schema_arrow.names  # noqa: B018 - names that are no UTF-8 fail here
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise _unreadable(name, error) from error
        return file

    # -- texts and logs ---------------------------------------------------------------------------------------------

    def examples(self, name: str) -> list[dict[str, str]]:
        path = self.folder(name) / "examples.json"
        if not path.is_file():
            return []
        try:
            found = read_json(path, shown=f"{name}/examples.json")
        except DataError as error:
            self._say(f"{error}; its texts are left out.")
            return []
        return [text for text in found if isinstance(text, dict) and {"source", "text"} <= set(text)]

    def pool_texts(self, name: str, n: int) -> list[str]:
        texts: list[str] = []
        for sample in self._lines(name, "synthetic.jsonl"):
            if len(texts) == n:
                break
            texts += [sample["text"]] if sample.get("kept", True) else []
        return texts

    def metrics(self, name: str) -> list[dict[str, Any]]:
        return list(self._lines(name, "metrics.jsonl"))

    def _lines(self, name: str, file: str) -> Iterable[dict[str, Any]]:
        """Whole lines. The last may be torn by a kill; one in the middle that is no JSON is passed over and said."""
        path = self.folder(name) / file
        if not path.is_file():
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    found = json.loads(line)
                except ValueError:  # not UTF-8, or not JSON
                    found = None
                if isinstance(found, dict):
                    yield found
                elif line.endswith(b"\n"):
                    self._say(f"{name}/{file}: line {number} is no JSON object and was passed over.")

    def _say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.append(sentence)


def in_threads(work: Callable[[A], B], things: Sequence[A]) -> list[B]:
    """``[work(thing) for thing in things]``, several at a time."""
    if len(things) < 2 * THREADS:
        return [work(thing) for thing in things]
    size = min(_PIECE, -(-len(things) // THREADS))
    pieces = [things[start : start + size] for start in range(0, len(things), size)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [done for piece in pool.map(lambda piece: [work(thing) for thing in piece], pieces) for done in piece]


def read_json(path: Path, shown: str | Path | None = None) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: not JSON (cut off, say); names ``shown``, or else the path.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"not JSON: {error}", shown or path) from error


def flatten(result: dict[str, Any]) -> dict[str, Any]:
    """A result as one row: ``test.score`` becomes ``test_score``; what is no number or text becomes JSON text.

    Raises:
        DataError: a section that is not an object.
    """
    row: dict[str, Any] = {key: result[key] for key in ("family", "metric", "finished", "parameters") if key in result}
    for section in SECTIONS:
        values = result.get(section) or {}
        if not isinstance(values, dict):
            raise DataError(f"{section} is {type(values).__name__}; expected an object", "result.json")
        values = {**values, **(values.get("levers") or {})}
        values.pop("levers", None)
        for key, value in values.items():
            row[f"{section}_{key}"] = json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
    return row


def _pass_on_ends(rows: list[dict[str, Any]]) -> None:
    """A cell that was not begun, below one that failed or that ended its chain, will not run: it says so."""
    ends = {"failed": "blocked", "blocked": "blocked", "halted": "halted"}
    by_hash = {row["hash"]: row for row in rows}
    for row in sorted(rows, key=lambda row: row["iteration"]):
        above = by_hash.get(row.get("parent"))
        if above is None or row["status"] not in ("planned", "started"):
            continue
        halts = above["status"] == "done" and above.get("alert_halted") is True
        row["status"] = "halted" if halts else ends.get(above["status"], row["status"])


def _failure(path: Path) -> str:
    try:
        told = read_json(path, shown=path.name)
    except DataError as error:
        return str(error)
    return str(told.get("error", "")) if isinstance(told, dict) else str(told)


def _check_ends(path: Path, name: str = "") -> None:
    """A Parquet file begins and ends with four known bytes; one that was cut off, or never written, does not."""
    shown = f"{name}/{path.name}" if name else path.name
    if not path.is_file():
        raise DataError("the cell is marked as done, but its item table is missing", shown)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if size < 12 or head != _MAGIC or tail[4:] != _MAGIC or int.from_bytes(tail[:4], "little") > size - 12:
        raise DataError(f"not a whole Parquet file ({size:,} bytes); was it cut off?", shown)


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"cannot be read: {str(error).splitlines()[0]}", f"{name}/items.parquet")


def _typed(table: pa.Table) -> pa.Table:
    """Columns of numbers that are empty in this cell have no type: they get the one that other cells have."""
    for i, field in enumerate(table.schema):
        if pa.types.is_null(field.type) and field.name.startswith(("confidence", "score", "samples", "gold_logprob")):
            table = table.set_column(i, field.name, table.column(i).cast(pa.float64()))
    return table
