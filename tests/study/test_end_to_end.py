"""A whole study in processes of its own: what it leaves, that a rerun does nothing, and that kills change nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from synthmix.config import load_study
from synthmix.study.cells import make_plan
from synthmix.study.plan_view import estimate
from synthmix.study.store import Store

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str]]

CELL = {
    "config.yaml", "mixture.json", "examples.json", "train.json", "items.parquet", "synthetic.jsonl", "synthetic.md",
    "pool.json", "metrics.jsonl", "timings.json", "result.json",
}  # fmt: skip
MODEL = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def numbers(root: Path) -> dict[str, Any]:
    """Everything that a study found out, without times and names of files."""
    found: dict[str, Any] = {}
    for folder in sorted((root / "cells").iterdir()):
        result = json.loads((folder / "result.json").read_text())
        for key in ("timings", "finished"):
            del result[key]
        result["work"] = {key: value for key, value in result["work"].items() if key.endswith("_tokens")}
        for key in ("seconds", "tokens_per_second", "resumed"):
            result["train"].pop(key)
        samples = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
        found[folder.name] = {
            "result": result,
            "items": pd.read_parquet(folder / "items.parquet").to_json(orient="records"),
            "logprobs": [sample.pop("logprob_mean") for sample in samples],
            "pool": samples,
            "mixture": (folder / "mixture.json").read_text(),
        }
    return found


def weights(root: Path) -> dict[str, bytes]:
    files = sorted(root.glob("cells/*/model/model.safetensors"))
    return {str(f.parent.parent.name): b"".join(t.numpy().tobytes() for t in load_file(f).values()) for f in files}


def test_what_a_study_leaves_and_a_rerun_that_does_nothing(in_process: Run, workplace: Path) -> None:
    status, output = in_process("run", "tiny", "store.keep=all")
    assert status == 0, output
    cells = sorted((workplace / "runs/cells").iterdir())
    assert [c.name.rsplit("-", 1)[0] for c in cells] == [
        "tiny.nano-math.baseline.it0.s0",
        "tiny.nano-math.replace-0.it1.s0",
        "tiny.nano-math.replace-0.it2.s0",
        "tiny.nano-math.replace-50.it1.s0",
        "tiny.nano-math.replace-50.it2.s0",
    ]
    for cell in cells:
        assert {p.name for p in cell.iterdir() if p.is_file()} == CELL
        assert {p.name for p in cell.iterdir() if p.is_dir()} == {"model"}
        assert {p.name for p in (cell / "model").iterdir()} == MODEL
        rows = pd.read_parquet(cell / "items.parquet")
        assert rows["split"].value_counts().to_dict() == {"test": 20, "validation": 12}
        assert f"{cell.name}: accuracy" in output
        assert "└─ external" in output
    mixed = json.loads((cells[3] / "mixture.json").read_text())
    assert mixed["counts"]["synthetic"] == 32 and mixed["counts"]["external"] == 32
    assert {p.name for p in (workplace / "runs/studies/tiny").iterdir()} == {"study.yaml", "plan.json", "report"}
    assert "report:" in output and (workplace / "runs/studies/tiny/report/report.html").stat().st_size > 10_000

    # what the plan had said it would cost
    plan = make_plan(load_study("tiny", ["store.keep=all"]))
    results = [json.loads((cell / "result.json").read_text()) for cell in cells]
    said = estimate(plan, Store("elsewhere"))
    tokens = said.total.tokens
    assert 1 / 3 < tokens["train"] / sum(r["train"]["tokens"] for r in results) < 3  # nonsense takes more tokens
    assert 1 / 4 < tokens["generate"] / sum(r["pool"]["tokens"] for r in results) < 4
    taken = sum(p.stat().st_size for cell in cells for p in cell.rglob("*") if p.is_file())
    assert 1 / 2 < said.total.disk / taken < 2 and said.total.done == said.measured_on == 0
    # and what it says once they are finished
    said = estimate(plan, Store("runs"))
    assert said.total.done == said.total.cells == said.measured_on == 5 and said.total.left == 0
    assert said.errors["measured"].n == said.errors["stated"].n == 5 and said.basis == {"task": 15}

    before = {p: p.stat().st_mtime_ns for cell in cells for p in cell.rglob("*")}
    status, again = in_process("run", "tiny", "store.keep=all")
    assert status == 0 and "5 cells, 5 done" in again
    assert {p: p.stat().st_mtime_ns for cell in cells for p in cell.rglob("*")} == before


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> bool:
    """Kills a process and its children, without warning, once ``ready``; False if it ended before."""
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


def kill_and_compare(synthmix: Start, in_process: Run, workplace: Path, watch: Any, phases: tuple[str, ...]) -> None:
    """A study that is killed once in each of ``phases``, against one that is left alone."""
    settings = ("store.keep=all", "iterations=1", "proportions=[0.5]")
    assert in_process("run", "tiny", "store.root=whole", *settings)[0] == 0
    root = workplace / "torn"
    words = ("run", "tiny", "store.root=torn", "wandb.mode=offline", *settings)

    def lines_of(name: str) -> int:
        return sum(watch.lines(path) for path in root.glob(f"cells/*/{name}"))

    known: dict[str, Callable[[], bool]] = {
        "train": lambda: any(root.glob("cells/*/checkpoints/*.ckpt")),
        "evaluate": lambda: lines_of("items.jsonl") >= 5,
        "generate": lambda: lines_of("synthetic.jsonl") >= 7,
    }
    moments = [known[phase] for phase in phases]
    killed = 0
    for ready in moments:
        killed += kill_when(synthmix(*words), ready)
        for path in root.glob("cells/*/*.jsonl"):  # as a power cut would leave it
            with path.open("ab") as file:
                file.write(b'{"torn": ')
    assert killed == len(moments)
    status, output = in_process(*words)
    assert status == 0, output
    torn, whole = numbers(root), numbers(workplace / "whole")
    assert torn.keys() == whole.keys()
    for name, found in torn.items():
        for key, value in found.pop("result").items():
            assert value == whole[name]["result"][key], (name, key)
        # decoded in other company after a resume, these may differ in their last bits
        assert found.pop("logprobs") == pytest.approx(whole[name].pop("logprobs"), abs=1e-5)
        assert found == {key: value for key, value in whole[name].items() if key != "result"}, name
    assert weights(root) == weights(workplace / "whole")


@pytest.mark.slow
def test_a_kill_while_generating_changes_nothing(synthmix: Start, in_process: Run, workplace: Path, watch: Any) -> None:
    kill_and_compare(synthmix, in_process, workplace, watch, ("generate",))


@pytest.mark.slow
def test_kills_in_every_phase_change_nothing(synthmix: Start, in_process: Run, workplace: Path, watch: Any) -> None:
    kill_and_compare(synthmix, in_process, workplace, watch, ("train", "evaluate", "generate"))


@pytest.mark.slow
def test_two_processes_share_a_study_and_workers_do_too(synthmix: Start, workplace: Path) -> None:
    finish(synthmix("run", "tiny", "store.root=one", "store.keep=all"))
    both = [synthmix("run", "tiny", "store.root=two", "store.keep=all") for _ in range(2)]
    outputs = [finish(process) for process in both]
    lines = [line for output in outputs for line in output.splitlines() if ": accuracy" in line]
    assert len(lines) == len(set(lines)) == 5, "a cell was run twice"
    assert numbers(workplace / "two") == numbers(workplace / "one")
    output = finish(synthmix("run", "tiny", "store.root=three", "store.keep=all", "workers=2"))
    assert sum(": accuracy" in line for line in output.splitlines()) == 5
    assert numbers(workplace / "three") == numbers(workplace / "one")


@pytest.mark.slow
def test_a_longer_pool_for_another_study_is_the_same_pool(synthmix: Start, workplace: Path) -> None:
    finish(synthmix("run", "tiny", "proportions=[0.4]", "name=a", "iterations=1"))
    (baseline,) = (workplace / "runs/cells").glob("*baseline*")
    short, trained = (baseline / "synthetic.jsonl").read_text(), (baseline / "train.json").stat().st_mtime_ns
    finish(synthmix("run", "tiny", "proportions=[0.9]", "name=b", "iterations=1"))
    longer = (baseline / "synthetic.jsonl").read_text()
    assert longer.startswith(short) and longer.count("\n") == 58
    assert (baseline / "train.json").stat().st_mtime_ns == trained, "the baseline was trained twice"
