"""Item tables of many cells: joined to one frame, and checked against each other.

Whatever makes a comparison over items wrong in silence is looked for here: an item that stands twice would be paired
with itself, a score out of range or missing would shift a mean, and other questions under the same ids would be
compared as if they were one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from synthmix.analysis.cell_files import CELL_COLUMNS, ITEM_KEYS

#: Cell columns with few values; they and ``split`` are categories in the joined frame.
_LABELS = ("model", "task", "mode", "hash")
#: How far a probability may lie outside 0 to 1 by rounding.
_ROUNDING = 1e-6
_QUESTION = ("split", "item", "gold")


def gather(cells: pd.DataFrame, tables: dict[str, pa.Table], columns: Sequence[str] | None) -> pd.DataFrame:
    """One frame of all items; each row has the columns of its cell before its own. Empties ``tables``.

    Args:
        cells: the table of cells; its ``name`` is the key of ``tables``, in the same order.
        tables: the items of each cell; columns that only some of them have are empty in the others.
        columns: what was asked for, for a result without rows.
    """
    if not tables:
        return pd.DataFrame(columns=[*CELL_COLUMNS, *(columns or ITEM_KEYS)])
    rows = [table.num_rows for table in tables.values()]
    joined = pa.concat_tables(list(tables.values()), promote_options="permissive").combine_chunks()
    tables.clear()  # with it, each column of ``joined`` can be freed once it is a column of the frame
    frame = joined.to_pandas(split_blocks=True, self_destruct=True)
    if "split" in frame:
        frame["split"] = frame["split"].astype("category")
    own = {column: _repeated(cells[column], rows, label=column in _LABELS) for column in CELL_COLUMNS}
    return pd.concat([pd.DataFrame(own), frame], axis=1)


def _repeated(values: pd.Series, rows: list[int], label: bool) -> pd.Series:
    values = values.astype("category") if label else values.infer_objects()
    return values.repeat(rows).reset_index(drop=True)


def of_another_kind(tables: Mapping[str, pa.Table]) -> dict[str, str]:
    """Cells with a column of another kind (number, text, truth value) than most cells have there, and the reason."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for name, table in tables.items():
        for column in table.schema:
            kinds.setdefault(column.name, {}).setdefault(_kind(column.type), []).append(name)
    found: dict[str, str] = {}
    for column_name, by_kind in kinds.items():
        by_kind.pop("nothing", None)
        for kind in sorted(by_kind, key=lambda kind: len(by_kind[kind]))[:-1]:
            reason = f"items.parquet: column {column_name} holds {kind}, in most cells it does not"
            found |= {name: f"{name}/{reason}" for name in by_kind[kind]}
    return found


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_null(type_):
        return "nothing"
    if pa.types.is_boolean(type_):
        return "truth values"
    return "numbers" if pa.types.is_integer(type_) or pa.types.is_floating(type_) else "text"


@dataclass
class _Variant:
    """Cells of one task that answered the same items: ``split, item, gold``, sorted, and the cells' names."""

    questions: pa.Table
    as_read: pa.Table
    cells: list[str] = field(default_factory=list)


class Checked:
    """What reading every item table of a study has shown; :meth:`add` may be called from several threads."""

    def __init__(self) -> None:
        self.damage: dict[str, str] = {}
        self._variants: dict[str, list[_Variant]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, task: str, table: pa.Table) -> None:
        """Checks a cell's table; what is wrong with it goes to :attr:`damage`."""
        if reason := _wrong(table):
            self.damage[name] = f"{name}/items.parquet: {reason}"
            return
        questions = table.select([column for column in _QUESTION if column in table.column_names])
        with self._lock:
            known = self._variants.setdefault(task, [])
            own = next((variant for variant in known if variant.as_read.equals(questions)), None)
        if own is None:
            if reason := _repeats(questions):
                self.damage[name] = f"{name}/items.parquet: {reason}"
                return
            own = self._variant(task, questions)
        with self._lock:
            own.cells.append(name)

    def _variant(self, task: str, questions: pa.Table) -> _Variant:
        ordered = _ordered(questions)
        with self._lock:
            known = self._variants[task]
            own = next((variant for variant in known if variant.questions.equals(ordered)), None)
            if own is None:
                own = _Variant(ordered, questions)
                known.append(own)
            return own

    def settle(self) -> None:
        """Sets aside the cells that were asked other questions under the same ids than most cells of their task."""
        for task, variants in self._variants.items():
            variants.sort(key=lambda variant: (-len(variant.cells), min(variant.cells)))
            main = variants[0].questions
            for variant in variants[1:]:
                common, other = _conflicts(main, variant.questions)
                if other:
                    reason = (
                        f"items.parquet: {other} of {common} items have another right answer than the items of the same"
                        f" ids in most cells of {task}; expected the same questions"
                    )
                    self.damage |= {name: f"{name}/{reason}" for name in variant.cells}
                    variant.cells.clear()

    def notes(self) -> list[str]:
        """Where cells of one task were not evaluated on the same items, a sentence a task and split."""
        return [
            sentence
            for task, variants in sorted(self._variants.items())
            if len(known := [variant for variant in variants if variant.cells]) > 1
            for sentence in _differing(task, known)
        ]


def _wrong(table: pa.Table) -> str:
    """What is wrong with an item table by itself, but for items that stand twice."""
    try:
        table.validate(full=True)  # text that is no UTF-8, for one
    except pa.ArrowInvalid as error:
        return f"cannot be read: {str(error).splitlines()[0]}"
    if not table.num_rows:
        return "holds no items"
    for column in table.column_names:
        kind = _kind(table.schema.field(column).type)
        if column in ITEM_KEYS and table[column].null_count:
            return f"{table[column].null_count} rows have no {column}"
        if column.startswith(("score", "confidence")) and kind not in ("numbers", "nothing"):
            return f"column {column} holds {kind}; expected numbers"
        if column == "score" or column.startswith("confidence"):
            if reason := _out_of_range(table[column], column):
                return reason
    return ""


def _out_of_range(values: pa.ChunkedArray, column: str) -> str:
    found = values.drop_null().to_numpy()
    outside = found[~((found >= -_ROUNDING) & (found <= 1 + _ROUNDING))]  # nan is outside
    if column.startswith("confidence") and len(outside) and np.isnan(outside).all():
        return ""  # pandas' way of saying that an estimator does not exist for an item
    return f"{column} is {outside[0]:g} for {len(outside)} items; expected 0 to 1" if len(outside) else ""


def _repeats(questions: pa.Table) -> str:
    counted = questions.group_by(["split", "item"]).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if not twice.num_rows:
        return ""
    first = twice.slice(0, 1).to_pylist()[0]
    return f"{twice.num_rows} items stand more than once ({first['item']!r} of {first['split']}, for one)"


def _ordered(questions: pa.Table) -> pa.Table:
    text = pa.schema([(column, pa.large_string()) for column in questions.column_names])
    return questions.cast(text).sort_by([("split", "ascending"), ("item", "ascending")]).combine_chunks()


def _conflicts(main: pa.Table, other: pa.Table) -> tuple[int, int]:
    """Items that two tables have in common, and those of them whose right answer differs."""
    both = main.to_pandas().merge(other.to_pandas(), on=["split", "item"], suffixes=("", "_other"))
    if "gold_other" not in both:
        return len(both), 0
    known = both.gold.notna() & both.gold_other.notna()
    return len(both), int((known & (both.gold != both.gold_other)).sum())


def _differing(task: str, variants: Sequence[_Variant]) -> list[str]:
    said = []
    for split in sorted({split for variant in variants for split in variant.questions["split"].unique().to_pylist()}):
        asked = [_items(variant.questions, split) for variant in variants]
        if all(ids == asked[0] for ids in asked):
            continue
        sizes: Counter[int] = Counter()
        for ids, variant in zip(asked, variants, strict=True):
            sizes[len(ids)] += len(variant.cells)
        counts = ", ".join(f"{n} cells on {size:,}" for size, n in sizes.most_common())
        said.append(
            f"{task}: cells were not evaluated on the same items of {split} ({counts}; {len(set.intersection(*asked)):,}"
            " are common to all): a comparison rests on the items that both of its sides have."
        )
    return said


def _items(questions: pa.Table, split: str) -> set[str]:
    return set(questions.filter(pc.equal(questions["split"], split))["item"].to_pylist())
