"""What the analysis costs: the report of 75, 150 and 300 cells, loading 10,000 cells, and the record of 190.

    OMP_WAIT_POLICY=passive python experiments/benchmarks/report.py [--runs 3]

The stores are simulated, in the form of a real one: four tasks, three seeds, six shares, four iterations (25 cells a
chain of one seed), 1,000 test and 200 validation items a cell under every confidence estimator, 1,000 resamples. One
task, two and four make 75, 150 and 300 cells, so that growth shows. Every figure is that of a fresh process, imports
included: its wall clock, its CPU seconds (all threads), and its largest resident set. The 10,000 cells are 100 seeds
whose item tables are links to those of 100 cells: their numbers mean nothing, reading them takes what it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from _bench import write

from synthmix import keys
from synthmix.evaluation.summary import summarize

TASKS = {
    "nano-math": ("Math", "accuracy"),
    "nano-facts": ("Factual", "f1"),
    "nano-code": ("Code", "pass@1"),
    "nano-reading": ("Reading", "f1"),
}
SHARES, ITERATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), 4
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
MIB = 2**20
#: What a child process does, given the store and a folder to write to.
JOBS = {
    "report": "from synthmix.analysis import load_study, write_report\n"
    "write_report(load_study('simulated', STORE), OUT)",
    "cells": "from synthmix.analysis import load_study\n"
    "study = load_study('simulated', STORE)\nassert len(study.done) == len(study.cells)",
    "items": "from synthmix.analysis import load_study\nfrom synthmix.analysis.conditions import ITEM_COLUMNS\n"
    "assert len(load_study('simulated', STORE).read_items(ITEM_COLUMNS, split='test'))",
    "all_items": "from synthmix.analysis import load_study\nassert len(load_study('simulated', STORE).items)",
    "verify": "from synthmix.analysis import load_study\nassert not load_study('simulated', STORE).verify().notes",
    "write_record": "from synthmix.analysis import load_study\nfrom synthmix.analysis.record import write_record\n"
    "write_record(load_study('simulated', STORE), OUT)",
}


@dataclass(frozen=True)
class Design:
    """What is simulated; scores fall by ``effect`` times share and iteration.

    ``distinct`` cells have items of their own, the others are links to these; ``most`` cells are finished, at most.
    """

    tasks: Sequence[str]
    seeds: int = 3
    tests: int = 1000
    validations: int = 200
    effect: float = 0.1
    distinct: int | None = None
    most: int | None = None


def cells_of(design: Design) -> Iterator[dict[str, Any]]:
    """The cells of a study as a plan lists them: a baseline a seed, then its chains."""
    for task in design.tasks:
        for seed in range(design.seeds):
            baseline = _cell(task, "baseline", 0.0, 0, seed, None)
            yield baseline
            for share in SHARES:
                parent = baseline["hash"]
                for iteration in range(1, ITERATIONS + 1):
                    cell = _cell(task, "replace", share, iteration, seed, parent)
                    parent = cell["hash"]
                    yield cell


def _cell(task: str, mode: str, share: float, iteration: int, seed: int, parent: str | None) -> dict[str, Any]:
    digest = keys.digest("benchmark", task, mode, share, iteration, seed, length=32)
    arm = mode if mode == "baseline" else f"{mode}-{100 * share:g}"
    return {
        "name": f"nano-0.9m.{task}.{arm}.it{iteration}.s{seed}-{digest[:8]}", "hash": digest, "model": "nano-0.9m",
        "task": task, "mode": mode, "proportion": share, "iteration": iteration, "seed": seed, "parent": parent,
        "parameters": 943_440, "level": iteration,
    }  # fmt: skip


def items_of(cell: dict[str, Any], split: str, n: int, effect: float) -> pd.DataFrame:
    """Item rows with every column of a real table: difficulty is the item's, some noise the cell's."""
    item, own = keys.generator("item", cell["task"], split), keys.generator("cell", cell["hash"], split)
    difficulty, noise = item.uniform(size=n), own.uniform(size=n)
    truth = 0.7 - effect * cell["proportion"] * cell["iteration"] + 0.02 * own.normal()
    correct = 0.7 * difficulty + 0.3 * noise < truth
    partial = TASKS[cell["task"]][1] == "f1"
    score = np.where(correct, 1.0, own.choice([0.0, 0.25, 0.4, 0.5, 2 / 3], size=n) if partial else 0.0)
    mean = np.clip(0.95 - 0.5 * difficulty + 0.1 * own.normal(size=n), 0.02, 1.0)
    tokens = item.integers(4, 40, size=n)
    agreeing = own.binomial(4, mean)
    numbers = item.integers(2, 900, size=n)
    groups = (
        {"group_answerable": np.where(np.arange(n) % 3 == 0, "no", "yes")} if cell["task"] == "nano-reading" else {}
    )
    return pd.DataFrame(
        {
            "split": split, "item": [f"{split}-{i:05d}" for i in range(n)], "gold": numbers.astype(str),
            "prediction": np.where(correct, numbers, numbers + 1).astype(str), "prediction_flexible": numbers.astype(str),
            "completion": [f" Ada has {a} figs and buys {b} more.\n#### {a + b}" for a, b in zip(numbers, tokens, strict=True)],
            "score": score, "score_flexible": score, "correct": score >= 0.5,
            "invalid": np.where(noise > 0.97, "no marker", ""), "shortened": False, "stop": "eos", "tokens": tokens,
            "logprob": np.log(mean) * tokens, "gold_logprob": np.log(mean) * tokens - noise, "gold_tokens": tokens,
            "confidence": mean, "confidence_mean": mean, "confidence_sum": mean**tokens,
            "confidence_answer": np.where(noise > 0.97, np.nan, np.sqrt(mean)), "confidence_agreement": agreeing / 4,
            "confidence_p_true": own.uniform(size=n), "samples": 4, "samples_correct": own.binomial(4, 0.9 * mean),
        } | groups
    )  # fmt: skip


def result_of(cell: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """``result.json`` of a cell, with the summary that a real cell computes of its rows."""
    known = frame.astype(object).where(frame.notna(), None)
    test, validation = (summarize(known[known.split == s].to_dict("records"), 10) for s in ("test", "validation"))  # type: ignore[arg-type]
    family, metric = TASKS[cell["task"]]
    pt = cell["proportion"] * cell["iteration"]
    diversity = {"n": 200, "self_bleu": 0.3 + 0.1 * pt, "diversity": 0.7 - 0.1 * pt, "distinct_1": 0.1,
                 "distinct_2": 0.35 - 0.05 * pt, "distinct_3": 0.5, "unique_fraction": 0.98, "entropy": 8.1,
                 "tail_mass": 0.2 - 0.02 * pt}  # fmt: skip
    pool = {"tries": 500, "kept": 500, "malformed": 31, "wellformed_rate": 0.94, "copies_train": 3, "copies_test": 1,
            "overlap_train": 20, "overlap_test": 4, "tokens": 9000, "filter_tokens": 0, "tokens_per_kept": 18.0,
            "capped": False, "wanted": 500, "dropped": {}, "reasons": {"no marker": 31},
            "levers": {"quality_wellformed": 0.94, "complexity_length": 30.0, "diversity_ead": 0.5}}  # fmt: skip
    kept = {key: value for key, value in cell.items() if key != "level"}
    return kept | {
        "family": family, "metric": metric, "test": test, "validation": validation, "probes": {},
        "data": {"note": "", "excluded": {}}, "diversity": diversity, "pool": pool,
        "mixture": {"external": round(1000 * (1 - cell["proportion"])), "synthetic": round(1000 * cell["proportion"]),
                    "malformed": 9, "proportion_realised": cell["proportion"]},
        "train": {"loss": 1.2, "tokens": 48_000, "steps": 96, "seconds": 11.0, "tokens_per_second": 4363.0},
        "alert": {"level": "none", "ece_rise": 0.1 * pt, "factor": 1.0, "halted": False},
        "timings": {"mix": 0.2, "train": 11.0, "evaluate": 3.5, "generate": 4.25, "total": 18.95},
        "versions": {"synthmix": "0.1.0", "python": "3.11", "torch": "2"}, "finished": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip


def write_store(root: Path, design: Design) -> int:
    """Writes the store of a design and returns how many cells of it are finished."""
    planned = list(cells_of(design))
    finished = planned[: design.most]
    summaries: list[dict[str, Any]] = []
    for position, cell in enumerate(finished):
        folder = root / "cells" / cell["name"]
        folder.mkdir(parents=True)
        original = position % (design.distinct or len(finished))
        if original == position:
            sizes = (("test", design.tests), ("validation", design.validations))
            frame = pd.concat([items_of(cell, split, n, design.effect) for split, n in sizes], ignore_index=True)
            frame.to_parquet(folder / "items.parquet", index=False)
            summaries.append(result_of(cell, frame))
        else:
            os.link(root / "cells" / finished[original]["name"] / "items.parquet", folder / "items.parquet")
        (folder / "result.json").write_text(json.dumps(summaries[original] | cell, indent=1))
        texts = [
            {"source": s, "text": f"Ada has {i + position} figs."} for s in ("external", "synthetic") for i in range(5)
        ]
        (folder / "examples.json").write_text(json.dumps(texts))
        (folder / "metrics.jsonl").write_text('{"time": 1.0, "phase": "train", "iteration": 0, "step": 9}\n' * 20)
    study = root / "studies" / "simulated"
    study.mkdir(parents=True)
    (study / "plan.json").write_text(json.dumps({"study": "simulated", "code": 3, "cells": planned}))
    (study / "study.yaml").write_text(json.dumps({"name": "simulated", "evaluation": {"bins": 10}}))
    return len(finished)


def child(job: str, store: Path, out: Path) -> dict[str, float]:
    """What one job costs in a process of its own: seconds, CPU seconds, and its largest resident set in MiB."""
    program = (
        f"STORE, OUT = {str(store)!r}, {str(out)!r}\n{JOBS[job]}\n"
        "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_s": cpu, "peak_mib": int(done.stdout.split()[-1]) * 1024 / MIB}


def measured(job: str, store: Path, out: Path, runs: int) -> dict[str, Any]:
    taken = [child(job, store, out) for _ in range(runs)]
    row: dict[str, Any] = {f"median_{key}": median(run[key] for run in taken) for key in taken[0]} | {"runs": taken}
    print(
        f"{job}: {row['median_seconds']:.1f} s (CPU {row['median_cpu_s']:.1f} s), {row['median_peak_mib']:.0f} MiB",
        flush=True,
    )
    return row


def reports(runs: int) -> list[dict[str, Any]]:
    rows = []
    for tasks in (1, 2, 4):
        with tempfile.TemporaryDirectory() as name:
            cells = write_store(Path(name), Design(list(TASKS)[:tasks]))
            print(f"{cells} cells, ", end="")
            rows.append({"cells": cells} | measured("report", Path(name), Path(name) / "report", runs))
    return rows


def loading(runs: int, seeds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        cells = write_store(Path(name), Design(list(TASKS), seeds=seeds, distinct=100))
        print(f"{cells} cells")
        found = {job: measured(job, Path(name), Path(name), runs) for job in ("cells", "items", "verify")}
    return {"cells": cells, "items_a_cell": 1200} | found


def record(runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        root, out = Path(name), Path(name) / "record"
        cells = write_store(root, Design(list(TASKS), most=190))
        print(f"{cells} cells")
        found = {job: measured(job, root, out, runs) for job in ("write_record", "all_items")}
        sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    print(f"record: {sum(sizes.values()) / 1e6:.2f} MB")
    return {"cells": cells, "bytes": sum(sizes.values()), "files": sizes} | found


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="processes behind each figure")
    parser.add_argument("--only", choices=("report", "load", "record"), help="one part, printed and not written")
    parser.add_argument("--seeds", type=int, default=100, help="seeds of the large study, 100 cells each")
    given = parser.parse_args()
    parts = {
        "report": lambda: reports(given.runs),
        "load": lambda: loading(given.runs, given.seeds),
        "record": lambda: record(given.runs),
    }
    payload = {name: part() for name, part in parts.items() if given.only in (None, name)}
    if given.only is None:
        print(write("report", payload | {"load_average": list(os.getloadavg())}))


if __name__ == "__main__":
    main()
