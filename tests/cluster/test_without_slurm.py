"""What a machine without SLURM can still do, and how it says what it cannot."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from synthmix.cluster.arrays import Array
from synthmix.cluster.submissions import new_submission
from synthmix.study.store import Store

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH without sbatch."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_no_sbatch_on_path(in_process: Run, workplace: Path) -> None:
    status, said = in_process("submit", "tiny")
    assert status == 2
    assert "scontrol: no such command on PATH; expected a machine that submits to SLURM" in said
    assert not (workplace / "runs").exists(), "nothing is written"


def test_a_preview_needs_no_slurm(in_process: Run, workplace: Path) -> None:
    status, said = in_process("submit", "tiny", "--dry-run")
    assert status == 0, said
    commands = [line for line in said.splitlines() if line.startswith("sbatch")]
    assert [f"tiny.l{level}.cpu" in line for level, line in enumerate(commands)] == [True] * 3
    assert "--dependency=afterany:1:2" in commands[2] and "--dependency" not in commands[0]
    assert not (workplace / "runs").exists()


def test_status_of_a_study_that_was_never_submitted(in_process: Run) -> None:
    in_process("plan", "tiny")
    status, said = in_process("status", "tiny")
    assert status == 0 and "study tiny: 1 ready, 4 waiting" in said


def test_a_queue_that_cannot_be_asked_is_said(in_process: Run, workplace: Path) -> None:
    """Looked at from elsewhere, what was submitted is not shown as if it had never been."""
    in_process("plan", "tiny")
    (name, *_) = [cell["name"] for cell in json.loads((workplace / "runs/studies/tiny/plan.json").read_text())["cells"]]
    submission = new_submission(Store(workplace / "runs"), "tiny")
    submission.arrays = [Array("l0.cpu", 0, "cpu", [name], job="12")]
    submission.save()
    status, said = in_process("status", "tiny")
    assert status == 0 and "1 ready, 4 waiting" in said
    assert "What is queued is not known here, and not shown as queued: squeue: no such command" in said


def test_cancel_without_a_submission(in_process: Run) -> None:
    in_process("plan", "tiny")
    status, said = in_process("cancel", "tiny")
    assert status == 0 and "no job of it is queued" in said


def test_a_plan_of_another_code_version(in_process: Run, workplace: Path) -> None:
    in_process("plan", "tiny")
    path = workplace / "runs/studies/tiny/plan.json"
    plan = json.loads(path.read_text())
    plan["code"] = 1
    plan["cells"][0]["hash"] = "0" * 32
    path.write_text(json.dumps(plan))
    status, said = in_process("cell", str(path), "--index", "0")
    assert status == 2 and "the plan was frozen by code version 1" in said and "this is code version" in said


def test_a_damaged_record_of_a_submission(in_process: Run, workplace: Path) -> None:
    in_process("plan", "tiny")
    folder = workplace / "runs/studies/tiny/submissions/001"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text('{"study": "tiny", "arr')
    status, said = in_process("status", "tiny")
    assert status == 2 and "submissions/001/submission.json: not a submission's record" in said


@pytest.mark.slow
def test_a_parent_that_was_deleted(in_process: Run, workplace: Path) -> None:
    """The child says which cell is missing, and a sweep or a run computes it again."""
    in_process("plan", "tiny", "iterations=1", "proportions=[0]")
    path = workplace / "runs/studies/tiny/plan.json"
    assert in_process("cell", str(path), "--index", "0")[0] == 0
    (parent,) = (workplace / "runs/cells").glob("*baseline*")
    shutil.rmtree(parent)
    status, said = in_process("cell", str(path), "--index", "1", "--wait")
    assert status == 2 and f"waiting: {parent.name} is not done; nobody runs it" in said
    status, said = in_process("submit", "tiny", "iterations=1", "proportions=[0]", "--dry-run")
    assert "2 cells; 0 cannot run" in said


def test_a_store_that_is_read_only(workplace: Path, in_process: Run) -> None:
    """Looking works; what would write says which folder it cannot write, and changes nothing."""
    in_process("plan", "tiny")

    def read_only(*words: str) -> tuple[int, str]:
        command = shlex.join([sys.executable, "-m", "synthmix.cli", *words])
        script = f"mount --bind runs runs && mount -o remount,ro,bind runs && exec {command}"
        done = subprocess.run(
            ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script], capture_output=True, text=True, check=False,
            env=os.environ | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip(f"needs the right to mount: {done.stderr}")
        return done.returncode, done.stdout + done.stderr

    status, said = read_only("plan", "tiny", "seeds=[0, 1]")
    assert status == 2 and "the file system is read-only" in said and "Traceback" not in said
    status, said = read_only("run", "tiny")
    assert status == 2 and "the file system is read-only" in said and "Traceback" not in said
    status, said = read_only("status", "tiny")
    assert status == 0 and "1 ready, 4 waiting" in said
