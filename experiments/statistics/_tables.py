"""The results as tables of README.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _intervals import Record
from _studies import OWN, QUANTITIES, SEEDS, STUDY, TASK

BEGIN, END = "<!-- tables: written by coverage.py -->", "<!-- end of tables -->"
WAY_NAMES = {
    OWN: "this comparison alone (1)",
    TASK: "one task (5)",
    STUDY: "whole study (25)",
    SEEDS: "t over seeds",
    "bootstrap": "percentile bootstrap",
}


def markdown(found: dict[str, dict[str, Record]]) -> str:
    """All tables for which there are results."""
    return "\n\n".join(f"### {TITLES[name]}\n\n{WRITERS[name](found[name])}" for name in WRITERS if name in found)


def into(path: Path, tables: str) -> None:
    """Replaces what is between the markers of a file."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")


def percent(record: Record | None, digits: int = 1) -> str:
    """A rate as a percentage; nothing where there is none."""
    return "" if record is None else f"{100 * record['rate']:.{digits}f}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _intervals(found: dict[str, Record]) -> str:
    parts = []
    for quantity in QUANTITIES:
        rows = [[label, *(percent(r[quantity].get(way)) for way in WAY_NAMES)] for label, r in found.items()]
        parts.append(f"{_NAMES[quantity]}:\n\n" + table(("seeds, run noise", *WAY_NAMES.values()), rows))
    return "\n\n".join(parts)


_NAMES = {"level": "Levels", "difference": "Differences to the control", "relative": "Relative differences"}


def _stress(found: dict[str, Record]) -> str:
    rows = []
    for label, record in found.items():
        gaps, levels = record["difference"], record["level"]
        by = [f"{100 * min(values):.0f} to {100 * max(values):.0f}" for values in (gaps["by task"], gaps["by share"])]
        ways = [percent(gaps[way]) for way in (OWN, TASK, STUDY, SEEDS)]
        rows.append([label, *ways, *by, percent(record["relative"][STUDY]), percent(levels[STUDY])])
    names = [WAY_NAMES[way] for way in (OWN, TASK, STUDY, SEEDS)]
    return table(
        ("differences, 3 seeds", *names, "by task", "by share", "relative, whole study", "level, whole study"), rows
    )


def _families(found: dict[str, Record]) -> str:
    ways = (OWN, TASK, STUDY, SEEDS)
    rows = [[label, *(percent(record[way]) for way in ways)] for label, record in found.items()]
    return table(("seeds, run noise", *(WAY_NAMES[way] for way in ways)), rows)


def _flat(first: str) -> Callable[[dict[str, Record]], str]:
    """A row a label, a column a key."""

    def write(found: dict[str, Record]) -> str:
        names = list(dict.fromkeys(key for record in found.values() for key in record))
        names = [name for name in names if name not in ("error", "studies")]
        heads = ["intervals that hold the truth" if name == "rate" else WAY_NAMES.get(name, name) for name in names]
        return table((first, *heads), [[label, *(_cell(r, name) for name in names)] for label, r in found.items()])

    return write


def _cell(record: Record, name: str) -> str:
    value = record.get(name)
    if name == "rate":
        return percent(record)
    if isinstance(value, dict):
        return percent(value)
    return "–" if value is None else f"{value:,}"


def _nested(first: str, second: str) -> Callable[[dict[str, Record]], str]:
    """A row a label and an entry of its record, a column a key of the entry."""

    def write(found: dict[str, Record]) -> str:
        rows, heads = [], []
        for label, record in found.items():
            for name, entry in record.items():
                heads = list(entry)
                rows.append([label, WAY_NAMES.get(name, name), *(percent(entry[key]) for key in entry)])
        return table((first, second, *heads), rows)

    return write


def _curves(found: dict[str, Record]) -> str:
    rows, fits = [], ("isotonic", "segmented", "polynomial")
    heads = [f"safe, {fit}: held (all above; open above)" for fit in fits]
    for label, record in found.items():
        shapes = ", ".join(f"{name} {100 * share:.0f}" for name, share in record["shapes"].items())
        at = record.get("break")
        broken = "" if at is None else f"{percent(at)} ({100 * at['median absolute error']:.0f})"
        rows.append([label, shapes, broken, *(_safe(record[fit]) for fit in fits)])
    return table(
        ("true curve", "shape preferred, %", "break held (median error, points)", *heads),
        rows,
    )


def _safe(record: dict[str, Any]) -> str:
    return f"{percent(record)} ({100 * record['too high']:.1f}; {100 * record['open above']:.0f})"


TITLES = {
    "intervals": "Coverage of 95 % intervals",
    "stress": "Coverage where an assumption fails",
    "edges": "Levels close to 0, 100 items, three seeds alone",
    "ece": "Expected calibration error, ten bins",
    "families": "No effect: families of 25 with a false claim",
    "mixed": "Two tasks of five lose 8 points: corrections, whole study, three seeds",
    "equivalence": 'False "equivalent" within 3 points, at and beyond the margin; 300 items, three seeds',
    "safe": "Power to show equivalence within 3 points, three seeds",
    "verdicts": "Verdicts, three seeds, family of 25",
    "power": "Power for a loss of 5 points, 500 items, three seeds",
    "planned": "Power at the number that the formula asks for (80 % wanted)",
    "asked": "Seeds that a study of three asks for",
    "curves": "Breaks and safe proportions, 1,000 items, three seeds",
}
WRITERS: dict[str, Callable[[dict[str, Record]], str]] = {
    "intervals": _intervals,
    "stress": _stress,
    "edges": _flat("true level"),
    "ece": _flat("model"),
    "families": _families,
    "mixed": _nested("run noise", "correction"),
    "equivalence": _flat("true difference, run noise"),
    "safe": _flat("true difference"),
    "verdicts": _nested("run noise", "true difference, points"),
    "power": _nested("run noise", "test"),
    "planned": _flat("true difference, level, what is added, run noise"),
    "asked": _flat("true difference, run noise"),
    "curves": _curves,
}
