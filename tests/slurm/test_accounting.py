"""What becomes of a task once the queue has forgotten it: accounting has the last word.

Needs a cluster with accounting: SLURM_TEST_ACCT=1 tests/slurm/cluster.sh start
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthmix.cluster import queue


@pytest.fixture
def forgetful(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A queue that forgets at once: squeue answers as it does for jobs that are older than MinJobAge."""
    if subprocess.run(["sacct", "--noheader"], capture_output=True, check=False).returncode:
        pytest.skip("the cluster has no accounting: SLURM_TEST_ACCT=1 tests/slurm/cluster.sh start")
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    yield


def _ended(*options: str, wrap: str) -> str:
    """An array of one task that has ended, in accounting too."""
    words = ["sbatch", "--parsable", "--array=3", "--output=/dev/null", "--mem=100M", *options, f"--wrap={wrap}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _state(job: str) -> str | None:
    for _ in range(100):
        task = queue.tasks([job]).get((job, 3))
        if task is not None and task.state not in ("PENDING", "RUNNING", "COMPLETING"):
            return task.state
        time.sleep(0.2)
    return None


def test_accounting_knows_how_a_forgotten_task_ended(forgetful: None) -> None:
    done, failed, cancelled = _ended(wrap="true"), _ended(wrap="exit 3"), _ended(wrap="sleep 600")
    for _ in range(100):
        if queue.tasks([cancelled]):
            break
        time.sleep(0.2)
    queue.cancel([cancelled])
    assert (_state(done), _state(failed), _state(cancelled)) == ("COMPLETED", "FAILED", "CANCELLED")
