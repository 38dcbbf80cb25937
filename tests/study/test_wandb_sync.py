"""``synthmix wandb-sync``: a run for each finished cell and one for the study, written once, sent where that works."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from synthmix.callbacks import wandb_upload
from synthmix.callbacks.wandb_upload import is_sent
from synthmix.study import lease, wandb_sync

Run = Callable[..., tuple[int, str]]
OFFLINE = ("wandb-sync", "tiny", "iterations=0", "wandb.mode=offline")
ONLINE = (*OFFLINE[:-1], "wandb.mode=online", "wandb.timeout=1.5")


@pytest.fixture
def finished(in_process: Run, workplace: Path) -> Path:
    """The folder of the only cell of a study that ran without W&B."""
    status, said = in_process("run", "tiny", "iterations=0")
    assert status == 0, said
    (folder,) = workplace.glob("runs/cells/*")
    assert not (folder / "wandb").exists()
    return folder


@pytest.mark.slow
def test_a_study_is_synced_once(
    finished: Path, in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = in_process(*OFFLINE)
    assert status == 0, said
    assert "study tiny: 1 of 1 cells is finished; 1 W&B run written, 0 were there already" in said
    assert "offline: the runs lie in runs/cells/*/wandb" in said
    (run,) = finished.glob("wandb/offline-run-*")
    (summary,) = workplace.glob("runs/studies/tiny/wandb/offline-run-*")
    tables = {
        path.name.split("_")[0]: json.loads(path.read_text()) for path in summary.glob("files/media/table/*.json")
    }
    assert set(tables) == {"cells", "conditions"} and len(tables["conditions"]["data"]) == 1
    assert finished.name in tables["cells"]["data"][0]

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    status, said = in_process(*ONLINE)
    assert status == 2 and "0 W&B runs written, 1 was there already" in said
    assert "2 runs were not sent to http://127.0.0.1:9 within wandb.timeout = 1.5 s a run" in said
    assert "They are kept offline, and the same command tries again" in said
    assert list(finished.glob("wandb/offline-run-*")) == [run] and (run / "files/media").is_dir()


def test_what_was_sent_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [tmp_path / f"offline-run-{i}" for i in range(4)]
    asked: list[list[str]] = []

    def send(given: Sequence[Path], timeout: float) -> str:
        asked.append([run.name for run in given])
        for run in given:
            (run / "run.wandb.synced").touch()
        return "done"

    for run in runs:
        run.mkdir()
    (runs[0] / "run.wandb.synced").touch()
    monkeypatch.setattr(wandb_sync, "send", send)
    said: list[str] = []
    wandb_sync.send_runs(runs, 1.0, said.append)
    assert asked == [["offline-run-1"], ["offline-run-2", "offline-run-3"]], "one first, then the others"
    assert "3 runs sent" in said[0] and "1 had been sent before" in said[0]
    wandb_sync.send_runs(runs, 1.0, said.append)
    assert asked[2:] == [[], []] and "0 runs sent" in said[1]


def test_cells_that_cannot_be_written_are_named_and_the_others_written(
    finished: Path, in_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = lease.acquire(finished)
    assert held is not None
    with held:
        status, said = in_process(*OFFLINE)
    assert status == 2 and f"{finished.name}: another process is at it; try again" in said
    metrics = (finished / "metrics.jsonl").read_text()
    (finished / "metrics.jsonl").write_text('{"torn": \n' + metrics)
    status, said = in_process(*OFFLINE)
    assert status == 2 and "metrics.jsonl: not a cell's record of numbers: JSONDecodeError" in said
    (finished / "metrics.jsonl").write_text(metrics)
    monkeypatch.setattr("wandb.init", lambda **given: (_ for _ in ()).throw(RuntimeError("out of order")))
    status, said = in_process(*OFFLINE)
    assert status == 2 and f"{finished.name}: W&B: out of order" in said


def test_studies_that_cannot_be_synced(in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = in_process("wandb-sync", "tyni")
    assert status == 2 and "Did you mean 'tiny'?" in said
    status, said = in_process(*OFFLINE)
    assert status == 2
    assert "study tiny: none of its 1 cells is finished, so there is nothing to send; 'synthmix run tiny'" in said
    status, said = in_process("wandb-sync", "tiny")
    assert status == 2 and "WANDB_MODE = 'disabled': W&B is switched off; expected auto, online or offline" in said
    status, said = in_process("wandb-sync", "tiny", "wandb.mode=disabled")
    assert status == 2 and "wandb.mode = 'disabled': W&B is switched off" in said
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, said = in_process(*OFFLINE)
    assert status == 2 and "the package wandb cannot be imported" in said and "metrics.jsonl holds every number" in said


def test_a_study_online_without_a_network(
    in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cell is done and its run is kept; that it was not sent is said when the process ends, or a later cell does."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    status, said = in_process("run", "tiny", "iterations=0", "wandb.mode=online", "wandb.timeout=1")
    assert status == 0 and "1 done" in said
    (run,) = workplace.glob("runs/cells/*/wandb/offline-run-*")
    wandb_upload._finish()
    said = capsys.readouterr().out
    assert "W&B: 1 run was not sent to http://127.0.0.1:9" in said and "'synthmix wandb-sync STUDY'" in said
    assert (run / "files/media").is_dir() and not is_sent(run)
