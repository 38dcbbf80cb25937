"""Callbacks: calibration in any Trainer, alerts, the record of numbers, and its replay to W&B."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from synthmix.callbacks import CalibrationLogger, CellContext, DiversityLogger, EarlyWarning, JsonlLogger
from synthmix.callbacks.wandb import resolve_mode
from synthmix.config import MonitoringConfig
from synthmix.files import read_jsonl_prefix
from synthmix.metrics import expected_calibration_error

CONFIDENCE, CORRECT = [0.25, 0.25, 0.55, 0.75, 0.75], [0.0, 0.0, 1.0, 1.0, 1.0]


def rows() -> list[dict[str, Any]]:
    common = {"score_flexible": 1.0, "invalid": "", "gold_logprob": -1.0, "gold_tokens": 2, "confidence_answer": None}
    return [
        common | {"confidence": c, "confidence_mean": c, "confidence_sum": c / 2, "score": s}
        for c, s in zip(CONFIDENCE, CORRECT, strict=True)
    ]


def context(folder: Path, logged: dict[str, float], **kwargs: Any) -> CellContext:
    values = {"name": "m.t.replace-30.it1.s0-abc", "hash": "abc", "group": "m.t.replace-30.it1", "task": "t"}
    return CellContext(**values, iteration=1, seed=0, folder=folder, log=logged.update, say=print, config={}, **kwargs)


def test_calibration_of_a_cell(tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    cell = context(tmp_path, logged)
    CalibrationLogger(bins=2).on_cell_evaluated(cell, "test", rows())
    assert logged["calibration/test_ece"] == pytest.approx(0.29)
    assert logged["calibration/test_ece_sum"] == pytest.approx(
        expected_calibration_error([c / 2 for c in CONFIDENCE], CORRECT, n_bins=2)
    )
    assert "ece_answer" not in cell.results["test"], "an estimator that no item has"
    assert logged["eval/test_score"] == pytest.approx(0.6) and cell.results["test"]["n"] == 5


class Scored(L.LightningModule):
    """A module whose validation_step returns what CalibrationLogger reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def validation_step(self, batch: Any, index: int) -> dict[str, torch.Tensor]:
        confidence, correct = batch
        return {"confidence": confidence, "correct": correct}


def test_calibration_in_any_trainer(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.tensor(CONFIDENCE), torch.tensor(CORRECT))
    trainer = L.Trainer(
        callbacks=[CalibrationLogger(bins=2)], logger=False, enable_progress_bar=False, accelerator="cpu",
        default_root_dir=tmp_path, enable_model_summary=False,
    )  # fmt: skip
    (logged,) = trainer.validate(Scored(), torch.utils.data.DataLoader(data, batch_size=2), verbose=False)
    assert logged["calibration/ece"] == pytest.approx(0.29)
    assert logged["calibration/overconfidence"] == pytest.approx(sum(CONFIDENCE) / 5 - 0.6)


@pytest.mark.parametrize(
    ("ece", "baseline", "level"),
    [
        (0.10, 0.10, "none"),
        (0.149, 0.1, "none"),
        (0.16, 0.1, "warning"),
        (0.21, 0.1, "critical"),
        (0.5, None, "none"),
        (0.5, 0.0, "none"),
    ],
)
def test_levels_of_the_early_warning(ece: float, baseline: float | None, level: str) -> None:
    assert EarlyWarning(MonitoringConfig()).judge(ece, baseline)[0] == level


@pytest.mark.parametrize(
    ("action", "halted", "factor"), [("log", False, 0.5), ("halt", True, 0.5), ("reduce", False, 0.25)]
)
def test_actions_of_the_early_warning(action: str, halted: bool, factor: float, tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    baseline = {"validation": {"ece": 0.1}}
    cell = context(tmp_path, logged, baseline=baseline, parent={"alert": {"factor": 0.5}})
    cell.results["validation"] = {"ece": 0.3}
    warner = EarlyWarning(MonitoringConfig(action=action))
    warner.on_cell_evaluated(cell, "test", [])
    assert "alert" not in cell.results, "the test set is not for monitoring"
    warner.on_cell_evaluated(cell, "validation", [])
    assert cell.results["alert"] == {
        "level": "critical",
        "ece_rise": pytest.approx(2.0),
        "factor": factor,
        "halted": halted,
    }
    assert logged["monitoring/alert"] == 2


def test_diversity_is_measured_on_a_fixed_number_of_texts(tmp_path: Path) -> None:
    texts = [f"word {i} and word {i + 1} make {2 * i + 1}" for i in range(50)]
    for given in (texts[:20], texts):
        logged: dict[str, float] = {}
        DiversityLogger(20).on_cell_generated(context(tmp_path, logged), given, texts)
        assert logged["diversity/n"] == 20
        assert logged["diversity/distinct_1"] == pytest.approx(FIRST.setdefault("d", logged["diversity/distinct_1"]))


FIRST: dict[str, float] = {}


def test_every_number_is_on_record(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl", iteration=2)
    logger.log_metrics({"train/loss": torch.tensor(1.5)}, step=3)
    logger.write("evaluate", {"eval/test_score": 0.5})
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["phase"], first["step"], first["iteration"], first["train/loss"]) == ("train", 3, 2, 1.5)
    assert (second["phase"], second["step"], second["eval/test_score"]) == ("evaluate", None, 0.5)


def test_mode_follows_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert resolve_mode("auto") == "offline" and resolve_mode("disabled") == "disabled"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode("auto") == "offline"


def test_a_log_is_continued_behind_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonlLogger(path, 1).write("evaluate", {"eval/score": 0.5})
    with path.open("ab") as file:
        file.write(b'{"time": 12, "pha')
    assert len(read_jsonl_prefix(path)) == 1 and path.read_bytes().endswith(b"pha"), "readers change nothing"
    JsonlLogger(path, 1).write("generate", {"pool/tries": 4})
    assert [line["phase"] for line in read_jsonl_prefix(path)] == ["evaluate", "generate"]
