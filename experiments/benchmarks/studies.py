"""How long the nano suite takes: one default cell of each task, and the whole of quickstart.

    python experiments/benchmarks/studies.py [--repeats 5] [--quickstart 5]

A default cell trains on 1,000 examples for three epochs, evaluates 500 test items (and 200 for validation) and writes
500 samples, half of the training set, as many as a child at 50 % needs. Its seconds are those of its own ``timings.json``,
as many seeds as repeats, two cells at once with a thread each (the studies' own setting). Quickstart is timed from
outside, with its start, its report and everything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import summary, write

#: Waiting threads must not spin; nothing is sent anywhere.
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "WANDB_MODE": "offline"}


def run(folder: Path, *words: str) -> float:
    """Wall-clock seconds of ``synthmix run WORDS`` with a store in ``folder``."""
    command = [sys.executable, "-m", "synthmix.cli", "run", *words, f"store.root={folder}/runs"]
    started = time.perf_counter()
    subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def default_cells(repeats: int) -> dict[str, Any]:
    """Seconds of the baselines of nano-effect by task, and what they were."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        seeds = f"seeds={list(range(repeats))}"
        run(root, "nano-effect", seeds, "iterations=0", "proportions=[0]", "evaluation.diversity_samples=500")
        results = [json.loads(path.read_text()) for path in sorted(root.glob("runs/cells/*/result.json"))]
    found: dict[str, Any] = {}
    for task in sorted({result["task"] for result in results}):
        cells = [r for r in results if r["task"] == task]
        stages = {stage: [c["timings"][stage] for c in cells] for stage in ("train", "evaluate", "generate", "total")}
        found[task] = {stage: summary(seconds) for stage, seconds in stages.items()}
        found[task]["samples"] = cells[0]["pool"]["kept"]
        print(f"{task}: {found[task]['total']['median_s']:.1f} s a cell, median of {len(cells)}", flush=True)
    return found


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="seeds of each default cell")
    parser.add_argument("--quickstart", type=int, default=5, help="runs of quickstart; 0: none")
    given = parser.parse_args()
    cells = default_cells(given.repeats)
    seconds = []
    for _ in range(given.quickstart):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(run(Path(folder), "quickstart"))
        print(f"quickstart: {seconds[-1]:.0f} s", flush=True)
    payload: dict[str, Any] = {"default_cell": cells}
    print(write("studies", payload | ({"quickstart": summary(seconds)} if seconds else {})))


if __name__ == "__main__":
    main()
