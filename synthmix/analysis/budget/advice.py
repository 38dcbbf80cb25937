"""How much synthetic data may I use? The adviser behind ``synthmix budget`` (docs/budget.md)."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from synthmix.analysis.budget.evidence import Evidence, count, ends, whole
from synthmix.analysis.budget.published import published_evidence
from synthmix.analysis.conditions import percent
from synthmix.analysis.paper.published import FAMILIES, load_published
from synthmix.config import config_names, load_model
from synthmix.errors import UserError, near_match, unknown
from synthmix.tasks import get_task, is_task_file, task_names

_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?\s*([kmbt]?)", re.IGNORECASE)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_WIDTH = 100


@dataclass(frozen=True)
class Advice:
    """An answer, with everything that it rests on.

    Attributes:
        model: as it was asked for; ``parameters``: its size.
        task: the task that was asked for; None where a family was. ``family``: the paper's name for its kind.
        margin: loss, relative to the score without synthetic data, that counts as safe.
    """

    model: str
    parameters: float
    task: str | None
    family: str
    margin: float
    evidence: Evidence

    def text(self) -> str:
        """A few lines for a terminal."""
        found = self.evidence
        size = (
            f"{self.model}, {count(self.parameters)} parameters"
            if self._named
            else f"{count(self.parameters)} parameters"
        )
        about = self.task if self.task == self.family or not self.task else f"{self.task} ({self.family})"
        source = _SOURCES[found.source]
        lines = [
            f"Synthetic data for {size}, {about or self.family}, a loss under {percent(self.margin)} %",
            "",
            *_wrapped(self._answer(), "  "),
        ]
        for title, sentences in (
            (f"Evidence: {source}", found.facts),
            ("Beware", found.warnings),
            ("Not covered", found.limits),
        ):
            if sentences:
                lines += ["", title, *(line for text in sentences for line in _wrapped(text, "  - ", "    "))]
        return "\n".join(lines)

    def as_json(self) -> str:
        """The same as JSON; shares between 0 and 1."""
        answer: dict[str, Any] = asdict(self) | {"answer": self._answer()}
        return json.dumps(answer, indent=2, ensure_ascii=False)

    @property
    def _named(self) -> bool:
        return _NUMBER.fullmatch(_plain(self.model)) is None

    def _answer(self) -> str:
        found = self.evidence
        if not found.supported:
            return f"No share: this evidence says nothing about models of this size. A study of your own does: {_RUN}."
        share, interval = f"{whole(found.share)} of the training set", ends(found.low, found.high)
        if found.below:
            text = f"Less than {share} {interval}: the smallest share that was measured reaches that loss."
        elif found.above:
            text = f"{share[0].upper()}{share[1:]} or more {interval}."
        else:
            text = f"About {share} {interval}."
        return f"{text} Brackets: 95 % interval. {self._plan()}"

    def _plan(self) -> str:
        found = self.evidence
        if round(100 * found.plan) == 0:
            return "Its low end is 0, so this evidence shows no share to be safe."
        where = "the low end" if found.plan == found.low else "the low end at the largest size that was measured"
        more = (
            "nothing larger was measured"
            if found.above and found.plan == found.share
            else "more is not shown to be safe"
        )
        return f"Plan with at most {whole(found.plan)}, {where}; {more}."


_RUN = "synthmix run STUDY, then synthmix budget --from STUDY"
_SOURCES = {
    "published": "the published points of arXiv 2510.05133 (--from STUDY takes a study's own curves)",
    "study": "a study's measured curves",
}


def advise(model: str, task: str, study: str | None = None, margin: float = 0.10, root: str = "runs") -> Advice:
    """The safe synthetic share for a model and a task.

    Args:
        model: a number of parameters (``410M``, ``6.9B``, ``1.4e9``, ``900000``) or a name under configs/model.
        task: a task, or one of the paper's families (``Math``).
        study: name of a study in the store ``root``, or its folder; None: the published points.
        margin: relative loss that still counts as safe, between 0 and 1.

    Raises:
        UserError: a model, task, study or margin that does not exist; a study without a curve for the task; a family
            about which nothing is published.
    """
    if not 0 < margin < 1:
        raise UserError(
            f"margin = {margin:g}: expected a share of the score, more than 0 and less than 1 (0.1 for 10 %)"
        )
    parameters = parse_parameters(model)
    name, family = parse_task(task)
    if study is None:
        evidence = _published(parameters, name, family, margin)
    else:
        from synthmix.analysis.budget.study import study_evidence
        from synthmix.analysis.load import load_study

        evidence = study_evidence(load_study(study, root), parameters, name, family, margin)
    return Advice(model, parameters, name, family, margin, evidence)


def parse_parameters(model: str) -> float:
    """The number of parameters of a model, by its size or its name.

    >>> parse_parameters("410M"), parse_parameters("1.4e9"), parse_parameters("900_000")
    (410000000.0, 1400000000.0, 900000.0)

    Raises:
        UserError: neither a number above 0 nor a model; names a near match.
    """
    known = config_names("model")
    if model in known:
        return float(load_model(model).parameters)
    if found := _NUMBER.fullmatch(_plain(model)):
        size = float(found[1] + (found[2] or "")) * _UNITS[found[3].lower()]
        if size > 0 and math.isfinite(size):
            return size
    raise UserError(
        f"model '{model}': expected a number of parameters above 0 (410M, 6.9B, 1.4e9, 900000) or a model under"
        f" configs/model.{near_match(model, known)} Known: {', '.join(known)}."
    )


def parse_task(task: str) -> tuple[str | None, str]:
    """A task and its family; no task where a family of the paper is named.

    Raises:
        UserError: neither a task nor a family; names a near match.
    """
    families = {family.casefold(): family for family in FAMILIES}
    if task.casefold() in families:
        return None, families[task.casefold()]
    names = [*task_names(), *config_names("task")]
    if task not in names and not is_task_file(task):
        raise UserError(unknown("task", task, [*FAMILIES, *names]))
    return task, get_task(task).family


def _plain(number: str) -> str:
    return number.strip().replace("_", "").replace(",", "")


def _published(parameters: float, task: str | None, family: str, margin: float) -> Evidence:
    if family not in FAMILIES:
        raise UserError(
            f"task '{task}' ({family}): nothing is published about its kind; expected a task of"
            f" {', '.join(FAMILIES)}, or --from STUDY with a study of it"
        )
    return published_evidence(load_published(), parameters, family, margin)


def _wrapped(text: str, first: str, rest: str = "  ") -> Sequence[str]:
    together = text.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")
    lines = textwrap.wrap(together, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]
