"""Failures while a study runs: said in words, nothing lost, exit status 2."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str]]


def output_of(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    return output


def test_a_pool_smaller_than_its_share(in_process: Run, workplace: Path) -> None:
    """A random model writes nothing well-formed, so the cap on tries ends its pool."""
    words = ("tiny", "generation.filter=wellformed", "generation.max_tries=1", "iterations=1")
    words += ("evaluation.diversity_samples=0", "proportions=[0.5]")
    status, said = in_process("run", *words)
    assert status == 2, said
    assert "are needed; raise generation.max_tries or lower the proportion" in said
    assert "1 failed, 1 blocked" in said
    status, said = in_process("status", *words)
    assert status == 0 and "blocked" in said and "the pool holds 0 examples" in said


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


def test_ctrl_c(synthmix: Start, workplace: Path) -> None:
    process = synthmix("run", "tiny", "training.epochs=2000", "iterations=0")
    deadline = time.monotonic() + 60
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
    """Thresholds below any rise make every cell critical, so both actions can be seen."""
    alarm = ("monitoring.warning=0", "monitoring.critical=0", "training.learning_rate=0.03")
    halted = output_of(synthmix("run", "tiny", "proportions=[0.5]", "name=halt", "monitoring.action=halt", *alarm))
    results = [json.loads(p.read_text()) for p in workplace.glob("runs/cells/*/result.json")]
    critical = {r["iteration"]: r["alert"]["level"] == "critical" for r in results if r["mode"] != "baseline"}
    assert ("1 halted" in halted) == critical[1]
    output_of(synthmix("run", "tiny", "proportions=[0.5]", "name=reduce", "monitoring.action=reduce", *alarm))
    chain = {
        r["iteration"]: r
        for p in workplace.glob("runs/cells/*/result.json")
        if (r := json.loads(p.read_text()))["hash"] not in {x["hash"] for x in results}
    }
    expected = 16 if chain[1]["alert"]["level"] == "critical" else 32
    assert chain[1]["mixture"]["synthetic"] == 32 and chain[2]["mixture"]["synthetic"] == expected
