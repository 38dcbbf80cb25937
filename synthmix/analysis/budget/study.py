"""A budget from a study's own curves over the synthetic share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from synthmix.analysis.budget.evidence import SAME_SIZE, Evidence, count, ends, told, whole, within
from synthmix.analysis.conditions import CONTROL_MODE, Analysis
from synthmix.analysis.load import StudyData
from synthmix.analysis.shapes.chains import Chain, listed, share_chains
from synthmix.errors import UserError, near_match
from synthmix.statistics.safe_proportion import SafeProportion, safe_proportion
from synthmix.statistics.scaling import FEWEST_SIZES, fit_law


@dataclass(frozen=True)
class Measured:
    """The safe proportion of one model of a study."""

    model: str
    parameters: float
    safe: SafeProportion
    n_items: int
    n_seeds: int

    @property
    def located(self) -> bool:
        """The loss reaches the margin between two measured shares."""
        return not (self.safe.above or self.safe.below)

    @property
    def words(self) -> str:
        """``nano-0.9m (943,440 parameters): 23 % [15, 31], 3 seeds, 1,000 items``."""
        safe, interval = self.safe, self.safe.interval
        value = f"above {whole(safe.last)}" if safe.above else f"below {whole(safe.first)}" if safe.below else ""
        seeds = "1 seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds"
        return (
            f"{self.model} ({count(self.parameters)} parameters): {value or whole(interval.estimate)}"
            f" {ends(interval.low, interval.high)}, {seeds}, {self.n_items:,} items"
        )


def study_evidence(study: StudyData, parameters: float, task: str | None, family: str, margin: float) -> Evidence:
    """The safe proportion that a study measured at iteration 1, at this model size or from the sizes that it has.

    A model of this size: its own. Otherwise, with three sizes or more whose safe proportion lies within the measured
    shares, the log law through them; else that of the nearest size (of two around it, with both intervals).

    Args:
        task: a task of the study; None: the study's task of ``family``.

    Raises:
        UserError: the study has no curve of the task: names the tasks that have one, or why there is none.
    """
    name = _study_task(study, task, family)
    measured, mode = _measured(study, name, margin)
    near = [m for m in measured if abs(parameters / m.parameters - 1) < SAME_SIZE]
    located = [m for m in measured if m.located]
    if not near and len({m.parameters for m in located}) >= FEWEST_SIZES:
        return _from_law(study, name, mode, measured, located, parameters)
    return _from_nearest(study, name, mode, measured, near[:1], parameters)


def _study_task(study: StudyData, task: str | None, family: str) -> str:
    done = study.done
    synthetic = done[(done.iteration == 1) & (done.proportion > 0)]
    known = sorted(set(synthetic.task))
    if task is not None:
        if task in known:
            return task
        raise UserError(
            f"study {study.name}: no finished cell of task '{task}' at iteration 1.{near_match(task, known)} Tasks with"
            f" some: {', '.join(known) or 'none'}."
        )
    found = sorted(set(synthetic.task[synthetic.family == family]))
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"study {study.name}: several tasks of {family}: {', '.join(found)}; name one with --task")
    raise UserError(
        f"study {study.name}: no finished cell of a {family} task at iteration 1. Tasks with some:"
        f" {', '.join(known) or 'none'}."
    )


def _measured(study: StudyData, task: str, margin: float) -> tuple[list[Measured], str]:
    """Every model's safe proportion in the mode ``replace``, or else the first that has one; smaller models first."""
    cells = [c for c in study.plan["cells"] if c["task"] == task and c["iteration"] <= 1]
    analysis = Analysis(replace(study, plan={**study.plan, "cells": cells}), estimators=())
    chains = [c for c in share_chains(analysis) if c.about["iteration"] == 1]
    usable = [c for c in chains if c.curve is not None and c.curve.means[0] > 0 and not c.constant]
    if not usable:
        raise UserError(f"study {study.name}: no curve over the synthetic share for {task}: {_why(chains)}")
    mode = min((str(c.about["mode"]) for c in usable), key=lambda m: (m != CONTROL_MODE, m))
    found = [_one(chain, margin) for chain in usable if chain.about["mode"] == mode]
    return sorted(found, key=lambda m: m.parameters), mode


def _one(chain: Chain, margin: float) -> Measured:
    assert chain.curve is not None
    safe = safe_proportion(chain.curve, margin)
    about = chain.about
    return Measured(str(about["model"]), float(about["parameters"]), safe, chain.curve.n_items, chain.curve.n_seeds)


def _why(chains: Sequence[Chain]) -> str:
    reasons = [c.reason or ("every item has the same score" if c.constant else "the control scores 0") for c in chains]
    return f"{listed(list(dict.fromkeys(reasons)))}; three shares are needed, 0 % among them"


def _from_law(
    study: StudyData, task: str, mode: str, measured: Sequence[Measured], located: Sequence[Measured], parameters: float
) -> Evidence:
    law = fit_law("log", [m.parameters for m in located], [m.safe.interval.estimate for m in located])
    at, last = law.predict(parameters), max(m.safe.last for m in measured)
    facts = _study_facts(study, task, mode, measured)
    facts.append(
        f"Size: least squares on {len(located)} of them is {100 * law.intercept.estimate:.1f} % +"
        f" {100 * law.slope.estimate:.1f} % · log10(N / 1e9), R² {law.r_squared:.2f}, {law.freedom} degrees of freedom; the"
        " interval is that of one new size, and leaves out the intervals of the points."
    )
    warnings = _study_warnings(measured, parameters)
    if len(located) < len(measured):
        warnings.append("Sizes whose safe proportion lies outside of the measured shares are not in the law.")
    low = within(at.low, last)
    largest = law.predict(min(parameters, max(law.sizes)))
    return Evidence(
        within(at.estimate, last), low, told(max(at.high, 0.0), last), min(low, within(largest.low, last)), at.estimate >= last, False,
        at.estimate > 0, "study", facts, warnings, _study_limits(study, last),
    )  # fmt: skip


def _from_nearest(
    study: StudyData, task: str, mode: str, measured: Sequence[Measured], exact: Sequence[Measured], parameters: float
) -> Evidence:
    chosen = exact[0] if exact else min(measured, key=lambda m: abs(math.log(parameters / m.parameters)))
    around = list(exact) or _around(measured, parameters) or [chosen]
    safe, last = chosen.safe, chosen.safe.last
    low = min(m.safe.interval.low for m in around)
    high = told(max(m.safe.interval.high for m in around), last)
    share = safe.first if safe.below else min(safe.interval.estimate, last)
    facts = _study_facts(study, task, mode, measured)
    warnings = _study_warnings(measured, parameters)
    if not exact:
        also = " and covers those of the sizes on both sides" if len(around) > 1 else ""
        warnings.append(
            f"No model of this size in the study: the value is that of {chosen.model}, and nothing corrects for size; the"
            f" interval is its own{also}. A law over size takes {FEWEST_SIZES} sizes."
        )
    if chosen.n_seeds == 1:
        warnings.append("One training run a share: the interval does not cover variation between runs.")
    limits = _study_limits(study, last)
    return Evidence(share, low, high, low, safe.above, safe.below, True, "study", facts, warnings, limits)


def _around(measured: Sequence[Measured], parameters: float) -> list[Measured]:
    """The next smaller and the next larger model, if there are both."""
    smaller = [m for m in measured if m.parameters < parameters]
    larger = [m for m in measured if m.parameters > parameters]
    return [smaller[-1], larger[0]] if smaller and larger else []


def _study_facts(study: StudyData, task: str, mode: str, measured: Sequence[Measured]) -> list[str]:
    return [
        f"Study {study.name}, {task}, mixing {mode}, iteration 1, against the 0 % control; on the non-increasing fit,"
        " linear between the measured shares: " + "; ".join(m.words for m in measured) + "."
    ]


def _study_warnings(measured: Sequence[Measured], parameters: float) -> list[str]:
    low, high = measured[0].parameters, measured[-1].parameters
    if low * (1 - SAME_SIZE) <= parameters <= high * (1 + SAME_SIZE):
        return []
    side = low / parameters if parameters < low else parameters / high
    sizes = count(low) if low == high else f"{count(low)} to {count(high)}"
    return [
        f"Extrapolation: {count(parameters)} parameters lie a factor {side:.3g} outside of the study's sizes ({sizes})."
    ]


def _study_limits(study: StudyData, last: float) -> list[str]:
    generation = study.config.get("generation") or {}
    text = {
        "filter": f"filter {generation['filter']}" if "filter" in generation else "",
        "temperature": f"temperature {generation['temperature']:g}" if "temperature" in generation else "",
    }
    how = f" ({', '.join(t for t in text.values() if t)})" if any(text.values()) else ""
    return [
        f"The task, data and training settings of this study; one iteration; shares up to {whole(last)}; synthetic text"
        f" that the model itself wrote{how}. Another filter, language or mixing mode, further iterations or"
        " pretraining may move it either way."
    ]
