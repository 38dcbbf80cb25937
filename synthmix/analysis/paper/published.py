"""The numbers that arXiv 2510.05133 reports, as data: ``experiments/paper/published.yaml``.

Values stand as they are printed: scores, shares and losses in percent, ECE, overconfidence and diversity as plain
numbers. The paper prints no intervals, so none are here. ``source`` says where a block stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synthmix.errors import DataError, UserError, near_match
from synthmix.statistics.scaling import ScalingLaw, fit_law
from synthmix.study.published import published_files

#: Task families, in the order of the paper's table 1.
FAMILIES = ("Commonsense", "Math", "Factual", "Reading", "Code")


@dataclass(frozen=True)
class Paper:
    """Which paper."""

    title: str
    authors: str
    arxiv: str
    dated: str


@dataclass(frozen=True)
class Benchmark:
    """One task: its benchmark, test items and metric (sections 3.3 and 3.6).

    ``train_items`` is not the paper's: the training split with which the benchmark was published.
    """

    benchmark: str
    test_items: int
    metric: str
    train_items: int


@dataclass(frozen=True)
class Protocol:
    """Training, sampling, and what the study took: runs, GPU-hours, months, US dollars (section 3)."""

    source: str
    epochs: int
    learning_rate: float
    batch_size: int
    temperature: float
    top_p: float
    seeds: int
    proportions: list[float]
    resamples: int
    runs: int
    runs_main: int
    runs_scale: int
    runs_iterations: int
    iteration_proportions: list[float]
    iteration_tasks: list[str]
    gpu: str
    gpu_hours: float
    gpu_hours_a_run: float
    months: float
    dollars: float


@dataclass(frozen=True)
class Table1:
    """Score by task and share; ``significant`` holds the shares that carry an asterisk."""

    source: str
    model: str
    iteration: int
    proportions: list[float]
    scores: dict[str, list[float]]
    significant: dict[str, list[float]]

    def score(self, task: str, proportion: float) -> float:
        """The score of a task at a share, both in percent."""
        return self.scores[task][self.proportions.index(proportion)]

    def relative(self, task: str) -> list[float]:
        """Loss against 0 % at every share, as a share of the score at 0 % (0.2: a fifth of it is lost)."""
        first, *_ = scores = self.scores[task]
        return [1 - score / first for score in scores]


@dataclass(frozen=True)
class ModelRow:
    """A row of table 2: ``points`` and ``relative`` (percent of the baseline) as printed, losses below 0."""

    model: str
    baseline: float
    synthetic: float
    points: float
    relative: float


@dataclass(frozen=True)
class Table2:
    """Scores by model size at one share."""

    source: str
    task: str
    proportion: float
    iteration: int
    rows: list[ModelRow]


@dataclass(frozen=True)
class Safe:
    """Safe shares by model: the largest with a relative loss under ``margin`` (percent)."""

    source: str
    margin: float
    task: str
    proportions: dict[str, float]


@dataclass(frozen=True)
class LogLaw:
    """Equation 3: share = intercept + slope · log10(N / 1e9), percent."""

    source: str
    intercept: float
    slope: float
    r_squared: float


@dataclass(frozen=True)
class Outlook:
    """Shares that the paper expects of larger models: percent, [least, most]."""

    source: str
    parameters: list[float]
    proportions: list[float]


@dataclass(frozen=True)
class TaskRow:
    """A row of table 3."""

    task: str
    baseline: float
    synthetic: float
    relative: float
    rank: int


@dataclass(frozen=True)
class Table3:
    """Sensitivity of tasks at one share; rank 1 is the most sensitive."""

    source: str
    model: str
    proportion: float
    iteration: int
    rows: list[TaskRow]


@dataclass(frozen=True)
class Table4:
    """Score (percent), ECE and diversity (1 - self-BLEU) by iteration."""

    source: str
    model: str
    task: str
    proportion: float
    iterations: list[int]
    score: list[float]
    ece: list[float]
    diversity: list[float]


@dataclass(frozen=True)
class EarlyWarning:
    """Thresholds on the relative rise of the ECE (percent), and how well it is said to forecast a loss (percent);
    ``significant_at`` is the first iteration of table 4 whose loss the text calls significant."""

    source: str
    warning: float
    critical: float
    precision: float
    recall: float
    ece_rise: float
    overconfidence: list[float]
    accuracy_drop_iteration1: float
    accuracy_drop_iteration2: float
    significant_at: int


@dataclass(frozen=True)
class Slopes:
    """Points of score a point of share below and above the inflection, whose share is in percent; [least, most]."""

    source: str
    inflection: list[float]
    below: list[float]
    above: list[float]


@dataclass(frozen=True)
class Losses:
    """Losses as the text states them: share in percent -> [least, most] in percent."""

    source: str
    stated: dict[int, list[float]]
    cohens_d_10: float
    within: float
    beyond_30: list[float]


@dataclass(frozen=True)
class Budgets:
    """Recommended synthetic shares by task, percent, [least, most]."""

    source: str
    proportions: dict[str, list[float]]
    external_at_least: list[float]


@dataclass(frozen=True)
class Practices:
    """Synthetic share of systems in use, percent."""

    source: str
    proportions: dict[str, float]


@dataclass(frozen=True)
class Quote:
    """A sentence of the paper, or a part of one, and its section."""

    section: str
    text: str


@dataclass(frozen=True)
class Published:
    """Everything in ``published.yaml``, block by block; ``models`` maps a name to its parameters."""

    paper: Paper
    tasks: dict[str, Benchmark]
    models: dict[str, float]
    protocol: Protocol
    table1: Table1
    table2: Table2
    safe: Safe
    equation3: LogLaw
    outlook: Outlook
    table3: Table3
    table4: Table4
    early_warning: EarlyWarning
    slopes: Slopes
    losses: Losses
    budgets: Budgets
    practices: Practices
    quotes: dict[str, Quote]

    def quote(self, name: str) -> str:
        """A quotation as it is printed: ``"…" (section 4.2)``."""
        quote = self.quotes[name]
        where = quote.section if quote.section == "abstract" else f"section {quote.section}"
        return f'"{quote.text}" ({where})'


def load_published(path: str | Path | None = None) -> Published:
    """The published numbers, from ``path`` or the first of :func:`published_files` that exists.

    Raises:
        UserError: there is no such file.
        DataError: the file is not what is expected; names the key.
    """
    looked = published_files() if path is None else [Path(path)]
    found = next((file for file in looked if file.is_file()), None)
    if found is None:
        raise UserError(f"the paper's numbers were not found; looked for {', '.join(map(str, looked))}")
    return _load(found.resolve())


def refit(published: Published) -> ScalingLaw:
    """Least squares of equation 3's form on the safe shares that the text states: percent, against parameters.

    Equation 3 as printed misses these points (R² = -1.83), so it is used nowhere.

    >>> law = refit(load_published())
    >>> round(law.intercept.estimate, 1), round(law.slope.estimate, 1), round(law.r_squared, 3)
    (17.5, 7.8, 0.965)
    """
    safe = published.safe.proportions
    return fit_law("log", [published.models[model] for model in safe], list(safe.values()))


@cache
def _load(path: Path) -> Published:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"not YAML: {error}", path) from error
    if not isinstance(given, dict):
        raise DataError(f"expected blocks and their values, not {type(given).__name__}", path)
    tree = OmegaConf.structured(Published)
    OmegaConf.set_readonly(tree, False)
    try:
        published = OmegaConf.to_object(OmegaConf.merge(tree, given))
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise DataError(where + str(error).splitlines()[0], path) from error
    assert isinstance(published, Published)
    _check(published, path)
    return published


def _check(published: Published, path: Path) -> None:
    """Names that point at each other, and series that must be as long as each other."""
    for block, names in (
        ("table1.scores", published.table1.scores),
        ("table1.significant", published.table1.significant),
        ("budgets.proportions", published.budgets.proportions),
        ("table3.rows", [row.task for row in published.table3.rows]),
    ):
        _check_names(block, list(names), list(published.tasks), path)
    _check_names("table2.rows", [row.model for row in published.table2.rows], list(published.models), path)
    _check_names("safe.proportions", list(published.safe.proportions), list(published.models), path)
    table4 = published.table4
    series: dict[str, tuple[Sequence[float], Sequence[float]]]
    series = {f"table1.scores.{t}": (v, published.table1.proportions) for t, v in published.table1.scores.items()}
    series |= {f"table4.{n}": (getattr(table4, n), table4.iterations) for n in ("score", "ece", "diversity")}
    for name, (values, axis) in series.items():
        if len(values) != len(axis):
            raise DataError(f"{name} has {len(values)} values; expected {len(axis)}, one for each of {axis}", path)


def _check_names(block: str, given: Sequence[str], known: Sequence[str], path: Path) -> None:
    if missing := [name for name in known if name not in given]:
        raise DataError(f"{block} lacks {', '.join(missing)}", path)
    for name in given:
        if name not in known:
            raise DataError(f"{block}: unknown name '{name}'.{near_match(name, known)}", path)
