"""How a table is printed: columns that say how their values look, and a frame with full precision behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from synthmix.analysis.conditions import percent

Kind = Literal[
    "text", "count", "number", "share", "percent", "decimal", "seconds", "p",
    "percent interval", "points interval", "decimal interval",
]  # fmt: skip
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """How one column is printed.

    Attributes:
        key: column of the frame; an interval also reads ``<key>_low`` and ``<key>_high``.
        header: as printed; carries the unit.
        kind: ``percent`` and ``points`` multiply a share by 100; ``points`` are signed.
    """

    key: str
    header: str
    kind: Kind = "text"

    @property
    def keys(self) -> list[str]:
        """The columns of the frame that this one prints."""
        return [self.key, f"{self.key}_low", f"{self.key}_high"] if "interval" in self.kind else [self.key]


@dataclass(frozen=True)
class Printed:
    """One printed cell: the value, and its interval (or an empty string)."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.interval}".strip()


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        name: file name of its CSV, without the ending.
        frame: the values, unrounded, one row a printed row.
        note: what a reader must know to read it (may be empty).
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: Sequence[Column]
    note: str = ""
    constant: Sequence[str] = ()  #: columns of the CSV that are not printed, because they say the same in every row

    def printed(self) -> list[list[Printed]]:
        """Every cell as it is printed, row by row."""
        return [[show(row, column) for column in self.columns] for row in self.frame.to_dict("records")]

    def markdown(self) -> str:
        """A GitHub-flavoured Markdown table."""
        left = [column.kind == "text" for column in self.columns]
        lines = ["| " + " | ".join(column.header for column in self.columns) + " |"]
        lines.append("|" + "|".join("---" if text else "---:" for text in left) + "|")
        rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in self.printed()]
        return "\n".join(lines + rows) + "\n"

    def write_csv(self, folder: Path) -> Path:
        """The printed columns with full precision."""
        path = folder / f"{self.name}.csv"
        keys = dict.fromkeys([*self.constant, *(key for column in self.columns for key in column.keys)])
        self.frame[list(keys)].to_csv(path, index=False)
        return path


def show(row: dict[Any, Any] | pd.Series, column: Column) -> Printed:
    """One value of a row as it is printed."""
    value = row[column.key]
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return Printed(MISSING)
    if "interval" not in column.kind:
        return Printed(_PRINT[column.kind](value))
    one = _PRINT[column.kind.removesuffix(" interval")]
    low, high = row[f"{column.key}_low"], row[f"{column.key}_high"]
    return Printed(one(value), "" if math.isnan(low) else f"[{one(low)}, {one(high)}]")


def minus(text: str) -> str:
    """A real minus sign, and none before a zero: ``-0.0`` is ``0.0``."""
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]
    return text.replace("-", "−")


def show_p(p: float) -> str:
    """``<0.001``, else three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else minus(text)


_PRINT: dict[str, Callable[[Any], str]] = {
    "text": str,
    "count": lambda v: minus(f"{v:,.0f}"),
    "number": lambda v: "∞" if math.isinf(v) else f"{v:,.3g}" if v < 100 else f"{v:,.0f}",
    "share": percent,
    "percent": lambda v: minus(f"{100 * v:.1f}"),
    "points": _points,
    "decimal": lambda v: minus(f"{v:.3f}"),
    "seconds": lambda v: f"{v:,.1f}",
    "p": show_p,
}


# -- columns that most tables share ---------------------------------------------------------------------------------

MODEL, TASK, MODE = Column("model", "model"), Column("task", "task"), Column("mode", "mode")
ITERATION, SHARE = Column("iteration", "iteration", "count"), Column("proportion", "synthetic, %", "share")
SEEDS = Column("n_seeds", "seeds", "count")
ITEMS = Column("n_items", "items", "count")
#: Columns that are said once, in the note, if they are the same in every row.
_CONSTANT: dict[Column, Callable[[Any], str]] = {
    MODEL: lambda name: f"model {name}",
    MODE: lambda mode: f"mixing {mode}",
    SEEDS: lambda n: "1 seed" if n == 1 else f"{n:g} seeds",
    ITEMS: lambda n: f"{n:,g} test items",
}
CELL = (TASK, MODEL, MODE, ITERATION, SHARE)


def make_table(name: str, title: str, frame: pd.DataFrame, columns: Sequence[Column], note: str = "") -> Table:
    """A table without the columns that no row fills; what never varies goes into the note instead."""
    filled = [c for c in columns if c.key in frame and frame[c.key].notna().any()]
    constant: dict[str, str] = {}
    for column, word in _CONSTANT.items():
        values = sorted(set(frame[column.key]) - {"baseline"}) if column in filled else []
        if len(values) == 1 and name != "baselines":
            constant[column.key] = word(values[0])
    said = f"{', '.join(constant.values())}. " if constant else ""
    said = said[:1].upper() + said[1:]
    kept = [c for c in filled if c.key not in constant]
    return Table(name, title, frame, kept, said + note, list(constant))
