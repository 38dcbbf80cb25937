"""A cell that is told to stop, in every phase: it saves, says so, lets go, and ends with an uninterrupted one's numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from synthmix.config import load_study
from synthmix.study.cells import Plan, make_plan
from synthmix.study.store import Store
from synthmix.study.walk import set_aside

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str]]
#: A baseline whose phases are long enough to be met by a signal.
WORDS = ("iterations=0", "data.test_examples=300", "training.epochs=12", "evaluation.diversity_samples=200",
         "evaluation.batch_size=8", "generation.batch_size=8")  # fmt: skip


def cell_folder(root: Path) -> Path:
    (folder,) = (root / "cells").iterdir()
    return folder


def numbers(folder: Path) -> dict[str, Any]:
    """What a cell found out, without times and texts."""
    result = json.loads((folder / "result.json").read_text())
    return {
        "weights": [t.numpy().tobytes() for t in load_file(folder / "model/model.safetensors").values()],
        "items": pd.read_parquet(folder / "items.parquet").to_json(orient="records"),
        "tokens": {name: result["work"][name] for name in ("train_tokens", "evaluate_tokens")},
        "train": {name: result["train"][name] for name in ("loss", "tokens", "steps")},
    }


@pytest.mark.slow
def test_a_cell_preempted_in_every_phase_equals_one_that_was_not(
    in_process: Run, synthmix: Start, workplace: Path, watch: Any, tipped: Any
) -> None:
    whole, torn = workplace / "whole", workplace / "torn"
    assert in_process("run", "tiny", "store.root=whole", *WORDS)[0] == 0
    assert in_process("plan", "tiny", "store.root=torn", *WORDS)[0] == 0
    name = cell_folder(whole).name
    folder = torn / "cells" / name
    usr1, term = signal.SIGUSR1, signal.SIGTERM
    moments: list[tuple[Callable[[], bool], str, signal.Signals]] = [
        (
            lambda: watch.phase(folder) == "train" and watch.lines(folder / "metrics.jsonl") > 0,
            "training at step ",
            term,
        ),
        (lambda: watch.lines(folder / "items.jsonl") >= 40, "evaluation of test at ", usr1),
        # the first line, for the pool may be full before a busy machine looks again
        (lambda: watch.lines(folder / "synthetic.jsonl") >= 1, "generation at ", term),
    ]
    for ready, where, number in moments:
        process = synthmix("cell", str(torn / "studies/tiny/plan.json"), "--index", "0")
        watch.wait_for(process, ready)
        process.send_signal(number)
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 2, said
        assert f"{name}: preempted by {number.name} in {where}" in said, said
        assert "; the cell goes on from here" in said and "Traceback" not in said and "Detected" not in said
        left = {path.name for path in folder.iterdir()}
        assert not left & {"result.json", "failure.json", "progress.json"} and not list(folder.glob("lease.*"))
        assert (folder / "checkpoints/last.ckpt").exists() is (where == "training at step ")
        assert "items.jsonl" in left or where != "evaluation of test at "
    status, said = in_process("cell", str(torn / "studies/tiny/plan.json"), "--index", "0")
    assert status == 0, said
    assert numbers(folder) == numbers(cell_folder(whole))
    written = [
        json.loads((one / "result.json").read_text())["work"]["generate_tokens"] for one in (folder, cell_folder(whole))
    ]
    assert tipped(folder, cell_folder(whole)) or written[0] == written[1]
    assert not list(folder.rglob("*.ckpt*")) and not (folder / "checkpoints").exists()
    assert {path.name for path in folder.iterdir()} == {path.name for path in cell_folder(whole).iterdir()}


@pytest.mark.slow
def test_a_worker_that_is_terminated_saves(synthmix: Start, in_process: Run, workplace: Path, watch: Any) -> None:
    words = ("tiny", "training.epochs=400", "iterations=0")
    assert in_process("plan", *words)[0] == 0
    process = synthmix("work", "runs/studies/tiny/plan.json")
    watch.wait_for(process, lambda: bool(list(workplace.glob("runs/cells/*/metrics.jsonl"))))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 2 and "preempted by SIGTERM in training at step " in said
    folder = cell_folder(workplace / "runs")
    assert (folder / "checkpoints/last.ckpt").exists() and not list(folder.glob("lease.*"))
    assert not (folder / "failure.json").exists()


@pytest.mark.slow
def test_a_checkpoint_is_its_own_cell_s_alone(in_process: Run, workplace: Path, watch: Any) -> None:
    """A cell is stopped in training; of the two cells that are run then, it alone goes on from a checkpoint."""
    words = ("tiny", "iterations=0", "seeds=[0,1]", "training.epochs=15")
    assert in_process("plan", *words)[0] == 0
    name = json.loads(Path("runs/studies/tiny/plan.json").read_text())["cells"][0]["name"]
    folder = workplace / "runs/cells" / name

    def stop() -> None:
        while not watch.lines(folder / "metrics.jsonl"):
            time.sleep(0.003)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=stop)
    thread.start()
    status, said = in_process("cell", "runs/studies/tiny/plan.json", "--index", "0")
    thread.join()
    assert status == 2 and "preempted by SIGUSR1 in training at step " in said
    assert [path.name for path in workplace.rglob("*.ckpt")] == ["last.ckpt"]
    status, said = in_process("run", *words)
    assert status == 0, said
    results = [json.loads(path.read_text()) for path in workplace.glob("runs/cells/*/result.json")]
    assert {result["name"]: result["train"]["resumed"] for result in results} == {
        result["name"]: result["name"] == name for result in results
    }
    assert len(results) == 2 and not list(workplace.rglob("*.ckpt*"))


# -- failures and attempts ------------------------------------------------------------------------------------------


@pytest.fixture
def planned(in_process: Run, workplace: Path) -> tuple[Plan, Store, Path]:
    """(plan, store, plan.json) of two cells, one above the other."""
    words = ("tiny", "iterations=1", "proportions=[0.5]")
    assert in_process("plan", *words)[0] == 0
    return make_plan(load_study("tiny", words[1:])), Store("runs"), Path("runs/studies/tiny/plan.json")


def break_cell(store: Store, plan: Plan, index: int = 0) -> Path:
    """Makes a cell fail by no fault of the user's: where its mixture is to be written stands a folder."""
    folder = store.folder(plan.cells[index]) / "mixture.json"
    folder.mkdir(parents=True)
    return folder


def test_a_cell_that_fails_three_times_stays_failed(in_process: Run, planned: tuple[Plan, Store, Path]) -> None:
    plan, store, path = planned
    broken = break_cell(store, plan)
    cell = plan.cells[0]
    for attempt in (1, 2, 3):
        status, said = in_process("cell", str(path), "--index", "0")
        assert status == 1, said
        assert f"{cell.name}: attempt {attempt} of 3 failed: IsADirectoryError" in said
        failure = store.failure(cell)
        assert failure is not None and failure["attempts"] == attempt and not failure["user_error"]
        assert (
            failure["job"] is None
            and failure["log"] is None
            and failure["host"]
            and "Traceback" in failure["traceback"]
        )
    status, said = in_process("cell", str(path), "--index", "0")
    assert status == 1 and "failed 3 times: IsADirectoryError" in said and "attempt" not in said
    status, said = in_process("run", "tiny", "iterations=1", "proportions=[0.5]")
    assert status == 1 and "1 failed 3 times and left alone (--retry-failed)" in " ".join(said.split()), said
    broken.rmdir()
    status, said = in_process("cell", str(path), "--index", "0", "--retry-failed")
    assert status == 0, said
    assert not {"failure.json", "last_failure.json"} & {p.name for p in store.folder(cell).iterdir()}


@pytest.mark.slow
def test_run_tries_again_what_failed_less_often(in_process: Run, planned: tuple[Plan, Store, Path]) -> None:
    plan, store, _ = planned
    words = ("run", "tiny", "iterations=1", "proportions=[0.5]")
    break_cell(store, plan)
    for attempt in (1, 2, 3):
        status, said = in_process(*words)
        failure = store.failure(plan.cells[0])
        assert status == 1 and failure is not None and failure["attempts"] == attempt
        assert ("1 failed before and tried again" in said) is (attempt > 1)
    in_process(*words, "--retry-failed")
    failure = store.failure(plan.cells[0])
    assert failure is not None and failure["attempts"] == 1, "forgotten"


def test_what_the_user_can_put_right_is_no_attempt(in_process: Run, planned: tuple[Plan, Store, Path]) -> None:
    plan, store, path = planned
    cell = plan.cells[0]
    store.folder(cell).mkdir(parents=True)
    (store.folder(cell) / "metrics.jsonl").symlink_to("/dev/full")
    for _ in range(4):
        assert in_process("cell", str(path), "--index", "0")[0] == 2
        failure = store.failure(cell)
        assert failure is not None and failure["user_error"] and failure["attempts"] == 0
    set_aside(cell, store)
    assert store.failure(cell) is None and store.state(cell, plan) == "ready"


def test_a_cell_below_one_that_failed_or_is_not_done(in_process: Run, planned: tuple[Plan, Store, Path]) -> None:
    plan, store, path = planned
    parent, child = plan.cells
    for words in ((), ("--wait",)):
        status, said = in_process("cell", str(path), "--name", child.name, *words)
        assert status == 2 and f"{child.name}: waiting: {parent.name} is not done" in said
    assert "nobody runs it" in said
    break_cell(store, plan)
    in_process("cell", str(path), "--index", "0")
    status, said = in_process("cell", str(path), "--index", "1", "--wait")
    assert status == 2 and f"{child.name}: blocked: {parent.name} failed: IsADirectoryError" in said


def test_a_list_of_cells(in_process: Run, planned: tuple[Plan, Store, Path], workplace: Path) -> None:
    plan, store, path = planned
    listed = workplace / "some.cells"
    listed.write_text(f"{plan.cells[1].name}\n{plan.cells[0].name}\n")
    status, said = in_process("cell", str(path), "--cells", str(listed), "--index", "1")
    assert status == 0 and store.is_done(plan.cells[0]), said
    status, said = in_process("cell", str(path), "--cells", str(listed), "--index", "1")
    assert status == 0 and f"{plan.cells[0].name}: done" in said
    for words, expected in (
        (("--cells", str(listed), "--index", "2"), "some.cells has lines 0 to 1"),
        (("--cells", "gone", "--index", "0"), "expected names of cells, one a line"),
        (("--cells", str(listed), "--name", "x"), "expected --index with it"),
        (("--index", "2"), "the plan has cells 0 to 1"),
        (("--name", "x"), "cell 'x': not in"),
    ):
        status, said = in_process("cell", str(path), *words)
        assert status == 2 and expected in said, said


@pytest.mark.slow
def test_two_processes_want_one_cell(
    synthmix: Start, planned: tuple[Plan, Store, Path], workplace: Path, watch: Any
) -> None:
    """With --wait the second one finds it done; without, it says who is in the way."""
    plan, store, path = planned
    folder = store.folder(plan.cells[0])
    first = synthmix("cell", str(path), "--index", "0")
    watch.wait_for(first, lambda: bool(list(folder.glob("lease.*"))))
    second = synthmix("cell", str(path), "--index", "0", "--wait")
    child = synthmix("cell", str(path), "--index", "1", "--wait")
    said = [process.communicate(timeout=300)[0] for process in (first, second, child)]
    assert [process.returncode for process in (first, second, child)] == [0, 0, 0], said
    assert f"{plan.cells[0].name}: done" in said[1] and "accuracy" not in said[1]
    assert all(store.is_done(cell) for cell in plan.cells)


def test_what_a_cell_cost(in_process: Run, planned: tuple[Plan, Store, Path]) -> None:
    plan, store, path = planned
    assert in_process("cell", str(path), "--index", "0")[0] == 0
    result = store.result(plan.cells[0])
    work, folder = result["work"], store.folder(plan.cells[0])
    rows = pd.read_parquet(folder / "items.parquet")
    assert (work["hardware"], work["devices"], work["nodes"]) == ("cpu", 1, 1) and work["device"].startswith("cpu: ")
    assert work["train_tokens"] == result["train"]["tokens"] and work["generate_tokens"] == result["pool"]["tokens"] > 0
    prompts = work["evaluate_tokens"] - rows["tokens"].sum()
    assert 10 * len(rows) < prompts < 250 * len(rows), "a prompt of nano-math has some tens of tokens"
    timings = json.loads((folder / "timings.json").read_text())
    assert all(work[f"{name}_seconds"] == timings[name] > 0 for name in ("mix", "train", "evaluate", "generate"))
    assert 50e6 < work["peak_memory_bytes"] < 50e9 and work["threads"] >= 1


LOST = """
import sys
from pathlib import Path
from synthmix.cli.opening import load_plan
from synthmix.study.reporting import LogReporter
from synthmix.study.walk import attempt, make_runner

plan, store = load_plan(Path(sys.argv[1]))
cell = plan.cells[0]
runner = make_runner(plan, store, LogReporter(), 1)

def run(cell):
    lease, = store.folder(cell).glob("lease.*")
    lease.rename(lease.with_name("lease.7"))  # as if another process had found this one dead
    runner.run(cell)

print("ran", attempt(cell, plan, store, run, LogReporter()))
"""


@pytest.mark.slow
def test_a_process_that_lost_its_cell_leaves_it_alone(planned: tuple[Plan, Store, Path]) -> None:
    plan, store, path = planned
    said = subprocess.run(
        [sys.executable, "-c", LOST, str(path)], capture_output=True, text=True, env=os.environ, check=True
    )
    assert "ran False" in said.stdout and "another one runs the cell now" in said.stdout
    assert {p.name for p in store.folder(plan.cells[0]).iterdir()} <= {"lease.7"}
