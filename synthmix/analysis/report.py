"""The report of a study: one self-contained HTML page, the same as Markdown, and every table as CSV."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from synthmix import __version__
from synthmix.analysis import findings
from synthmix.analysis.conditions import Analysis, percent
from synthmix.analysis.drawing import Figure
from synthmix.analysis.limits import limits
from synthmix.analysis.load import StudyData
from synthmix.analysis.printing import Column, Printed, Table
from synthmix.analysis.section import Section
from synthmix.analysis.sections import all_sections
from synthmix.analysis.svg import SERIES, standalone
from synthmix.files import disk_errors, write_atomic

#: Texts shown of each kind, their longest print (characters), and tasks shown.
SAMPLES, SAMPLE_CHARACTERS = 3, 700
#: Rows beyond which a table of the page is folded.
LONG_TABLE = 24
REPORT = "report.html"


@dataclass(frozen=True)
class Samples:
    """Texts of a training set: what people (or the task's generator) wrote, and what a model wrote."""

    task: str
    about: str
    external: Sequence[str]
    synthetic: Sequence[str]


@dataclass(frozen=True)
class Report:
    """Everything that a report prints, in its order; both renderings read this and nothing else."""

    name: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    results: Sequence[str]
    limits: Sequence[str]
    sections: Sequence[Section]
    samples: Sequence[Samples]
    commands: Sequence[str]
    versions: Sequence[tuple[str, str]]
    config: str

    @property
    def figures(self) -> list[Figure]:
        """Those of all sections."""
        return [figure for section in self.sections for figure in section.figures]

    @property
    def tables(self) -> list[Table]:
        """Those of all sections."""
        return [table for section in self.sections for table in section.tables]


def write_report(study: StudyData, out_folder: str | Path, **options: Any) -> Path:
    """Writes ``report.html``, ``report.md``, ``figures/*.svg``, ``cells.csv``, ``items.parquet`` and a CSV a table.

    Works for a study in any state, also without a finished cell. Returns the path of the page.

    Args:
        options: of :class:`Analysis`: ``resamples``, ``control``, ``margin``, ``margin_relative``.
    """
    folder = Path(out_folder)
    with disk_errors(folder):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    analysis = Analysis(study.verify(), **options)
    report = build_report(analysis)
    _write_data(study, report, folder)
    write_atomic(folder / "report.md", render_markdown(report))
    write_atomic(folder / REPORT, render_html(report))
    return folder / REPORT


def build_report(analysis: Analysis) -> Report:
    """The content of a report, from the analysis of a study."""
    study = analysis.study
    return Report(
        name=study.name,
        subtitle=_subtitle(study),
        facts=findings.facts(analysis),
        results=findings.results(analysis),
        limits=limits(analysis),
        sections=all_sections(analysis),
        samples=_samples(study),
        commands=_commands(study),
        versions=_versions(study),
        config=yaml.safe_dump(study.config, sort_keys=False, allow_unicode=True) if study.config else "",
    )


def render_html(report: Report) -> str:
    """One page without any external resource."""
    style = _asset("report.css").replace("/*series-light*/", _series(0)).replace("/*series-dark*/", _series(1))
    return _environment().from_string(_asset("report.html")).render(
        r=report, css=Markup(style), svg=Markup, long=LONG_TABLE, version=__version__
    )  # fmt: skip


def render_markdown(report: Report) -> str:
    """The same content; figures are links to ``figures/*.svg``, tables say which CSV holds them."""
    lines = [f"# {report.name}", "", report.subtitle, ""]
    lines += [f"- **{name}**: {value}" for name, value in report.facts]
    lines += ["", "## Results", "", *[f"- {text}" for text in report.results]]
    if report.limits:
        lines += ["", "## What this study cannot say", "", *[f"- {text}" for text in report.limits]]
    for section in report.sections:
        lines += [
            "",
            f"## {section.title}",
            *([""] if section.sentences else []),
            *[f"- {t}" for t in section.sentences],
        ]
        lines += [line for figure in section.figures for line in _markdown_figure(figure)]
        lines += [line for table in section.tables for line in _markdown_table(table)]
    if report.samples:
        lines += ["", "## Texts", *_markdown_samples(report.samples)]
    lines += ["", "## Provenance", "", "```", *report.commands, "```", ""]
    lines += [f"- {name}: {value}" for name, value in report.versions]
    lines += ["", "```yaml", report.config.rstrip(), "```"] if report.config else []
    return "\n".join(lines) + "\n"


def _markdown_figure(figure: Figure) -> list[str]:
    links = [f"![{panel.title or figure.title}](figures/{panel.name}.svg)" for panel in figure.panels]
    legend = " · ".join(name for name, _ in figure.legend)
    return ["", f"### Figure: {figure.title}", "", *links, "", f"Lines: {legend}", "", f"*{figure.caption}*"]


def _markdown_table(table: Table) -> list[str]:
    return ["", f"### {table.title}", "", table.markdown(), f"*{table.note}* ([{table.name}.csv]({table.name}.csv))"]


# -- parts ----------------------------------------------------------------------------------------------------------


def _subtitle(study: StudyData) -> str:
    finished = [str(f) for f in study.done.finished if isinstance(f, str)]
    planned = f"Planned {findings.day(study.plan['created'])}. " if study.plan.get("created") else ""
    return planned + (f"Last cell finished {findings.day(max(finished))}." if finished else "No cell has finished.")


def _samples(study: StudyData) -> list[Samples]:
    """For each task the texts of the cell with the largest share at the last iteration."""
    found: list[Samples] = []
    order = study.done.sort_values(["iteration", "proportion", "seed"], ascending=[False, False, True])
    for task, cells in order.groupby("task", sort=True):
        for _, cell in cells.iterrows():
            texts = study.examples(cell["name"])
            external = [t["text"] for t in texts if t["source"] == "external"][:SAMPLES]
            synthetic = [t["text"] for t in texts if t["source"] == "synthetic"][:SAMPLES]
            about = f"From the training set of {cell['name']} ({percent(cell.proportion)} % synthetic)."
            if not synthetic and (synthetic := study.pool_texts(cell["name"], SAMPLES)):
                about = f"Written by the model of {cell['name']}."
            if synthetic:
                found.append(Samples(str(task), about, _cut(external), _cut(synthetic)))
                break
    return found


def _cut(texts: Sequence[str]) -> list[str]:
    return [t if len(t) <= SAMPLE_CHARACTERS else t[:SAMPLE_CHARACTERS].rstrip() + " […]" for t in texts]


def _commands(study: StudyData) -> list[str]:
    """The commands that make this study and this report again, from the frozen settings."""
    root = (study.config.get("store") or {}).get("root", study.root.name)
    settings = shlex.quote(f"{root}/studies/{study.name}/study.yaml")
    return [f"synthmix run {settings}", f"synthmix report {settings}"]


def _versions(study: StudyData) -> list[tuple[str, str]]:
    found = [("synthmix (this report)", __version__)]
    if study.plan.get("code"):
        found.append(("code of the plan", str(study.plan["code"])))
    for column in (c for c in study.done.columns if c.startswith("versions_")):
        values = sorted({str(value) for value in study.done[column].dropna()})
        found.append((column.removeprefix("versions_"), " and ".join(values)))
    return found


def _write_data(study: StudyData, report: Report, folder: Path) -> None:
    with disk_errors(folder):
        study.cells.to_csv(folder / "cells.csv", index=False)
        if len(study.done):
            study.items.to_parquet(folder / "items.parquet", index=False)
        for table in report.tables:
            table.write_csv(folder)
        for panel in (panel for figure in report.figures for panel in figure.panels):
            (folder / "figures" / f"{panel.name}.svg").write_text(standalone(panel.svg), encoding="utf-8")


def _markdown_samples(samples: Sequence[Samples]) -> list[str]:
    lines: list[str] = []
    for group in samples:
        lines += ["", f"### {group.task}", "", group.about]
        for kind, texts in (("Real", group.external), ("Synthetic", group.synthetic)):
            for text in texts:
                fence = "`" * max(3, 1 + max((len(run) for run in _backticks(text)), default=0))
                lines += ["", f"{kind}:", "", fence, text.rstrip("\n"), fence]
    return lines


def _backticks(text: str) -> list[str]:
    return [run for run in "".join(c if c == "`" else " " for c in text).split() if run]


def _series(which: int) -> str:
    return " ".join(f"--series-{i}: {pair[which]};" for i, pair in enumerate(SERIES))


def _asset(name: str) -> str:
    return (resources.files("synthmix.analysis") / "assets" / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["together"] = _together
    environment.filters["cell_class"] = _cell_class
    environment.tests["regrouped"] = _regrouped
    return environment


def _together(text: str) -> str:
    """No line break between a number and its unit, around a minus, or in ``self-BLEU``."""
    for loose in (" %", " − ", "p < ", "p = "):
        text = text.replace(loose, loose.replace(" ", "\u00a0"))
    for whole in ("self-BLEU", "distinct-", "13-gram", "well-formed"):
        text = text.replace(whole, whole.replace("-", "\u2011"))
    return text


def _cell_class(column: Column, row: Sequence[Printed], above: Sequence[Printed] | None, position: int) -> Markup:
    """Text is set left; a label is pale where it, and all labels before it, only repeat the row above."""
    if column.kind != "text":
        return Markup("")
    same = above is not None and list(row[: position + 1]) == list(above[: position + 1])
    return Markup(' class="text same"' if same else ' class="text"')


def _regrouped(table: Table, row: Sequence[Printed], above: Sequence[Printed] | None) -> bool:
    """A line is drawn where the task changes, in tables with several rows a task."""
    tasks = table.frame.task.nunique() if "task" in table.frame else 0
    return table.name != "unfinished" and above is not None and row[0] != above[0] and len(table.frame) > tasks
