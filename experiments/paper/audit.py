"""Recomputes every contradiction of arXiv 2510.05133 from its own published numbers.

    python experiments/paper/audit.py [OUT]

Reads ``published.yaml`` beside this file and writes ``README.md``, ``audit.json`` (every recomputed number) and the
figures into OUT, by default the folder ``audit`` beside this file. Nothing is random, so the same numbers give the same
files (figures: with the same matplotlib).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import drawings
from consistency import equation3, ranks, stated_losses, two_values_of_one_cell
from equation import refit
from evidence import humaneval, not_significant_is_not_safe, what_is_missing
from finding import Finding
from further import further
from shape import directions, slopes

from synthmix.analysis.paper.published import Published, load_published
from synthmix.files import disk_errors, write_atomic

HERE = Path(__file__).resolve().parent
#: The nine contradictions, in the order of the page.
NINE = (
    equation3, two_values_of_one_cell, stated_losses, ranks, humaneval, not_significant_is_not_safe, what_is_missing,
    slopes, directions,
)  # fmt: skip


def findings(published: Published) -> list[Finding]:
    """The nine contradictions, then what else does not fit."""
    return [*(make(published) for make in NINE), *further(published)]


def figures(published: Published) -> dict[str, str]:
    """SVG files by name."""
    return {
        "equation3": drawings.equation3(published, refit(published)),
        "losses": drawings.losses(published),
        "differences": drawings.differences(published),
    }


def write_audit(folder: Path, published: Published) -> Path:
    """Writes the page, the numbers and the figures; returns the page."""
    found = findings(published)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, svg in figures(published).items():
        write_atomic(folder / f"{name}.svg", svg)
    write_atomic(folder / "audit.json", json.dumps(numbers(found), indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "README.md", page(published, found))
    return folder / "README.md"


def numbers(found: list[Finding]) -> dict[str, Any]:
    """Every recomputed number by finding, rounded far below what the published digits carry."""
    return {finding.name: _rounded(finding.numbers) for finding in found}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def page(published: Published, found: list[Finding]) -> str:
    """The audit as one Markdown page."""
    lines = [
        f"# Audit of arXiv {published.paper.arxiv}",
        "",
        f"*{published.paper.title}* ({published.paper.dated}). Everything here is recomputed from the numbers that the"
        " paper prints ([published.yaml](../published.yaml)) by",
        "",
        "    python experiments/paper/audit.py",
        "",
        "Quotations are the paper's, arithmetic and conclusions are not. Contradictions say that a number or a sentence"
        " cannot be right as it stands; they do not say which one is wrong, and nothing here is a new measurement."
        " All recomputed numbers are in [audit.json](audit.json).",
        "",
        "| | finding |",
        "|---:|---|",
    ]
    lines += [f"| {_number(i)} | [{f.title}](#{_anchor(i, f)}) |" for i, f in enumerate(found)]
    shown: set[str] = set()
    for i, finding in enumerate(found):
        if i == len(NINE):
            lines += ["", "# Further findings"]
        lines += ["", *_section(i, finding, shown)]
    return "\n".join(lines) + "\n"


def _section(i: int, finding: Finding, shown: set[str]) -> list[str]:
    lines = [f'<a id="{_anchor(i, finding)}"></a>', "", f"## {_number(i)}. {finding.title}", ""]
    lines += [f"> {quote}  " for quote in finding.quotes]
    for part in finding.arithmetic:
        lines += ["", part]
    for name in (figure for figure in finding.figures if figure not in shown):
        lines += ["", f"![{drawings.ALT[name]}]({name}.svg)", "", f"*{drawings.CAPTIONS[name]}*"]
        shown.add(name)
    return [*lines, "", f"**Result.** {finding.result}"]


def _number(i: int) -> str:
    return str(i + 1) if i < len(NINE) else chr(ord("A") + i - len(NINE))


def _anchor(i: int, finding: Finding) -> str:
    return f"{_number(i).lower()}-{finding.name.replace('_', '-')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "audit", help="folder to write (%(default)s)")
    options = parser.parse_args()
    print(write_audit(options.out, load_published(HERE / "published.yaml")))


if __name__ == "__main__":
    main()
