"""Cells that SLURM interrupts: they save, come back by themselves, and end with the numbers of an uninterrupted run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from synthmix.cluster import queue

if TYPE_CHECKING:
    from tests.slurm.conftest import Site

Run = Callable[..., tuple[int, str]]
#: A baseline whose phases take some seconds each on one slow core.
LONG = (
    "iterations=0", "data.train_examples=2000", "data.test_examples=2000", "evaluation.diversity_samples=1000",
    "evaluation.batch_size=16", "training.epochs=5", "generation.batch_size=16",
)  # fmt: skip


def progress(folder: Path) -> tuple[str, int]:
    """(phase, how much of it) of a running cell; ``("", 0)`` before it says anything."""
    try:
        told = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return "", 0
    return str(told["phase"]), int(told["done"])


def wait_for_phase(site: Site, folder: Path, phase: str, more_than: int = 0) -> None:
    def reached() -> bool:
        assert not (folder / "result.json").exists(), f"{phase} was over too soon for this test"
        where, done = progress(folder)
        return where == phase and done > more_than

    site.wait_for(reached)


def interrupt(site: Site, folder: Path, phase: str, more_than: int = 0) -> None:
    """Tells the cell, once it has come further in a phase, what SLURM tells it before its limit; waits until it is back."""

    def restarts() -> int:
        return site.log().count("restart ")

    wait_for_phase(site, folder, phase, more_than)
    before = restarts()
    (task,) = site.tasks()
    queue.command(["scancel", "--signal=USR1", task.name])
    site.wait_for(lambda: restarts() > before)


def same(one: Path, other: Path) -> None:
    """Two folders of a cell hold the same model, answers and samples."""
    pd.testing.assert_frame_equal(pd.read_parquet(one / "items.parquet"), pd.read_parquet(other / "items.parquet"))
    assert (one / "mixture.json").read_text() == (other / "mixture.json").read_text()
    texts = [
        [json.loads(line)["text"] for line in (f / "synthetic.jsonl").read_text().splitlines()] for f in (one, other)
    ]
    assert texts[0] == texts[1] and texts[0]
    weights, others = load_file(one / "model/model.safetensors"), load_file(other / "model/model.safetensors")
    assert weights.keys() == others.keys()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)


def uninterrupted(in_process: Run, site: Site, *words: str) -> Path:
    """The folder of the study's first cell, computed in a store of its own by this process."""
    name = site.cell()[1].name
    status, said = in_process("run", "tiny", *words, "store.root=reference", "wandb.mode=disabled")
    assert status == 0, said
    return site.root / "reference/cells" / name


def test_a_cell_that_is_preempted_in_every_phase(site: Site, in_process: Run) -> None:
    site.sweep("tiny", *LONG)
    _, folder = site.cell()
    for phase in ("train", "evaluate", "generate"):
        interrupt(site, folder, phase)
    assert set(site.settle().values()) == {"done"}
    log = site.log()
    for said in ("preempted by SIGUSR1 in training", "in evaluation", "in generation"):
        assert log.count(said) == 1, said
    assert [f"restart {n}" in log for n in (1, 2, 3, 4)] == [True, True, True, False]
    same(folder, uninterrupted(in_process, site, *LONG))
    assert (
        not list(folder.glob("lease.*")) and not list(folder.glob("*ckpt*")) and not (folder / "checkpoints").exists()
    )


def test_a_limit_shorter_than_an_epoch(site: Site, in_process: Run) -> None:
    """Told to go three times within its only epoch, a cell gets further each time, and is not worse for it."""
    words = (*LONG, "training.epochs=1", "data.train_examples=16000")
    site.sweep("tiny", *words)
    _, folder = site.cell()
    steps = [0]
    for _ in range(3):
        interrupt(site, folder, "train", steps[-1])
        steps = [int(step) for step in re.findall(r"preempted by SIGUSR1 in training at step (\d+) of 500", site.log())]
    assert set(site.settle().values()) == {"done"}
    assert len(steps) == 3 and 0 < steps[0] < steps[1] < steps[2] < 500
    same(folder, uninterrupted(in_process, site, *words))


def test_a_job_of_higher_priority_pushes_a_cell_out(site: Site) -> None:
    """SLURM's own preemption: the partition ``urgent`` takes the slots, the cell gives way and comes back."""
    site.profile(**{"warn_s: 10": "warn_s: 10, cpus_per_task: 8", "micro_batch: 8": "micro_batch: 8\nthreads: 1"})
    site.sweep("tiny", *LONG)
    _, folder = site.cell()
    wait_for_phase(site, folder, "train")
    subprocess.run(
        ["sbatch", "--partition=urgent", "--cpus-per-task=8", "--mem=600M", "--output=/dev/null", "--wrap=sleep 3"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert set(site.settle().values()) == {"done"}
    assert "preempted by" in site.log() and "restart 1" in site.log()
    assert json.loads((folder / "train.json").read_text())["resumed"]


def test_cancel_in_the_middle_saves_and_does_not_come_back(site: Site, in_process: Run) -> None:
    site.sweep("tiny", *LONG)
    _, folder = site.cell()
    wait_for_phase(site, folder, "train")
    assert "1 tasks cancelled" in site.synthmix("cancel", "tiny", *LONG).stdout
    said = site.sweep("tiny", *LONG)  # at once: what is being ended is not queued any more
    assert "1 cells submitted" in said and "has 1 of the cells" not in said
    site.wait_for(lambda: "preempted by SIGTERM in training" in site.log())
    assert "restart" not in site.log()
    assert set(site.settle().values()) == {"done"}
    assert json.loads((folder / "train.json").read_text())["resumed"]
    same(folder, uninterrupted(in_process, site, *LONG))


def test_a_cell_that_fails_three_times_stays_failed(site: Site) -> None:
    """What is not the user's to put right is tried again, by the job itself, twice."""
    site.synthmix("plan", "tiny", "iterations=0")
    _, folder = site.cell()
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_text('{"split": "validation"}\n')  # a row without its item: an error of ours
    site.sweep("tiny", "iterations=0")
    assert set(site.settle().values()) == {"failed"}
    failure = json.loads((folder / "failure.json").read_text())
    assert failure["attempts"] == 3 and failure["log"] and Path(failure["log"]).is_file() and failure["job"]
    assert site.log().count("queued again") == 2
    said = site.sweep("tiny", "iterations=0")
    assert "nothing to submit" in said and "failed for good" in said
    (folder / "items.jsonl").unlink()
    assert "1 cells submitted" in site.sweep("tiny", "iterations=0", "--retry-failed")
    assert set(site.settle().values()) == {"done"}


@pytest.mark.parametrize("devices", [2])
def test_two_tasks_of_srun_are_one_cell(site: Site, in_process: Run, devices: int) -> None:
    """DDP over gloo: the model of one process, within the rounding of sums in another order."""
    site.profile(**{"micro_batch: 8": f"micro_batch: 8\ndevices: {devices}\nstrategy: ddp"})
    site.sweep("tiny", "iterations=0")
    assert set(site.settle().values()) == {"done"}
    _, folder = site.cell()
    assert json.loads((folder / "result.json").read_text())["work"]["devices"] == devices
    site.profile(**{f"devices: {devices}\nstrategy: ddp": ""})
    other = uninterrupted(in_process, site, "iterations=0")
    assert (folder / "mixture.json").read_text() == (other / "mixture.json").read_text()
    weights, others = load_file(folder / "model/model.safetensors"), load_file(other / "model/model.safetensors")
    assert max(float(np.abs(weights[name] - others[name]).max()) for name in weights) < 1e-5
    rows, alone = pd.read_parquet(folder / "items.parquet"), pd.read_parquet(other / "items.parquet")
    assert list(rows["item"]) == list(alone["item"])
    assert np.abs(rows["gold_logprob"] - alone["gold_logprob"]).max() < 1e-2
