"""A real SLURM on this machine (``cluster.sh``), and a workplace whose studies run on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from synthmix.cluster import queue
from synthmix.cluster.status import CellState, study_state
from synthmix.cluster.submissions import submissions
from synthmix.study import frozen
from synthmix.study.cells import Cell, Plan
from synthmix.study.store import Store

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
SWEEP = PROJECT / "slurm" / "sweep.sh"
#: One slot of the node, and so little memory that eight cells fit beside each other as far as SLURM knows.
PROFILE = """\
accelerator: cpu
micro_batch: 8
slurm: {partition: main, memory: 600M, warn_s: 10}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The test cluster's daemons, started unless they run already, and then left running."""
    there = shutil.which("scontrol") is not None
    words = ["scontrol", "show", "config"] if there else ["false"]
    config = subprocess.run(words, capture_output=True, text=True, check=False)
    up = config.returncode == 0
    if up and not re.search(r"^ClusterName\s*= synthmix-test$", config.stdout, re.MULTILINE):
        pytest.skip("this machine belongs to a SLURM that is not the test cluster")
    if not up:
        subprocess.run([HERE / "cluster.sh", "start"], check=True, timeout=900)
    yield
    if not up:
        subprocess.run([HERE / "cluster.sh", "stop"], check=True, timeout=120)


@dataclass
class Site:
    """The workplace of a user of the cluster."""

    root: Path

    def start(self, *words: str, by: Sequence[str] = ("bash",)) -> subprocess.Popen[str]:
        """``bash slurm/sweep.sh …``, or ``by`` something else, under way."""
        environment = os.environ | {"SYNTHMIX_PYTHON": sys.executable}
        return subprocess.Popen(
            [*by, str(SWEEP), *words], cwd=self.root, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def sweep(self, *words: str, status: int = 0) -> str:
        """``bash slurm/sweep.sh …``, to its end; what it says."""
        process = self.start(*words)
        said, _ = process.communicate()
        assert process.returncode == status, said
        return said

    def plan(self, study: str = "tiny") -> tuple[Plan, Store]:
        store = Store(self.root / "runs")
        return frozen.read(store.study_folder(study) / "plan.json"), store

    def states(self, study: str = "tiny") -> list[CellState]:
        return study_state(*self.plan(study))

    def cell(self, study: str = "tiny", index: int = 0) -> tuple[Cell, Path]:
        plan, store = self.plan(study)
        return plan.cells[index], store.folder(plan.cells[index])

    def tasks(self) -> list[queue.Task]:
        """What this site has queued or running, of any study."""
        jobs = [job for one in submissions(Store(self.root / "runs")) for job in one.jobs]
        return [task for task in queue.tasks(jobs).values() if task.is_alive]

    @staticmethod
    def wait_for(found: Callable[[], object], timeout_s: float = 300.0) -> None:
        """Looks until ``found`` is true."""
        started = time.monotonic()
        while not found():
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(f"not within {timeout_s:g} s; queued:\n{queue.command(['squeue', '--array'])}")
            time.sleep(0.1)

    def settle(self, study: str = "tiny", timeout_s: float = 900.0) -> dict[str, str]:
        """Waits until nothing of the study is queued or running; the states by cell."""
        self.wait_for(
            lambda: not any(one.state in ("running", "queued") for one in self.states(study)) and not self.tasks(),
            timeout_s,
        )
        return {one.cell.name: one.state for one in self.states(study)}

    def synthmix(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``synthmix …``, to its end."""
        command = [sys.executable, "-m", "synthmix.cli", *words]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)

    def profile(self, **changed: str) -> None:
        """Changes words of the profile ``node``."""
        path = self.root / "configs/hardware/node.yaml"
        text = path.read_text()
        for old, new in changed.items():
            text = text.replace(old, new)
        path.write_text(text)

    def log(self, study: str = "tiny") -> str:
        """Everything that the study's tasks have said."""
        return "\n".join(
            path.read_text() for path in sorted(self.root.glob(f"runs/studies/{study}/submissions/*/logs/*"))
        )


@pytest.fixture
def site(cluster: None, workplace: Path) -> Iterator[Site]:
    """A workplace with a profile ``node``; what a test leaves in the queue is cancelled."""
    (workplace / "configs/hardware").mkdir()
    (workplace / "configs/hardware/node.yaml").write_text(PROFILE)
    with (workplace / "configs/study/tiny.yaml").open("a") as file:
        file.write("hardware: node\n")
    site = Site(workplace)
    yield site
    queue.cancel(sorted({task.job for task in site.tasks()}))
    site.wait_for(lambda: not site.tasks())
