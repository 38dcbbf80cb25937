"""Failures while a study runs: said in words, nothing lost, exit status 2."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthmix.config import load_study
from synthmix.study.cells import make_plan
from synthmix.study.store import Store

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str]]


def output_of(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    return output


@pytest.mark.slow
def test_a_pool_smaller_than_its_share(in_process: Run, workplace: Path) -> None:
    """A random model writes nothing well-formed, so the cap on tries ends its pool."""
    words = ("tiny", "generation.filter=wellformed", "generation.max_tries=1", "iterations=2")
    words += ("evaluation.diversity_samples=0", "proportions=[0, 0.5]")
    status, said = in_process("run", *words)
    assert status == 2, said
    said = " ".join(said.split())
    assert (
        "the synthetic pool holds 0 examples, but a share of 0.5 needs 32; raise generation.max_tries or lower" in said
    )
    assert "3 done, 1 failed, 1 blocked" in said, "what does not need the pool stands: the baseline and the control"
    assert len(list(workplace.glob("runs/cells/*/result.json"))) == 3
    status, said = in_process("status", *words)
    assert status == 0 and "blocked" in said and "the synthetic pool holds 0 examples" in said


def test_no_disk_space(in_process: Run, workplace: Path) -> None:
    """A log on a full device stops the cell with words; once there is room, the same command continues."""
    in_process("plan", "tiny", "iterations=0")
    plan = json.loads((workplace / "runs/studies/tiny/plan.json").read_text())
    folder = workplace / "runs/cells" / plan["cells"][0]["name"]
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    status, said = in_process("run", "tiny", "iterations=0")
    assert status == 2, said
    assert "metrics.jsonl: no space left on the disk. Nothing that was finished is lost" in said
    (folder / "metrics.jsonl").unlink()
    status, again = in_process("run", "tiny", "iterations=0")
    assert status == 0 and "1 failed before and tried again" in again


@pytest.mark.slow
def test_ctrl_c(synthmix: Start, workplace: Path) -> None:
    process = synthmix("run", "tiny", "training.epochs=2000", "iterations=0")
    deadline = time.monotonic() + 300
    while not list(workplace.glob("runs/cells/*/mixture.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    said = output_of(process)
    assert process.returncode == 2, said
    assert "interrupted. Nothing is lost: the same command continues where it stopped." in said
    assert not list(workplace.glob("runs/cells/*/lease.*")), "the cell is still held"


@pytest.mark.slow
def test_an_early_warning_halts_or_reduces_the_chain(synthmix: Start, workplace: Path) -> None:
    """Thresholds that any rise reaches: of several seeds some are critical, and both actions can be seen on those."""
    alarm = ("monitoring.warning=0", "monitoring.critical=0", "training.learning_rate=0.03", "seeds=[0,1,2,3]")
    chains: dict[str, dict[int, dict[int, Any]]] = {}
    for action in ("halt", "reduce"):
        words = ("proportions=[0.5]", f"name={action}", f"store.root={action}", f"monitoring.action={action}")
        said = output_of(synthmix("run", "tiny", *words, *alarm))
        results = [json.loads(p.read_text()) for p in workplace.glob(f"{action}/cells/*/result.json")]
        chains[action] = {s: {r["iteration"]: r for r in results if r["seed"] == s} for s in range(4)}
        critical = [s for s, chain in chains[action].items() if chain[1]["alert"]["level"] == "critical"]
        assert critical, "no alert: the test would say nothing"
        if action == "halt":
            assert f"{len(critical)} halted" in said
        for seed, chain in chains[action].items():
            assert chain[1]["mixture"]["synthetic"] == 32
            if action == "halt":
                assert (2 in chain) == (seed not in critical)
            else:
                assert chain[2]["mixture"]["synthetic"] == (16 if seed in critical else 32)


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) for how in ("parquet", "weights", "checkpoint", "log")]
)
def test_no_disk_space_for_any_file(
    in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Libraries say a full disk in words of their own; all of them end in ours, and the same command goes on."""
    import pandas as pd
    import torch
    from safetensors import SafetensorError

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(error: Exception) -> Callable[..., None]:
        def write(*args: object, **kwargs: object) -> None:
            raise error

        return write

    with monkeypatch.context() as patch:
        if how == "parquet":
            patch.setattr(pd.DataFrame, "to_parquet", fail(full))
        elif how == "weights":
            said = "Error while serializing: I/O error: No space left on device (os error 28)"
            patch.setattr("safetensors.torch.save_file", fail(SafetensorError(said)))
        elif how == "checkpoint":
            patch.setattr(torch, "save", fail(full))
        else:
            patch.setattr("synthmix.callbacks.jsonl.append_jsonl", fail(full))
        status, said = in_process("run", "tiny", "iterations=0")
    assert status == 2, said
    assert "no space left on the disk. Nothing that was finished is lost: make room" in " ".join(said.split())
    status, again = in_process("run", "tiny", "iterations=0")
    assert status == 0 and "1 failed before and tried again" in again


@pytest.mark.slow
def test_a_worker_whose_starter_was_killed_leaves_no_failure(workplace: Path, synthmix: Start) -> None:
    """Only the parent is killed: its workers find nobody to report to, stop, and record nothing as failed."""
    process = synthmix("run", "tiny", "workers=2", "training.epochs=400", "seeds=[0,1]")
    deadline = time.monotonic() + 300
    while not list(workplace.glob("runs/cells/*/mixture.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 120
    while list(workplace.glob("runs/cells/*/lease.*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(workplace.glob("runs/cells/*/lease.*")), "a worker still holds its cell"
    assert not list(workplace.glob("runs/cells/*/failure.json"))


@pytest.mark.slow
@pytest.mark.parametrize("init_from", ["previous", "phase0"])
def test_models_that_are_not_kept_are_there_while_they_are_needed(
    in_process: Run, workplace: Path, init_from: str
) -> None:
    words = ("tiny", "store.keep=none", f"mixing.init_from={init_from}", "proportions=[0.5]")
    words += ("evaluation.diversity_samples=40",)  # so that no pool is too short for a child
    assert in_process("run", *words, "iterations=1")[0] == 0
    assert not list(workplace.glob("runs/cells/*/model"))
    plan, store = make_plan(load_study(words[0], [*words[1:], "iterations=2"])), Store("runs")
    assert [store.state(cell, plan) for cell in plan.cells] == {
        "phase0": ["ready", "done", "waiting"],  # the last starts from the first, whose model is made again
        "previous": ["ready", "waiting", "waiting"],
    }[init_from]
    status, said = in_process("run", *words, "iterations=2")
    assert status == 0 and "3 cells, 2 done" in said, said
    assert len(list(workplace.glob("runs/cells/*/result.json"))) == 3
    assert not list(workplace.glob("runs/cells/*/model"))


def test_a_frozen_plan_runs_from_anywhere_and_only_as_it_was_frozen(
    in_process: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_process("plan", "tiny")[0] == 0
    plan = workplace / "runs/studies/tiny/plan.json"
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(workplace / "configs", elsewhere / "configs")
    monkeypatch.chdir(elsewhere)
    assert in_process("cell", str(plan), "--index", "0")[0] == 0
    assert len(list(workplace.glob("runs/cells/*/result.json"))) == 1 and not (elsewhere / "runs").exists()
    torn = elsewhere / "plan.json"
    shutil.copy(plan.parent / "study.yaml", elsewhere)
    for content in ("{", "[]", '{"cells": 3}'):
        torn.write_text(content)
        status, said = in_process("cell", str(torn), "--index", "0")
        assert status == 2 and "not a plan (" in said, said
    model = elsewhere / "configs/model/tiny.yaml"
    model.write_text(model.read_text() + "revision: other\n")
    status, said = in_process("cell", str(plan), "--index", "1")
    assert status == 2 and "the cells that were frozen are not those that its settings give here" in said


def test_examples_that_never_fit_are_said_before_anything_is_run(workplace: Path, in_process: Run) -> None:
    """Without any of them, fewshot would silently be full."""
    model = workplace / "configs/model/tiny.yaml"
    model.write_text(model.read_text().replace("context: 256", "context: 128"))
    status, said = in_process("run", "tiny", "generation.mode=fewshot")
    assert status == 2 and "the context of tiny (128 tokens) leaves no room for an example beside a document of" in said
    assert not (workplace / "runs").exists()
