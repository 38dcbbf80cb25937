"""A study as a small folder that can be committed, and analysed without the store that it came from.

    RECORD/record.json     format, rows a cell, what was noted of the files
    RECORD/plan.json       the plan; study.yaml: the settings
    RECORD/cells.parquet   the table of cells as it is
    RECORD/items.parquet   scores, confidences and groups of every item; no text that a model wrote
    RECORD/texts.json      a few training examples and pool texts of each cell, cut to ``TEXT`` characters

:func:`synthmix.analysis.load_study` takes the folder. Everything that a report computes comes out the same but for
rounding: columns with more than ``FEW`` different numbers are kept as 32-bit floats, to 6e-8 relative and always on
their own side of the edges of the calibration bins.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from synthmix import __version__
from synthmix.analysis.cell_files import read_json
from synthmix.errors import DataError, UserError
from synthmix.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from synthmix.analysis.load import StudyData

FORMAT = 1
RECORD = "record.json"
#: Item columns of a record, besides ``score_*``, ``confidence_*`` and ``group_*``.
KEPT = ("split", "item", "score", "correct", "invalid", "shortened", "confidence", "samples", "samples_correct")
#: Right answer and prediction are kept where they are labels: tasks with at most so many different ones.
LABELS = 16
#: A column with no more different numbers than this is kept to the last bit.
FEW = 4096
#: Texts of each kind a cell, and their longest length in characters.
TEXTS, TEXT = 3, 1000
_PATH = re.compile(r"(?<![\w.~])[~/](?:[\w.+@-]*/)+(?=[\w.+@-])")


def write_record(study: StudyData, folder: str | Path) -> Path:
    """Writes the record of a study, finished or not, and returns its folder. Other files in there stay.

    Cells whose items are damaged are recorded as such. Absolute paths are cut to their last part: a record tells
    nothing of the machine that it was made on.

    Raises:
        UserError: the folder is that of a study in a store, or the study is a record itself.
        DataError: a column of the cells' results holds values of several kinds.
    """
    target = Path(folder)
    if isinstance(study.source, Record):
        raise UserError(f"{study.root}: is a record already; copy the folder")
    if (target / "plan.json").exists() and not (target / RECORD).exists():
        raise UserError(f"{target}: is the folder of a study in a store; expected a new folder, or that of a record")
    study.verify()
    items, rows = _slim(study)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        (target / RECORD).unlink(missing_ok=True)
        _write_cells(study.cells, target / "cells.parquet")
        _write_items(items, target / "items.parquet")
    write_atomic(target / "texts.json", json.dumps(_texts(study), ensure_ascii=False, indent=0))
    write_atomic(target / "study.yaml", yaml.safe_dump(_portable(study.config), sort_keys=False, allow_unicode=True))
    write_atomic(target / "plan.json", json.dumps(_portable(study.plan)))
    remarks = [_PATH.sub("", remark) for remark in study.remarks]
    about = {"format": FORMAT, "synthmix": __version__, "remarks": remarks, "rows": rows}
    write_atomic(target / RECORD, json.dumps(about, ensure_ascii=False, indent=0))
    return target


class Record:
    """Reads a record; a :class:`synthmix.analysis.cell_files.Source`.

    Raises:
        UserError: the record has another format, or one of its files cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.place = folder
        about = read_json(folder / RECORD)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            found = about.get("format") if isinstance(about, dict) else None
            raise UserError(f"{folder / RECORD}: format {found!r}; this synthmix reads {FORMAT}")
        self.said: list[str] = list(about["remarks"])
        self._headline = {name: headline for name, _, headline in about["rows"]}
        lengths = [n for _, n, _ in about["rows"]]
        starts = np.cumsum([0, *lengths]).tolist()
        self._spans = dict(zip(self._headline, zip(starts, lengths, strict=False), strict=True))
        self._lock = threading.Lock()

    def frame(self, plan: dict[str, Any]) -> pd.DataFrame:
        frame = self._read("cells.parquet").to_pandas()
        for column in frame.select_dtypes("object"):
            if frame[column].notna().any():  # truth values with gaps: a gap is nan, as where rows are joined
                frame[column] = frame[column].where(frame[column].notna(), np.nan)
        return frame

    def folder(self, name: str) -> Path:
        raise UserError(f"{self.place}: a record has no folder of cell {name}; its store has")

    def columns(self, name: str) -> list[str]:
        return list(self.table(name, None, None).column_names)

    def table(self, name: str, columns: Sequence[str] | None, split: str | None) -> pa.Table:
        start, length = self._spans[name]
        with self._lock:
            table = self._items.slice(start, length)
        if headline := self._headline[name]:
            position = table.column_names.index("confidence")
            table = table.set_column(position, "confidence", table[headline])
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        own = [column for column in table.column_names if table[column].null_count < table.num_rows]
        return table.select(own if columns is None else [column for column in columns if column in own])

    def examples(self, name: str) -> list[dict[str, str]]:
        return [{"source": source, "text": self._text(i)} for source, i in self._cell_texts(name)["examples"]]

    def pool_texts(self, name: str, n: int) -> list[str]:
        """At most ``TEXTS`` of them are in a record."""
        return [self._text(i) for i in self._cell_texts(name)["pool"][:n]]

    def metrics(self, name: str) -> list[dict[str, Any]]:
        raise UserError(f"{self.place}: a record has no metrics.jsonl of cell {name}; its store has")

    @cached_property
    def _items(self) -> pa.Table:
        table = self._read("items.parquet")
        expected = sum(length for _, length in self._spans.values())
        if table.num_rows != expected:
            raise UserError(f"{self.place / 'items.parquet'}: {table.num_rows} rows; {RECORD} says {expected}")
        wide = [pa.field(f.name, pa.float64() if pa.types.is_float32(f.type) else f.type) for f in table.schema]
        return table.cast(pa.schema(wide))

    @cached_property
    def _all_texts(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.place / "texts.json")
        return found

    def _cell_texts(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._all_texts["cells"].get(name, {"examples": [], "pool": []})
        return found

    def _text(self, i: int) -> str:
        return str(self._all_texts["texts"][i])

    def _read(self, file: str) -> pa.Table:
        try:
            return pq.ParquetFile(self.place / file).read().replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.place / file}: cannot be read: {str(error).splitlines()[0]}") from error


# -- items ----------------------------------------------------------------------------------------------------------


def _slim(study: StudyData) -> tuple[pd.DataFrame, list[tuple[str, int, str]]]:
    """The items that a record keeps, and of each cell its name, its rows and the estimator behind its headline."""
    columns = sorted({c for table in study.done["name"] for c in study.item_columns(table) if _is_kept(c)}, key=_place)
    frame = study.read_items([*columns, "gold", "prediction"])
    cells = pd.Categorical(frame.pop("hash"), categories=study.done["hash"])
    frame = frame[[c for c in (*columns, "gold", "prediction") if c in frame]].assign(cell=cells.codes)
    frame = _labels_only(frame, study)
    headline = _headlines(frame, len(study.done))
    names = dict(enumerate(headline))
    alike = frame["cell"].map(names) != ""
    frame["confidence"] = frame["confidence"].mask(alike) if "confidence" in frame else np.nan
    counts = frame["cell"].value_counts(sort=False).reindex(range(len(study.done)), fill_value=0)
    bins = {10, int((study.config.get("evaluation") or {}).get("bins", 10))}
    for column in frame.select_dtypes("float64"):
        if frame[column].nunique() > FEW:
            frame[column] = narrow(frame[column].to_numpy(), bins)
    rows = list(zip(study.done["name"], map(int, counts), headline, strict=True))
    return frame.drop(columns="cell"), rows


def _is_kept(column: str) -> bool:
    return column in KEPT or column.startswith(("score_", "confidence_", "group_"))


def _place(column: str) -> tuple[int, str]:
    return (KEPT.index(column), "") if column in KEPT else (len(KEPT), column)


def _labels_only(frame: pd.DataFrame, study: StudyData) -> pd.DataFrame:
    """Without the right answers and predictions of tasks where they are not labels."""
    tasks = frame["cell"].map(dict(enumerate(study.done["task"])))
    for column in [c for c in ("gold", "prediction") if c in frame]:
        several = frame.groupby(tasks)[column].nunique()
        frame[column] = frame[column].mask(tasks.isin(several[several > LABELS].index))
    return frame.drop(columns=[c for c in ("gold", "prediction") if c in frame and frame[c].isna().all()])


def _headlines(frame: pd.DataFrame, n_cells: int) -> list[str]:
    """Of each cell the estimator that its headline confidence is, item by item; empty where there is none."""
    found = np.full(n_cells, "", dtype=object)
    for column in [c for c in frame if str(c).startswith("confidence_")]:
        same = (frame["confidence"] == frame[column]) | (frame["confidence"].isna() & frame[column].isna())
        whole = same.groupby(frame["cell"]).all().reindex(range(n_cells), fill_value=False).to_numpy()
        found[whole & (found == "")] = column
    return [str(name) for name in found]


def narrow(values: NDArray[np.float64], bins: set[int]) -> NDArray[np.float32]:
    """Values as 32-bit floats that lie in the same of each number of equal-width bins over 0 to 1 as before.

    >>> float(np.float32(0.7)) < 0.7, float(narrow(np.array([0.7]), {10})[0]) < 0.7
    (True, False)
    """
    rounded = values.astype(np.float32)
    edges = np.unique(np.concatenate([np.arange(1, n) / n for n in sorted(bins)]))
    before, after = (np.searchsorted(edges, v, side="right") for v in (values, rounded.astype(np.float64)))
    up, down = (np.nextafter(rounded, np.float32(end)) for end in (np.inf, -np.inf))
    return np.where(after < before, up, np.where(after > before, down, rounded))


def _write_items(frame: pd.DataFrame, path: Path) -> None:
    narrow_columns = [str(c) for c in frame.select_dtypes("float32")]
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=[str(c) for c in frame if c not in narrow_columns],
        use_byte_stream_split=narrow_columns,
        write_statistics=False,
        write_page_checksum=True,
    )


# -- cells and texts ------------------------------------------------------------------------------------------------


def _write_cells(cells: pd.DataFrame, path: Path) -> None:
    cells = cells.assign(error=[_PATH.sub("", str(error)) for error in cells.error])
    try:
        table = pa.Table.from_pandas(cells, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the cells' results hold values of several kinds: {error}", path) from error
    pq.write_table(table, path, compression="zstd", compression_level=19, write_statistics=False)


def _texts(study: StudyData) -> dict[str, Any]:
    """Each text once, and of each cell the numbers of its texts."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text if len(text) <= TEXT else text[:TEXT].rstrip() + " […]", len(numbers))

    cells = {}
    for name in study.done["name"]:
        examples = study.examples(name)
        chosen = [t for kind in ("external", "synthetic") for t in [e for e in examples if e["source"] == kind][:TEXTS]]
        pool = [number(text) for text in study.pool_texts(name, TEXTS)]
        cells[str(name)] = {"examples": [[t["source"], number(t["text"])] for t in chosen], "pool": pool}
    return {"texts": list(numbers), "cells": cells}


def _portable(value: Any) -> Any:
    """A configuration without absolute paths."""
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    if isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute()):
        return PurePath(value).name
    return value
