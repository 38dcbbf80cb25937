"""What a sweep on SLURM costs beyond its cells: submitting, looking, the time between levels, two tasks at once.

    tests/slurm/cluster.sh start && python experiments/benchmarks/sweep.py [--runs 3] [--only between_levels]

Needs a SLURM whose partition ``main`` has two free slots, on this machine. Measured:

- submit: ``slurm/sweep.sh`` of 1,000 cells in two levels (held, so that none starts), whole command;
- status: ``synthmix status`` of those 1,000 queued cells, and of 1,000 finished ones, whole command;
- between levels: from the last result of a level to the first file of the next level's cell, beside the same for
  two empty jobs, which is SLURM's own share;
- two tasks: a study of nano cells, one thread each, by one array task at a time against two; efficiency = T1 / (2 T2).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import write

from synthmix.study import frozen
from synthmix.study.store import Store

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"SYNTHMIX_PYTHON": sys.executable, "WANDB_MODE": "disabled", "OMP_WAIT_POLICY": "passive"}
STUDY = """\
tasks: [nano-math]
models: [nano-0.3m]
proportions: [0.0]
iterations: 1
hardware: node
data: {train_examples: 500, validation_examples: 64, test_examples: 200}
evaluation: {diversity_samples: 100}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="one of the measurements, recorded by itself")
    runs, only = (options := parser.parse_args()).runs, options.only
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        bench = Bench(Path(folder))
        measured = {
            "submit_1000": lambda i: bench.submit(f"s{i}"),
            "status_1000_queued": lambda i: bench.status("s0"),
            "status_1000_done": lambda i: bench.status_done(),
            "between_levels": lambda i: bench.between_levels(f"l{i}"),
            "two_tasks": lambda i: bench.two_tasks(f"t{i}"),
        }
        found = {}
        for name, once in measured.items():
            if only is not None and name != only:
                continue
            found[name] = [once(i) for i in range(runs)]
            print(name, found[name], flush=True)
    write("sweep" if only is None else f"sweep-{only}", found)


class Bench:
    """A workplace with a profile ``node`` and the study above."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for kind in ("study", "hardware"):
            (root / "configs" / kind).mkdir(parents=True)
        (root / "configs/study/b.yaml").write_text(STUDY)
        self.profile()

    def profile(self, **asked: Any) -> None:
        slurm = {"partition": "main", "memory": "600M"} | asked
        text = f"accelerator: cpu\nmicro_batch: 8\nthreads: 1\nslurm: {json.dumps(slurm)}\n"
        (self.root / "configs/hardware/node.yaml").write_text(text)

    def run(self, *words: str) -> float:
        """Seconds that a command takes."""
        started = time.perf_counter()
        subprocess.run(words, cwd=self.root, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    def synthmix(self, *words: str) -> float:
        return self.run(sys.executable, "-m", "synthmix.cli", *words)

    def sweep(self, *words: str) -> float:
        return self.run("bash", str(PROJECT / "slurm/sweep.sh"), *words)

    def wait(self) -> None:
        """Until the queue is empty."""
        while subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout.strip():
            time.sleep(0.05)

    def submit(self, root: str) -> float:
        self.profile(sbatch=["--hold"])
        return self.sweep("b", f"seeds={list(range(500))}", f"store.root={root}")

    def status(self, root: str) -> float:
        return self.synthmix("status", "b", f"seeds={list(range(500))}", f"store.root={root}")

    def status_done(self) -> float:
        """The store of the first submission, with a result and a pool in each cell's folder."""
        store = Store(self.root / "s0")
        plan = frozen.read(store.study_folder("b") / "plan.json")
        pool = {"kept": 10**6, "capped": False, "wanted": 10**6}
        for cell in plan.cells:
            store.folder(cell).mkdir(parents=True, exist_ok=True)
            (store.folder(cell) / "result.json").write_text(json.dumps({"alert": {"halted": False}}))
            (store.folder(cell) / "pool.json").write_text(json.dumps(pool))
        return self.status("s0")

    def between_levels(self, root: str) -> dict[str, float]:
        """One chain of two levels."""
        self._clear()
        self.sweep("b", "seeds=[0]", f"store.root={root}")
        self.wait()
        plan = frozen.read(self.root / root / "studies/b/plan.json")
        first, second = (Store(self.root / root).folder(cell) for cell in plan.cells)
        ours = (second / "config.yaml").stat().st_mtime - (first / "result.json").stat().st_mtime
        return {"ours": ours, "slurm": self._empty_jobs()}

    def _empty_jobs(self) -> float:
        """Seconds from the end of an empty job to the start of one that depends on it."""
        first, second = self.root / "first", self.root / "second"
        options = ["sbatch", "--parsable", "--output=/dev/null", "--mem=100M"]
        job = subprocess.run([*options, f"--wrap=sleep 1; touch {first}"], capture_output=True, text=True, check=True)
        after = f"--dependency=afterany:{job.stdout.strip()}"
        subprocess.run([*options, after, f"--wrap=touch {second}"], check=True, stdout=subprocess.DEVNULL)
        self.wait()
        return second.stat().st_mtime - first.stat().st_mtime

    def two_tasks(self, root: str) -> dict[str, float]:
        """Six baselines by one task at a time, then by two."""
        self._clear()
        seconds = {}
        for at_once in (1, 2):
            self.profile(max_tasks=at_once)
            where = f"{root}-{at_once}"
            started = time.perf_counter()
            self.sweep("b", "iterations=0", f"seeds={list(range(6))}", f"store.root={where}")
            self.wait()
            seconds[f"seconds_{at_once}"] = time.perf_counter() - started
            shutil.rmtree(self.root / where)
        return seconds | {"efficiency": seconds["seconds_1"] / (2 * seconds["seconds_2"])}

    def _clear(self) -> None:
        for level in (0, 1):
            subprocess.run(["scancel", f"--name=b.l{level}.node"], check=True)
        self.wait()
        self.profile()


if __name__ == "__main__":
    main()
