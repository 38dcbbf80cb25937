"""The report's sections, in its order: each a function of the analysis that returns one, or None where there is nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synthmix.analysis import figures, findings, tables
from synthmix.analysis.blindspots import blind_spot_tables
from synthmix.analysis.conditions import Analysis
from synthmix.analysis.drawing import Figure
from synthmix.analysis.paper.tables import published_section
from synthmix.analysis.printing import Table
from synthmix.analysis.section import Section
from synthmix.analysis.shapes.sections import curve_section, decay_section, scale_section
from synthmix.analysis.verdicts import comparisons_table, verdict_sentences, verdicts_table
from synthmix.analysis.warning.section import warning_section

Maker = Callable[[Analysis], Section | None]


def all_sections(analysis: Analysis) -> list[Section]:
    """Every section that the study has something for."""
    found = [make(analysis) for make in MAKERS]
    return [
        section for section in found if section is not None and (section.sentences or section.figures or section.tables)
    ]


def _section(
    name: str,
    title: str,
    analysis: Analysis,
    sentences: Sequence[str],
    *parts: Callable[[Analysis], Figure | Table | None],
) -> Section:
    made = [part(analysis) for part in parts]
    drawn = [part for part in made if isinstance(part, Figure)]
    printed = [part for part in made if isinstance(part, Table) and len(part.frame)]
    return Section(name, title, sentences, drawn, printed)


def effect_section(analysis: Analysis) -> Section:
    """Score against the share, and every comparison with the control."""
    return _section(
        "effect", "What the synthetic share does to the score", analysis, verdict_sentences(analysis),
        figures.score_figure, tables.score_table, verdicts_table, comparisons_table, tables.groups_table,
    )  # fmt: skip


def iterations_section(analysis: Analysis) -> Section:
    """Score, calibration and diversity by iteration."""
    return _section(
        "iterations", "From one iteration to the next", analysis, [], figures.iterations_figure, tables.iterations_table
    )


def calibration_section(analysis: Analysis) -> Section:
    """Reliability diagrams, and the ECE under every estimator."""
    return _section(
        "calibration", "Calibration", analysis, findings.calibration_sentences(analysis),
        figures.reliability_figure, tables.calibration_table,
    )  # fmt: skip


def diversity_section(analysis: Analysis) -> Section:
    """Diversity of what the models write, and what the pools hold."""
    return _section(
        "diversity", "What the models write", analysis, findings.diversity_sentences(analysis),
        figures.diversity_figure, tables.diversity_table, tables.pools_table, tables.levers_table,
    )  # fmt: skip


def blind_spots_section(analysis: Analysis) -> Section:
    """The test set against HANS."""
    return Section("blind-spots", "Blind spots", [], (), blind_spot_tables(analysis))


def details_section(analysis: Analysis) -> Section:
    """Baselines, mixtures, timings, cells that are not done."""
    return _section(
        "details", "Details", analysis, [],
        tables.baselines_table, tables.measures_table, tables.mixtures_table, figures.timings_figure,
        tables.timings_table, tables.unfinished_table,
    )  # fmt: skip


MAKERS: tuple[Maker, ...] = (
    effect_section,
    curve_section,
    scale_section,
    iterations_section,
    decay_section,
    calibration_section,
    warning_section,
    diversity_section,
    blind_spots_section,
    published_section,
    details_section,
)
