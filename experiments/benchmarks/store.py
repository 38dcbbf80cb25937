"""What the store costs: planning 100,000 cells, and everything around a cell but its work.

    python experiments/benchmarks/store.py

The second figure walks a study whose cells do nothing but leave a result: leases, states, writing and tidying remain.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from _bench import machine, write

from synthmix.config import load_study
from synthmix.files import write_json
from synthmix.study.cells import Cell, Plan, make_plan
from synthmix.study.reporting import LogReporter
from synthmix.study.store import Store
from synthmix.study.walk import walk

WORDS = [
    "tasks=[nano-math]",
    "grids=[]",
    "iterations=3",
    "proportions=[0,.1,.2,.3,.4,.5,.6,.7,.8,.9]",
    "name=benchmark",
]


def plan_of(seeds: int) -> Plan:
    return make_plan(load_study("quickstart", [*WORDS, f"seeds={list(range(seeds))}"]))


def seconds_to_plan(seeds: int) -> tuple[int, float]:
    """Cells, and seconds from the configuration to the frozen plan on disk."""
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        plan = plan_of(seeds)
        Store(root).freeze(plan)
        return len(plan.cells), time.perf_counter() - started


def seconds_a_cell(seeds: int) -> tuple[int, float]:
    """Cells, and seconds that the store takes for each when their work takes none."""
    with tempfile.TemporaryDirectory() as root:
        plan, store = plan_of(seeds), Store(root)
        store.freeze(plan)

        def nothing(cell: Cell) -> None:
            folder = store.folder(cell)
            write_json(folder / "pool.json", {"kept": 10**6})
            (folder / "model").mkdir()
            (folder / "model/config.json").write_text("{}")
            write_json(folder / "result.json", {"alert": {"halted": False, "factor": 1.0}})

        started = time.perf_counter()
        counted = walk(plan, store, nothing, LogReporter())
        assert counted["done"] == len(plan.cells)
        return len(plan.cells), (time.perf_counter() - started) / len(plan.cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    planned = [seconds_to_plan(3300) for _ in range(runs)]
    walked = [seconds_a_cell(10) for _ in range(runs)]
    result = {
        "plan": {"cells": planned[0][0], "seconds": [s for _, s in planned], "median_s": median(s for _, s in planned)},
        "store": {"cells": walked[0][0], "s_a_cell": [s for _, s in walked], "median_s": median(s for _, s in walked)},
        "machine": machine(),
    }
    path = write("store", result)
    print(f"planning {planned[0][0]} cells: {result['plan']['median_s']:.1f} s")
    print(f"store: {1000 * result['store']['median_s']:.1f} ms a cell, over {walked[0][0]} cells")
    print(f"written: {Path(str(path))}")


if __name__ == "__main__":
    main()
