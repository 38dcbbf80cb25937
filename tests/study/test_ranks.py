"""A cell on two ranks against the same cell on one: real processes, gloo, a model of some thousand parameters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str]]
#: Sizes that leave a short last batch, and pieces and requests that two ranks cannot share evenly.
WORDS = ("tiny", "iterations=1", "proportions=[0.5]", "data.train_examples=70", "data.test_examples=45",
         "evaluation.batch_size=8", "evaluation.pass_samples=2")  # fmt: skip


@pytest.fixture
def two(workplace: Path) -> Path:
    """The workplace, with a profile of two processes on this machine."""
    (workplace / "configs/hardware").mkdir(parents=True)
    (workplace / "configs/hardware/two.yaml").write_text("devices: 2\nstrategy: ddp\nmicro_batch: 8\nthreads: 1\n")
    return workplace


def assert_equal(one: Path, other: Path, tipped: Callable[[Path, Path], int]) -> int:
    """The same mixture, texts and tokens; weights and scores to rounding, which gradients are summed with.

    Returns how many texts were tipped by it.
    """
    assert (one / "mixture.json").read_text() == (other / "mixture.json").read_text()
    weights, others = load_file(one / "model/model.safetensors"), load_file(other / "model/model.safetensors")
    apart = sum(float(((weights[name] - others[name]) ** 2).sum()) for name in weights)
    assert (apart / sum(float((weight**2).sum()) for weight in weights.values())) ** 0.5 < 2e-6
    items, theirs = pd.read_parquet(one / "items.parquet"), pd.read_parquet(other / "items.parquet")
    numeric = ["logprob", "gold_logprob", "confidence"]
    pd.testing.assert_frame_equal(items.drop(columns=numeric), theirs.drop(columns=numeric), rtol=1e-4)
    np.testing.assert_allclose(items[numeric].astype(float), theirs[numeric].astype(float), rtol=1e-4)
    apart = tipped(one, other)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for key in ("tokens", "steps"):
        assert results[0]["train"][key] == results[1]["train"][key]
    assert results[0]["train"]["loss"] == pytest.approx(results[1]["train"]["loss"], rel=1e-6)
    work = [{key: n for key, n in result["work"].items() if key.endswith("_tokens")} for result in results]
    assert apart or work[0] == work[1]
    steps = [[line.get("step") for line in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())]
             for f in (one, other)]  # fmt: skip
    assert len(steps[0]) <= len(steps[1])
    return apart


@pytest.mark.slow
def test_run_on_two_devices_equals_one(in_process: Run, two: Path, tipped: Any) -> None:
    """``synthmix run`` starts the ranks of each cell itself."""
    status, said = in_process("run", *WORDS, "hardware=two", "store.root=two")
    assert status == 0 and said.count("accuracy") == 2, said
    assert in_process("run", *WORDS, "store.root=one")[0] == 0
    folders = sorted((two / "one/cells").iterdir())
    assert len(folders) == 2
    apart = 0
    for folder in folders:  # the baseline first; the other one is trained on what it wrote
        if not apart:
            apart = assert_equal(folder, two / "two/cells" / folder.name, tipped)
        work = json.loads((two / "two/cells" / folder.name / "result.json").read_text())["work"]
        assert (work["hardware"], work["devices"], work["threads"]) == ("two", 2, 1)
        assert not list((two / "two/cells" / folder.name).glob("lease.*"))


def start_ranks(plan: Path) -> subprocess.Popen[str]:
    module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "synthmix.cli"]
    command = [sys.executable, *module, "cell", str(plan), "--index", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rank_process(agent: int, rank: int) -> int:
    """Process id of a rank that torchrun started."""
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow
def test_ranks_that_are_killed_and_preempted(in_process: Run, two: Path, watch: Any, tipped: Any) -> None:
    """Rank 1 is killed in training, all are preempted in training and in evaluation, only rank 1 hears it in generation."""
    words = (
        *WORDS,
        "iterations=0",
        "training.epochs=12",
        "data.test_examples=301",
        "evaluation.diversity_samples=2000",
    )
    assert in_process("plan", *words, "hardware=two", "store.root=two")[0] == 0
    plan = two / "two/studies/tiny/plan.json"
    name = json.loads(plan.read_text())["cells"][0]["name"]
    folder = two / "two/cells" / name

    def stopped(ready: Callable[[], bool], number: signal.Signals, only: int | None = None) -> str:
        process = start_ranks(plan)
        watch.wait_for(process, ready)
        for rank in (0, 1) if only is None else (only,):
            os.kill(rank_process(process.pid, rank), number)
        said, _ = process.communicate(timeout=180)
        assert process.returncode != 0 and not (folder / "result.json").exists()
        return said

    stopped(lambda: watch.lines(folder / "metrics.jsonl") > 0, signal.SIGKILL, only=1)
    failure = folder / "failure.json"
    if failure.exists():  # rank 0 saw its connection close before it was ended, too
        assert json.loads(failure.read_text())["attempts"] == 1
    seen = watch.lines(folder / "metrics.jsonl")
    said = stopped(lambda: watch.lines(folder / "metrics.jsonl") > seen, signal.SIGUSR1)
    assert f"{name}: preempted by SIGUSR1 in training at step " in said, said
    assert (folder / "checkpoints/last.ckpt").exists() and not failure.exists() and not list(folder.glob("lease.*"))
    said = stopped(lambda: watch.lines(folder / "items.jsonl") >= 40, signal.SIGTERM)
    assert f"{name}: preempted by SIGTERM in evaluation of test at " in said, said
    said = stopped(lambda: watch.phase(folder) == "generate", signal.SIGUSR1, only=1)
    assert f"{name}: preempted by SIGUSR1 in generation at " in said, said
    process = start_ranks(plan)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert in_process("run", *words, "store.root=one")[0] == 0
    assert_equal(two / "one/cells" / name, folder, tipped)


@pytest.mark.slow
def test_a_cell_under_zero_3_is_killed_preempted_and_done(in_process: Run, two: Path, watch: Any) -> None:
    """It goes on from checkpoints that are folders, and ends with DDP's weights, which no rank had in one piece."""
    (two / "configs/hardware/zero.yaml").write_text(
        "devices: 2\nstrategy: deepspeed_stage_3\nmicro_batch: 8\nthreads: 1\n"
    )
    words = (*WORDS, "iterations=0", "training.epochs=12")
    assert in_process("plan", *words, "hardware=zero", "store.root=zero")[0] == 0
    plan = two / "zero/studies/tiny/plan.json"
    name = json.loads(plan.read_text())["cells"][0]["name"]
    folder = two / "zero/cells" / name
    metrics, checkpoint = folder / "metrics.jsonl", folder / "checkpoints/last.ckpt"

    def stopped(number: signal.Signals, *ranks: int) -> str:
        process, seen = start_ranks(plan), watch.lines(metrics)
        watch.wait_for(process, lambda: checkpoint.is_dir() and watch.lines(metrics) > seen)
        for rank in ranks:
            os.kill(rank_process(process.pid, rank), number)
        said, _ = process.communicate(timeout=180)
        assert process.returncode != 0 and not (folder / "result.json").exists()
        return said

    stopped(signal.SIGKILL, 1)
    said = stopped(signal.SIGUSR1, 0, 1)
    assert f"{name}: preempted by SIGUSR1 in training at step " in said, said
    process = start_ranks(plan)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert in_process("run", *words, "hardware=two", "store.root=ddp")[0] == 0
    other = two / "ddp/cells" / name
    results = [json.loads((cell / "result.json").read_text()) for cell in (folder, other)]
    assert results[0]["train"]["resumed"] and not results[1]["train"]["resumed"]
    assert len({(r["train"]["steps"], r["train"]["tokens"]) for r in results}) == 1
    assert results[0]["train"]["loss"] == pytest.approx(results[1]["train"]["loss"], rel=1e-4)
    weights, others = load_file(folder / "model/model.safetensors"), load_file(other / "model/model.safetensors")
    apart = sum(float(((weights[w] - others[w]) ** 2).sum()) for w in others)
    assert (apart / sum(float((w**2).sum()) for w in others.values())) ** 0.5 < 1e-3
    assert not (folder / "checkpoints").exists() and not list(folder.glob(".*"))


TOGETHER = """
import os, signal, sys
from dataclasses import dataclass
from synthmix import ranks
from synthmix.errors import DataError
from synthmix.interrupts import Preempted
from synthmix.study import team

@dataclass(frozen=True)
class Fail(team.Job):
    how: str
    def run(self, hands):
        if ranks.here().rank == 0:
            return "fine"
        raise {"bug": ValueError("odd"), "data": DataError("bad", "file", 3), "stop": Preempted(signal.SIGUSR1)}[self.how]

ranks.join(ranks.find_place(2), "cpu")
if ranks.here().rank:
    os._exit(team.follow(None, lambda error: 1))
for how in ("bug", "data", "stop"):
    try:
        team._together(Fail(how), None)
    except BaseException as error:
        print(type(error).__name__, error)
print("still together", flush=True)
team.end(0)
os._exit(0)
"""

BROKEN = """
import os, sys
from synthmix.cli import main
from synthmix.models.module import CausalLMModule

step = CausalLMModule.training_step
def broken(self, batch, index):
    if os.environ["RANK"] == "1" and self.global_step == 1:
        raise ValueError("something is odd on rank 1")
    return step(self, batch, index)
CausalLMModule.training_step = broken
sys.exit(main(["cell", sys.argv[1], "--index", "0"]))
"""


def torchrun(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_an_error_of_another_rank_is_rank_0_s(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    done = torchrun(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "RuntimeError rank 1: ValueError: odd",
        "UserError file:3: bad",
        "Preempted preempted by SIGUSR1",
        "still together",
    ]


@pytest.mark.slow
def test_an_error_of_one_rank_in_training_ends_all_of_them(in_process: Run, two: Path) -> None:
    """Rank 0 waits for gradients that will not come; what went wrong is recorded, once."""
    assert in_process("plan", *WORDS, "hardware=two")[0] == 0
    script = two / "broken.py"
    script.write_text(BROKEN)
    done = torchrun(script, "runs/studies/tiny/plan.json")
    assert done.returncode != 0
    (folder,) = (two / "runs/cells").iterdir()
    failure = json.loads((folder / "failure.json").read_text())
    assert failure["error"] == "ValueError: something is odd on rank 1" and (failure["attempts"], failure["rank"]) == (
        1,
        1,
    )
    assert "attempt 1 of 3 failed: ValueError: something is odd on rank 1" in done.stdout


@pytest.mark.parametrize(
    ("lines", "words", "expected"),
    [
        ("devices: 2\nnodes: 2\n", (), "hardware = mine: takes 2 nodes"),
        ("devices: 2\n", ("workers=2",), "workers = 2: a cell of hardware mine takes 2 devices itself; expected 1"),
    ],
)
def test_machines_that_run_cannot_start(
    in_process: Run, workplace: Path, lines: str, words: tuple[str, ...], expected: str
) -> None:
    (workplace / "configs/hardware").mkdir(parents=True)
    (workplace / "configs/hardware/mine.yaml").write_text(lines)
    status, said = in_process("run", "tiny", "hardware=mine", *words)
    assert status == 2 and expected in said, said
    assert not (workplace / "runs").exists()
    assert in_process("plan", "tiny", "hardware=mine")[0] == 0


def test_a_rank_alone_is_told_how_to_be_started(in_process: Run, two: Path) -> None:
    assert in_process("plan", "tiny", "hardware=two")[0] == 0
    status, said = in_process("cell", "runs/studies/tiny/plan.json", "--index", "0")
    assert status == 2 and "the hardware profile asks for 2 processes, one a device, but this one is 1 of 1" in said
