"""The workspace as an object, and as the JSON that would be saved."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from synthmix.callbacks import CalibrationLogger, CellContext, DiversityLogger, EarlyWarning
from synthmix.callbacks.wandb_workspace import LINES, build_workspace
from synthmix.config import MonitoringConfig
from synthmix.errors import UserError
from synthmix.generation.pool import PoolStats


def test_the_workspace_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")

    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    workspace = build_workspace("somebody", "drafts", "sketch")
    spec = workspace._to_model().spec.model_dump(by_alias=True, exclude_none=True)["section"]
    (runs,) = spec["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}]
    wanted = [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]]
    assert wanted == [("tags", "IN", ["sketch"]), ("jobType", "!=", "summary")]
    sections = spec["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        "accuracy by iteration", "calibration", "diversity", "early warning", "pools",
    ]  # fmt: skip
    drawn = {
        panel["config"]["chartTitle"]: panel["config"]
        for s in sections
        for panel in s["panels"]
        if "xAxis" in panel["config"]
    }
    for title, metrics in {title: m for lines in LINES.values() for title, m in lines.items()}.items():
        assert drawn[title]["metrics"] == list(metrics) and drawn[title]["xAxis"] == "iteration"
        assert (drawn[title]["groupBy"], drawn[title]["groupAgg"]) == ("chain.value", "mean")
    kinds = [panel["viewType"] for section in sections for panel in section["panels"]]
    assert {"Scatter Plot", "Media Browser", "Weave"} < set(kinds)
    assert [s.name for s in type(workspace)._from_model(workspace._to_model()).sections] == list(LINES)


def test_its_metrics_are_logged(tmp_path: Path) -> None:
    """A name that no cell logs would be an empty panel."""
    logged: dict[str, float] = {}
    row = {
        "score": 1.0,
        "score_flexible": 1.0,
        "invalid": "",
        "gold_logprob": -1.0,
        "gold_tokens": 2,
        "confidence": 0.5,
    }
    row |= {"confidence_mean": 0.5, "confidence_sum": 0.5, "confidence_answer": 0.5}
    cell = CellContext(
        name="n", hash="h", group="g", task="t", iteration=1, seed=0, folder=tmp_path, log=logged.update, say=print,
        config={}, baseline={"validation": {"ece": 0.1}},
    )  # fmt: skip
    for callback in (CalibrationLogger(), EarlyWarning(MonitoringConfig()), DiversityLogger(4)):
        for split in ("test", "validation"):
            callback.on_cell_evaluated(cell, split, [row] * 4)
        callback.on_cell_generated(cell, ["one two three four"] * 4, ["five six seven eight"] * 4)
    pool = {f"pool/{name}" for name in PoolStats().to_dict()} | {
        "pool/complexity_length"
    }  # a lever that all tasks have
    drawn = {metric for lines in LINES.values() for metrics in lines.values() for metric in metrics}
    assert drawn - set(logged) - pool == set()


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"pip install 'synthmix\[wandb-workspace\]'"):
        build_workspace("somebody", "drafts", "sketch")
