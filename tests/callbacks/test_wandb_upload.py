"""Sending runs: no cell waits for a service that is away, silent, refuses or fails, and nothing is lost."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthmix.callbacks import CellContext, WandbReplay, wandb_upload
from synthmix.callbacks.wandb_run import CellRun, write_cell_run
from synthmix.callbacks.wandb_upload import Upload, Uploader, background_uploader, is_sent, send
from synthmix.config import WandbConfig

#: What a cell may wait for W&B in these tests, seconds: the run is written (under half a second on an idle machine), not
#: sent. Waiting for the service would take ``TIMEOUT``.
BOUND, TIMEOUT = 30.0, 60.0
DEAD = "http://127.0.0.1:9"


def context(folder: Path, said: list[str]) -> CellContext:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    cell = config["cell"]
    return CellContext(
        name=cell["name"], hash=cell["hash"], group=cell["name"].rsplit(".s", 1)[0], task=cell["task"], iteration=2,
        seed=1, folder=folder, log=lambda values: None, say=said.append, config=config,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_uploader_stays() -> Iterator[None]:
    yield
    background_uploader(0.0, print).timeout = 0.0
    wandb_upload._finish()


@pytest.fixture
def run(cell_folder: Path) -> Path:
    return write_cell_run(CellRun.of_folder(cell_folder, "sketch"), WandbConfig())


def end_of_cell(folder: Path, said: list[str]) -> float:
    """Seconds that the callback takes at the end of an online cell."""
    started = time.monotonic()
    WandbReplay(WandbConfig(mode="online", timeout=TIMEOUT)).on_cell_end(context(folder, said))
    return time.monotonic() - started


def processes_in(place: str) -> list[int]:
    """Processes that were started for uploads under ``place``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and place.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def gone(place: str, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while processes_in(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_in(place)


def test_every_number_reaches_the_service(run: Path, cell_folder: Path, service: Any) -> None:
    send([run], TIMEOUT)
    assert is_sent(run)
    (identity,) = service.runs
    sent = service.runs[identity]
    assert identity == "3fa9c1d2" * 4 and sent["groupName"] == "nano-0.9m.nano-math.replace-30.it2"
    assert sent["jobType"] == "iteration-2" and "p=30" in sent["tags"]
    history = service.history[identity]
    losses = {row["train/step"]: row["train/loss"] for row in history if "train/loss" in row}
    assert losses == {step: 1 / 3 + step for step in range(1, 21)}
    (evaluated,) = [row for row in history if "eval/test_score" in row]
    assert evaluated["eval/test_score"] == 0.1 + 0.2 and evaluated["iteration"] == 2
    assert any(name.startswith("media/images/calibration/reliability_test") for name in service.files)
    assert any(name.startswith("media/table/pool/samples") for name in service.files)


def test_what_is_sent_says_nothing_about_the_machine(run: Path, service: Any) -> None:
    assert {path.name for path in (run / "files").iterdir()} == {"media"}
    send([run], TIMEOUT)
    assert is_sent(run)
    said = b"\n".join(service.bodies)
    for private in (str(run.parents[3]), str(Path.home()), "/somewhere", sys.executable, socket.gethostname() + '"'):
        assert private.encode() not in said, private


def test_a_service_that_cannot_be_reached(cell_folder: Path, key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", DEAD)
    said: list[str] = []
    assert end_of_cell(cell_folder, said) < BOUND
    assert not said, "the cell heard of it"
    uploader = background_uploader(1.0, said.append)
    (left,) = uploader.finish()
    assert (left / "files/media").is_dir() and not is_sent(left)
    assert said[0] == f"W&B: sending the last runs to {DEAD}, 1 s at most"
    assert said[1].startswith(f"W&B: 1 run was not sent to {DEAD} (") and "kept offline" in said[2]


def test_a_service_that_is_silent(cell_folder: Path, silent_server: Callable[[], int], tmp_path: Path) -> None:
    """The process that sends ends with its parent's patience, and W&B's own service with it."""
    said: list[str] = []
    assert end_of_cell(cell_folder, said) < BOUND and not said
    current = background_uploader(TIMEOUT, said.append)._current
    assert current is not None
    place = current._scratch.name
    deadline = time.monotonic() + 30
    while silent_server() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert silent_server() > 0 and len(processes_in(place)) >= 2, "W&B was not asked"
    started = time.monotonic()
    (left,) = background_uploader(0.5, said.append).finish()
    assert time.monotonic() - started < 5 and not is_sent(left)
    assert gone(place), "a process stays behind"


def test_a_service_that_refuses(run: Path, service: Any) -> None:
    service.status = 401
    send([run], TIMEOUT)
    assert not is_sent(run) and not service.runs


@pytest.mark.parametrize("where", ["init", "log"])
def test_wandb_that_raises(cell_folder: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    import wandb

    def fail(*args: object, **kwargs: object) -> None:
        raise wandb.errors.CommError("out of order\nwith details")

    target = wandb if where == "init" else wandb.Run
    with monkeypatch.context() as patch:
        patch.setattr(target, where, fail)
        said: list[str] = []
        assert end_of_cell(cell_folder, said) < BOUND
    assert said == ["nano-0.9m.nano-math.replace-30.it2.s1-3fa9c1d2: W&B: out of order"]
    assert not (cell_folder / "wandb/written.json").exists(), "half a run counts as one"
    written = write_cell_run(CellRun.of_folder(cell_folder, "sketch"), WandbConfig())
    assert [path.name for path in (cell_folder / "wandb").glob("offline-run-*")] == [written.name]


def test_wandb_that_is_not_installed(cell_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    said: list[str] = []
    assert end_of_cell(cell_folder, said) < BOUND
    assert len(said) == 1 and "W&B: import of wandb halted" in said[0]


@pytest.mark.slow
def test_a_process_that_sends_ends_by_itself(run: Path, silent_server: Callable[[], int]) -> None:
    """Also where nobody ends it: the one that started it may have been killed."""
    upload = Upload([run], timeout=4.0)
    deadline = time.monotonic() + 30
    while not upload.is_over() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert upload.is_over() and gone(upload._scratch.name)
    upload.end(0.0)


@pytest.mark.slow
def test_what_was_not_sent_goes_with_the_next_run(run: Path, service: Any, tmp_path: Path) -> None:
    said: list[str] = []
    uploader = Uploader(TIMEOUT, said.append)
    service.status = 401
    uploader.add(run)
    wait(uploader)
    service.status = 200
    later = tmp_path / "later" / run.name
    later.parent.mkdir()
    os.system(f"cp -r '{run}' '{later}'")
    uploader.add(later)
    assert uploader.finish() == [] and is_sent(run) and is_sent(later)
    assert len(said) <= 2 and "1 run was not sent" in said[0]
    uploader.add(run)
    assert uploader._current is None, "what was sent is not sent again"


def wait(uploader: Uploader) -> None:
    deadline = time.monotonic() + 30
    while uploader._current is not None and not uploader._current.is_over() and time.monotonic() < deadline:
        time.sleep(0.05)
