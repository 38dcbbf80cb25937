"""The view of a study on Weights & Biases, as code: sections of panels over the runs of its cells.

Needs ``wandb-workspaces`` (``pip install 'synthmix[wandb-workspace]'``), which W&B calls a public preview.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synthmix.errors import UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

#: Lines over iterations: section -> title -> metrics. A line is a chain (model, task, mode, share), its band the seeds.
LINES: dict[str, dict[str, tuple[str, ...]]] = {
    "accuracy by iteration": {
        "test score": ("eval/test_score",),
        "test score, flexible matching": ("eval/test_score_flexible",),
        "invalid answers": ("eval/test_invalid_rate",),
        "perplexity of the gold answers": ("eval/test_perplexity",),
    },
    "calibration": {
        "ECE, headline estimator": ("calibration/test_ece",),
        "ECE by estimator": ("calibration/test_ece_mean", "calibration/test_ece_sum", "calibration/test_ece_answer"),
        "overconfidence gap": ("calibration/test_overconfidence",),
        "Brier score": ("calibration/test_brier",),
    },
    "diversity": {
        "1 - self-BLEU": ("diversity/diversity",),
        "distinct-n": ("diversity/distinct_1", "diversity/distinct_2", "diversity/distinct_3"),
        "tail mass": ("diversity/tail_mass",),
        "unique texts": ("diversity/unique_fraction",),
    },
    "early warning": {
        "rise of the validation ECE over the baseline's": ("monitoring/ece_rise",),
        "alert (0 none, 1 warning, 2 critical)": ("monitoring/alert",),
        "validation ECE": ("calibration/validation_ece",),
        "validation score": ("eval/validation_score",),
    },
    "pools": {
        "well-formed samples": ("pool/wellformed_rate",),
        "samples kept, attempts": ("pool/kept", "pool/tries"),
        "overlap with the test set, copies of it": ("pool/overlap_test", "pool/copies_test"),
        "length of a sample": ("pool/complexity_length",),
    },
}
#: Columns that are pinned in the list of runs.
PINNED = (
    "config:task",
    "config:model",
    "config:proportion",
    "config:iteration",
    "config:seed",
    "summary:eval/test_score",
)


def build_workspace(entity: str, project: str, study: str) -> Workspace:
    """The workspace of a study: accuracy, calibration, diversity, early warning and pools by iteration.

    Its runs are those tagged with the study's name, without the summary run, grouped by ``group`` (the cell without
    its seed). Nothing is asked of the network; saving it (``.save()``) needs an account.

    Raises:
        UserError: ``wandb-workspaces`` is not installed.
    """
    ws, _ = _packages()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{study}: by iteration",
        sections=[_section(name) for name in LINES],
        settings=ws.WorkspaceSettings(x_axis="iteration", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Tags().isin([study]), ws.Metric("JobType") != "summary"],
            groupby=[ws.Metric("Group")],
            order=[ws.Ordering(ws.Metric("Name"), ascending=True)],
            pinned_columns=["run:displayName", *PINNED],
        ),
    )


def _section(name: str) -> Section:
    ws, wr = _packages()
    panels: list[Any] = [
        wr.LinePlot(
            title=title,
            x="iteration",
            y=list(metrics),
            title_x="iteration",
            groupby=wr.Config("chain"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=100,
        )
        for title, metrics in LINES[name].items()
    ]
    return ws.Section(name=name, panels=panels + _further(name, wr), is_open=name == next(iter(LINES)))


def _further(section: str, wr: Any) -> list[Any]:
    """What a section shows that is no line over iterations."""
    if section == "accuracy by iteration":
        score = wr.SummaryMetric("eval/test_score")
        return [wr.ScatterPlot(title="test score by synthetic share", x=wr.Config("proportion"), y=score)]
    if section == "calibration":
        return [
            wr.MediaBrowser(title="reliability, test set", media_keys=["calibration/reliability_test"], num_columns=2)
        ]
    if section == "pools":
        return [wr.WeavePanelSummaryTable(table_name="pool/samples")]
    return []


def _packages() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"the package wandb-workspaces cannot be imported ({error}); pip install 'synthmix[wandb-workspace]'"
        ) from error
    return ws, wr
