"""Runs of Weights & Biases as they lie on the disk, read back with W&B's own reader."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from synthmix.callbacks.wandb import resolve_mode
from synthmix.callbacks.wandb_media import draw_reliability, read_samples
from synthmix.callbacks.wandb_run import (
    CellRun,
    is_written,
    merged_history,
    summary_id,
    write_cell_run,
    write_summary_run,
)
from synthmix.config import WandbConfig
from synthmix.errors import DataError
from synthmix.files import read_jsonl_prefix

Reader = Callable[[Path], list[dict[str, Any]]]
CONFIG = WandbConfig(mode="offline", project="drafts")


def of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def test_a_run_holds_every_number_the_config_and_the_media(cell_folder: Path, read_run: Reader) -> None:
    run = write_cell_run(CellRun.of_folder(cell_folder, "sketch"), CONFIG)
    records = read_run(run)
    history = [record["item"] for record in of(records, "history")]
    for phase, step, name, value in latest_numbers(cell_folder / "metrics.jsonl"):
        where = [h for h in history if name in h and (phase != "train" or h["train/step"] == step)]
        assert len(where) == 1 and where[0]["iteration"] == 2, (phase, step, name)
        assert where[0][name] == json_number(value), (phase, step, name)
    described = of(records, "run")[0]
    assert (described["run_id"], described["project"]) == ("3fa9c1d2" * 4, "drafts")
    assert described["display_name"] == "nano-0.9m.nano-math.replace-30.it2.s1-3fa9c1d2"
    assert (described["run_group"], described["job_type"]) == ("nano-0.9m.nano-math.replace-30.it2", "iteration-2")
    assert described["tags"] == ["nano-math", "nano-0.9m", "replace", "p=30", "Math", "sketch"]
    config = described["config"]["update"]
    assert (config["proportion"], config["seed"], config["metric"]) == (0.3, 1, "accuracy")
    assert config["chain"] == "nano-0.9m.nano-math.replace-30" and config["study"]["training"] == {"epochs": 3}
    assert config["study"]["data"] == {"difficulty": 0.5} and "store" not in config["study"], "places are not settings"
    axes = {m["glob_name"]: m["step_metric"] for m in of(records, "metric") if "glob_name" in m}
    spaces = ("eval", "calibration", "diversity", "monitoring", "pool")
    assert axes == {"train/*": "train/step"} | {f"{space}/*": "iteration" for space in spaces}
    media = {f["path"] for record in of(records, "files") for f in record["files"]}
    for name in (
        "images/calibration/reliability_test",
        "images/calibration/reliability_validation",
        "table/pool/samples",
    ):
        (path,) = [path for path in media if path.startswith(f"media/{name}_")]
        assert (run / "files" / path).stat().st_size > 500
    table = json.loads(next((run / "files/media/table/pool").iterdir()).read_text())
    assert table["columns"] == list(read_samples(cell_folder / "synthetic.jsonl").columns) and len(table["data"]) == 20
    assert table["data"][3][:4] == [3, "Question 3: à < b?", False, "no marker"]


def latest_numbers(path: Path) -> list[tuple[str, int | None, str, float]]:
    """Every number of ``metrics.jsonl``, the later one where a phase says it twice at one step."""
    found = {}
    for line in read_jsonl_prefix(path):
        for name, value in line.items():
            if "/" in name:
                found[line["phase"], line["step"], name] = value
    assert len(found) == 20 * 3 + 8
    return [(*place, value) for place, value in found.items()]


def json_number(value: float) -> float | str:
    """What JSON has no number for, W&B writes as a word."""
    return value if np.isfinite(value) else {"nan": "NaN", "inf": "Infinity"}[str(value)]


@pytest.mark.slow
def test_a_run_is_written_once_and_again_when_its_cell_changed(cell_folder: Path, read_run: Reader) -> None:
    cell = CellRun.of_folder(cell_folder, "sketch")
    assert not is_written(cell, CONFIG)
    left = cell_folder / "wandb" / f"offline-run-20200101_000000-{cell.hash}"  # by a process that was killed
    left.mkdir(parents=True)
    first = write_cell_run(cell, CONFIG)
    assert is_written(cell, CONFIG) and not left.exists()
    assert write_cell_run(cell, CONFIG) == first
    other = CellRun.of_folder(cell_folder, "second")
    assert not is_written(other, CONFIG), "the run does not name this study yet"
    time.sleep(1.1)  # folders are named by the second
    second = write_cell_run(other, CONFIG)
    assert second != first and not first.exists()
    assert of(read_run(second), "run")[0]["tags"][-2:] == ["sketch", "second"]
    assert is_written(cell, CONFIG) and is_written(other, CONFIG)
    with (cell_folder / "metrics.jsonl").open("a") as file:  # its pool was made longer
        file.write('{"time": 1, "phase": "generate", "iteration": 2, "step": null, "pool/tries": 60.0}\n')
    assert not is_written(cell, CONFIG)


@pytest.mark.slow
def test_a_copied_store_is_written_anew_unless_it_was_sent(cell_folder: Path, tmp_path: Path) -> None:
    """The run of a table names the place of a file, which is elsewhere now."""
    write_cell_run(CellRun.of_folder(cell_folder, "sketch"), CONFIG)
    copied = tmp_path / "copied" / cell_folder.name
    shutil.copytree(cell_folder, copied, symlinks=True)
    assert not is_written(CellRun.of_folder(copied, "sketch"), CONFIG)
    (run,) = copied.glob("wandb/offline-run-*")
    (run / f"run-{'3fa9c1d2' * 4}.wandb.synced").touch()
    assert is_written(CellRun.of_folder(copied, "sketch"), CONFIG)


def test_a_torn_log_is_read_up_to_its_tear_and_a_damaged_one_refused(cell_folder: Path) -> None:
    path = cell_folder / "metrics.jsonl"
    whole = merged_history(path)
    with path.open("ab") as file:
        file.write(b'{"time": 12, "pha')
    assert str(merged_history(path)) == str(whole) and len(whole) == 22
    path.write_text('{"time": 12, "pha\n' + path.read_text())
    with pytest.raises(DataError, match=r"metrics\.jsonl: not a cell's record of numbers: JSONDecodeError"):
        write_cell_run(CellRun.of_folder(cell_folder, "sketch"), CONFIG)
    assert not (cell_folder / "wandb").exists(), "half a run was left"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.yaml", "cell: {name: x", "ParserError"),
        ("config.yaml", "study: {}", "KeyError"),
        ("result.json", "{", "not JSON"),
    ],
)
def test_files_that_cannot_be_read(cell_folder: Path, file: str, text: str, said: str) -> None:
    (cell_folder / file).write_text(text)
    with pytest.raises(DataError, match=said) as raised:
        CellRun.of_folder(cell_folder, "sketch")
    assert file in str(raised.value)


def test_a_cell_without_pool_and_items_has_a_run_of_numbers(cell_folder: Path, read_run: Reader) -> None:
    for name in ("synthetic.jsonl", "items.parquet", "result.json"):
        (cell_folder / name).unlink()
    records = read_run(write_cell_run(CellRun.of_folder(cell_folder, "sketch"), CONFIG))
    assert len(of(records, "history")) == 22 and not of(records, "files")
    assert of(records, "run")[0]["tags"] == ["nano-math", "nano-0.9m", "replace", "p=30", "sketch"]


def test_samples_say_why_they_are_not_in_the_pool(cell_folder: Path) -> None:
    path = cell_folder / "synthetic.jsonl"
    shown = read_samples(path, n=12)
    assert list(shown["index"]) == list(range(12))
    assert list(shown.reason[:4]) == ["no marker", "duplicate question", "", "no marker"]
    assert list(shown.kept[:4]) == [False, False, True, False] and shown.logprob_mean[11] == pytest.approx(-1.1)
    path.write_text(path.read_text()[:-150])  # torn
    assert len(read_samples(path, n=100)) < 30
    assert read_samples(cell_folder / "nothing.jsonl").empty


def test_a_reliability_diagram_for_each_split_and_estimator(cell_folder: Path) -> None:
    pictures = draw_reliability(cell_folder / "items.parquet", n_bins=10)
    assert list(pictures) == ["test", "validation"]
    frame = pd.read_parquet(cell_folder / "items.parquet")
    frame.drop(columns=["confidence_sum", "confidence_answer"]).to_parquet(cell_folder / "fewer.parquet")
    fewer = draw_reliability(cell_folder / "fewer.parquet", n_bins=10)
    per_diagram = (pictures["test"].width - fewer["test"].width) / 2
    margin = pictures["test"].width - 4 * per_diagram
    assert per_diagram > 0 and fewer["test"].width == 2 * per_diagram + margin, (
        "headline, mean, sum, answer; no agreement"
    )
    pixels = np.asarray(pictures["test"])
    blue = (pixels == (0, 114, 178)).all(axis=2) | (abs(pixels.astype(int) - (38, 135, 190)).sum(axis=2) < 12)
    assert blue.sum() > 300, "no point is drawn"
    assert draw_reliability(cell_folder / "missing.parquet", n_bins=10) == {}


def test_the_summary_of_a_study(tmp_path: Path, read_run: Reader) -> None:
    pytest.importorskip("PIL").Image.new("RGB", (8, 8), "white").save(tmp_path / "curve.png")
    (tmp_path / "report.html").write_text("<p>Report</p>")
    (tmp_path / "plan.json").write_text(json.dumps({"cells": [{"hash": "b"}, {"hash": "a"}]}))
    frame = pd.DataFrame({"task": pd.Categorical(["math", "code"]), "p": [0.1 + 0.2, np.nan], "seeds": [[0, 1], [2]]})
    images = {"curve": tmp_path / "curve.png", "report": tmp_path / "report.html"}
    run = write_summary_run(CONFIG, "sketch", {"conditions": frame}, images, {"cells/done": 2}, tmp_path)
    records = read_run(run)
    described = of(records, "run")[0]
    assert described["job_type"] == "summary" and described["run_id"] == summary_id("sketch", tmp_path)
    assert of(records, "history")[0]["item"]["conditions.nrows"] == 2
    assert {"cells/done": 2} in [record["update"] for record in of(records, "summary")]
    table = json.loads(next((run / "files/media/table").glob("conditions_*")).read_text())
    assert table == {"columns": ["task", "p", "seeds"], "data": [["math", 0.1 + 0.2, "[0, 1]"], ["code", None, "[2]"]]}
    assert list(run.glob("files/media/images/curve_*.png")) and list(run.glob("files/media/html/report_*.html"))
    time.sleep(1.1)
    again = write_summary_run(CONFIG, "sketch", {"conditions": frame}, {}, {}, tmp_path)
    assert again != run and not run.exists(), "a study has one summary"
    (tmp_path / "plan.json").write_text(json.dumps({"cells": [{"hash": "c"}]}))
    assert summary_id("sketch", tmp_path) != described["run_id"]


WRITE = """\
import sys
from pathlib import Path
from synthmix.callbacks.wandb_run import CellRun, write_cell_run
from synthmix.config import WandbConfig
write_cell_run(CellRun.of_folder(Path(sys.argv[1]), "sketch"), WandbConfig())
"""


@pytest.mark.slow
def test_writing_asks_no_network(cell_folder: Path, silent_server: Callable[[], int]) -> None:
    """Not even when the process ends: W&B's own reports would wait ten seconds for a server that does not answer."""
    subprocess.run([sys.executable, "-c", WRITE, str(cell_folder)], env=dict(os.environ), check=True, timeout=120)
    assert (cell_folder / "wandb/written.json").is_file() and silent_server() == 0


def test_mode_follows_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert resolve_mode("auto") == "offline" and resolve_mode("disabled") == "disabled"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    assert resolve_mode("auto") == "online"
