"""The report's section on early warning: does a signal at iteration t foretell a significant loss at t + 1, and is the
rise of the ECE itself real?

The published claim (arXiv 2510.05133, section 4.4) is a precision and a recall of one threshold on one ECE. Here each
stands beside its base rate, beside other signals, beside the trivial forecast (the validation score has dropped
already) and beside what is known before training (the share), with intervals over baselines: chains of one seed start
from one model and are compared with one control.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from synthmix.analysis.conditions import Analysis
from synthmix.analysis.drawing import Figure, Panel
from synthmix.analysis.printing import Column, Table
from synthmix.analysis.section import Section
from synthmix.analysis.svg import INK, Look, canvas, look, to_svg
from synthmix.analysis.warning.calibration_rise import calibration_rise_table
from synthmix.analysis.warning.forecasts import WARNING, Alerts, Forecasts, Judged, published_skill
from synthmix.analysis.warning.sentences import interventions, sentences
from synthmix.analysis.warning.signals import CHAIN, KNOWN, RIVAL, SIGNALS, signal_table
from synthmix.statistics import Interval, bonferroni
from synthmix.statistics.clusters import Estimate, Undefined

NAME, TITLE = "early-warning", "Early warning, judged as a forecast"
_NO_NEXT = (
    "No chain with synthetic text has finished cells at two iterations in a row: an alert at iteration t cannot be held"
    " against a loss at t + 1, so early warning is not judged."
)
_NO_CONTROL = (
    "No chain has the finished 0 % chain of its seed beside it at two iterations in a row: what a loss is cannot be said, so"
    " early warning is not judged."
)


def warning_section(analysis: Analysis) -> Section | None:
    """Early warning as a forecast, and whether the rise of the ECE is real; None without a cell after phase 0."""
    done = analysis.study.done
    if done.empty or not ((done.iteration >= 1) & (done.proportion > 0)).any():
        return None
    proof = [table for table in [calibration_rise_table(analysis)] if len(table.frame)]
    table = signal_table(analysis)
    if table.empty:
        return Section(NAME, TITLE, [_NO_CONTROL if _goes_on(done) else _NO_NEXT], (), proof)
    forecasts = Forecasts(table, analysis.resamples, analysis.control)
    figures = [figure for figure in [auroc_figure(forecasts)] if figure is not None]
    tables = [paper_table(forecasts), auroc_table(forecasts), learned_table(forecasts), lead_table(forecasts), *proof]
    action = (analysis.study.config.get("monitoring") or {}).get("action", "log")
    said = [*sentences(forecasts), *interventions(str(action))]
    return Section(NAME, TITLE, said, figures, [table for table in tables if len(table.frame)])


def _goes_on(done: pd.DataFrame) -> bool:
    """Whether a chain with synthetic data has finished cells at two iterations in a row."""
    cells = done[(done.iteration >= 1) & (done.proportion > 0)]
    ahead = cells[[*CHAIN, "iteration"]].assign(iteration=cells.iteration - 1)
    return bool(len(cells[[*CHAIN, "iteration"]].merge(ahead)))


# -- figure ---------------------------------------------------------------------------------------------------------

#: Legend entries: what a signal is, and how it is drawn.
_KINDS = {"ECE of the validation items": look(0), "other signals": look(1), "validation score, share": look(-1)}


def auroc_figure(forecasts: Forecasts) -> Figure | None:
    """AUROC of every signal with its interval; 0.5 and the rival are marked."""
    drawn = [judged for judged in forecasts.areas if isinstance(judged.area, Interval)]
    if not drawn:
        return None
    label = "AUROC of each signal with its 95 % interval"
    with canvas(7.2, 0.6 + 0.26 * len(drawn), left=1.9) as figure:
        _paint_areas(figure.subplots(), drawn)
        panel = Panel("warning-auroc", "", to_svg(figure, "warning-auroc", label))
    caption = (
        f"How well a signal at iteration t ranks the {len(forecasts.table)} forecasts by whether a significant loss"
        f" followed at t + 1, {_over(forecasts.baselines)}. Dotted: 0.5, chance; dashed: a validation score"
        " that has dropped already. An interval that holds 0.5 does not show that a signal says nothing; one beyond it"
        " does not show that the signal comes in time, since many losses had begun at t: see the column of chains not"
        " lost at t. Bars of two signals are no test of their difference: that is paired, in the table."
    )
    return Figure("warning-auroc", "Which signal foretells a loss", caption, [panel], list(_KINDS.items()))


def _over(baselines: int) -> str:
    return (
        "without intervals, which one baseline does not allow"
        if baselines == 1
        else f"with 95 % intervals over {baselines} baselines"
    )


def _paint_areas(axes: Axes, drawn: Sequence[Judged]) -> None:
    for row, judged in enumerate(drawn):
        assert isinstance(judged.area, Interval)
        found, mark = judged.area, _kind(judged)
        ends = [[max(0.0, found.estimate - found.low)], [max(0.0, found.high - found.estimate)]]
        axes.errorbar(
            [found.estimate], [row], xerr=None if math.isnan(found.low) else ends,
            color=mark.color, marker=mark.marker, linestyle="none", elinewidth=1, capsize=2.5,
        )  # fmt: skip
        if judged.signal.name == RIVAL:
            axes.axvline(found.estimate, color=INK, linewidth=0.9, linestyle=(0, (5, 2.5)))
    axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_yticks(range(len(drawn)), [judged.signal.label for judged in drawn])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(drawn) - 0.4, -0.6), xlabel="AUROC for a loss at the next iteration")
    axes.grid(axis="y", visible=False)


def _kind(judged: Judged) -> Look:
    ece, other, trivial = _KINDS.values()
    if judged.signal.name in (RIVAL, KNOWN):
        return trivial
    return ece if judged.signal.is_ece else other


# -- tables ---------------------------------------------------------------------------------------------------------

_SIGNAL = Column("signal", "signal")
_SIZES = ("n", "losses")
_SKILL = (
    Column("alerts", "alerts", "count"), Column("losses", "losses", "count"), Column("n", "forecasts", "count"),
    Column("base_rate", "base rate, %", "percent interval"), Column("precision", "precision, %", "percent interval"),
    Column("lift", "precision − base rate, points", "points interval"), Column("recall", "recall, %", "percent interval"),
    Column("f1", "F1", "decimal interval"),
)  # fmt: skip
_LEAD = (
    Column("lead", "lead, iterations", "decimal interval"), Column("early", "alerted before the loss", "count"),
    Column("late", "with it or after", "count"), Column("missed", "lost, never alerted", "count"),
    Column("unmatched", "alerted, no loss yet", "count"), Column("quiet", "neither", "count"),
)  # fmt: skip


def paper_table(forecasts: Forecasts) -> Table:
    """The paper's two thresholds under every ECE, and the published skill beside them."""
    rows = [_alert_row(alerts) for alerts in forecasts.paper]
    if rows:
        rows.append(_always_row(forecasts))
        rows.append({"signal": "ECE, as published (6.9B)", "rule": f"+{100 * WARNING:.0f} %", **published_skill()})
    note = (
        "Alert at t: the ECE of the validation items rose by more than the rule over phase 0. Loss at t + 1: the test score"
        f" is below that of {forecasts.reference} at p < 0.05 (one-sided, paired over items, one"
        " run each). The published row has neither base rate nor interval."
    )
    note += _same(forecasts) + _reasons(forecasts.paper)
    columns = [_SIGNAL, Column("rule", "alert above"), *_SKILL]
    return _table("warning_paper", "The paper's thresholds as forecasts", rows, columns, note)


def auroc_table(forecasts: Forecasts) -> Table:
    """Every signal without a threshold."""
    corrected = bonferroni([judged.p for judged in forecasts.areas])
    rows = [
        {"signal": j.signal.label, "n": j.n, "losses": int(forecasts.known(j.signal).loss.sum()), "p": p}
        | _ends("area", j.area) | _ends("within", j.within) | _ends("fresh", j.fresh) | _ends("gain", j.gain)
        for j, p in zip(forecasts.areas, corrected, strict=True)
    ]  # fmt: skip
    columns = [
        _SIGNAL, Column("n", "forecasts", "count"), Column("losses", "losses", "count"),
        Column("area", "AUROC", "decimal interval"), Column("p", "p, Bonferroni", "p"),
        Column("within", "AUROC within task and model", "decimal interval"),
        Column("fresh", "AUROC, not lost at t", "decimal interval"),
        Column("gain", "AUROC − that of the validation score", "decimal interval"),
    ]  # fmt: skip
    note = (
        "AUROC: how often a forecast that a loss followed has the higher signal; 0.5 is chance. Every signal is the change"
        " since phase 0 of the same seed, on validation items and on the pool. Within task and model, differences between"
        " tasks do not count as skill. Brackets are 95 % intervals (Student's t on a bootstrap of baselines); p is that of"
        f" 0.5, times {sum(not math.isnan(p) for p in corrected)}."
    )
    missing = {f"{j.signal.label}: {j.area.reason}" for j in forecasts.areas if isinstance(j.area, Undefined)}
    note += f" Without an AUROC: {'; '.join(sorted(missing))}." if missing else ""
    absent = [signal.label for signal in SIGNALS if signal not in (*forecasts.signals, *forecasts.same)]
    note += f" Not measured: {'; '.join(absent)}." if absent else ""
    return _table("warning_auroc", "Signals without a threshold", rows, columns, note)


def learned_table(forecasts: Forecasts) -> Table:
    """Every signal with a threshold that was learned elsewhere."""
    rows = [_alert_row(alerts) for alerts in forecasts.learned]
    rows += [_always_row(forecasts)] if rows else []
    left = "seed" if forecasts.held_out == ("seed",) else "task and model"
    note = (
        f"Thresholds with the highest F1 on the others, judged on the {left} left out; the range is over what was left"
        " out, in the unit of the signal (0.5 of a relative rise is +50 %). −∞ is an alert that is always on, where no"
        " threshold had a higher F1. Intervals take the thresholds as given."
    )
    columns = [_SIGNAL, Column("rule", "threshold"), *_SKILL]
    return _table(
        "warning_learned", "Thresholds learned on other chains", rows, columns, note + _reasons(forecasts.learned)
    )


def lead_table(forecasts: Forecasts) -> Table:
    """How long before a loss the first alert came, chain by chain."""
    judged = [*forecasts.paper, *forecasts.learned]
    rows = [_lead_row(alerts) for alerts in judged]
    undefined = {a.lead.mean.reason for a in judged if isinstance(a.lead.mean, Undefined)}
    note = (
        f"Lead: first loss minus first alert of a chain, mean over the chains that have both, with 95 % intervals over"
        f" baselines; {forecasts.table.chain.nunique():,} chains. It says nothing of the chains that have only one of the"
        " two, which are counted. A loss at the first iteration cannot be foretold: an alert there is never before it."
    )
    note += f" Where there is no lead: {'; '.join(sorted(undefined))}." if undefined else ""
    columns = [_SIGNAL, Column("rule", "alert above"), *_LEAD]
    return Table("warning_lead", "How early the alerts come", pd.DataFrame(rows), columns, note)


def _lead_row(alerts: Alerts) -> dict[str, Any]:
    counts = {name: getattr(alerts.lead, name) for name in ("early", "late", "missed", "unmatched", "quiet")}
    return {"signal": alerts.signal.label, "rule": alerts.rule} | _ends("lead", alerts.lead.mean) | counts


def _alert_row(alerts: Alerts) -> dict[str, Any]:
    skill = alerts.skill
    row: dict[str, Any] = {"signal": alerts.signal.label, "rule": alerts.rule}
    row |= {"n": skill.n, "alerts": skill.alerts, "losses": skill.losses}
    for name in ("base_rate", "precision", "recall", "f1", "lift"):
        row |= _ends(name, getattr(skill, name))
    return row


def _always_row(forecasts: Forecasts) -> dict[str, Any]:
    """The trivial alert, whose precision is the base rate, for comparison."""
    skill = forecasts.always
    row: dict[str, Any] = {"signal": "always on", "n": skill.n, "alerts": skill.alerts, "losses": skill.losses}
    for name in ("base_rate", "precision", "recall", "f1"):
        row |= _ends(name, getattr(skill, name))
    return row


def _ends(name: str, found: Estimate) -> dict[str, float]:
    if isinstance(found, Undefined):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _table(name: str, title: str, rows: Sequence[dict[str, Any]], columns: Sequence[Column], note: str) -> Table:
    """A table without the columns that no row fills; what is the same in every row goes into the note."""
    frame = pd.DataFrame(rows)
    kept = [column for column in columns if column.key in frame and frame[column.key].notna().any()]
    if frame.empty or any(frame[key].nunique() > 1 for key in _SIZES):
        return Table(name, title, frame, kept, note)
    n, losses = (int(frame[key].dropna().iloc[0]) for key in _SIZES)
    kept = [column for column in kept if column.key not in _SIZES]
    return Table(name, title, frame, kept, f"{n:,} forecasts, {losses:,} followed by a loss. {note}", _SIZES)


def _same(forecasts: Forecasts) -> str:
    """Which estimator the headline is, where it has a name of its own as well."""
    names = ", ".join(signal.label.removeprefix("ECE, ") for signal in forecasts.same)
    return f" The headline estimator is {names} here, which has no row of its own." if names else ""


def _reasons(judged: Sequence[Alerts]) -> str:
    """Why values do not exist, each reason once."""
    values = [(a.skill.precision, a.skill.recall, a.skill.f1) for a in judged]
    found = {value.reason for row in values for value in row if isinstance(value, Undefined)}
    return f" Where a value does not exist: {'; '.join(sorted(found))}." if found else ""
