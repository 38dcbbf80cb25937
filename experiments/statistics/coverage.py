"""Are the statistics right? Simulated studies with known truth, judged by every way of getting an error.

    python experiments/statistics/coverage.py [--studies 1000] [--processes 2] [--only intervals families ...]

Writes ``results/coverage.json`` and the tables of README.md between its markers. Draws are keyed: the same figures come
out on any machine and for any number of processes. With fewer ``--studies`` than 1,000 it only prints the tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before numpy is loaded: a process a core, each with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import _curves
import _decisions
import _intervals
import _tables
from _intervals import NOISE, Record

HERE = Path(__file__).parent
FULL = 1000
SEEDS = (2, 3, 5)
#: Families are judged under these kinds of run noise, the last three being uneven.
UNEVEN = tuple(_intervals.STRESSES)[:3]


@dataclass(frozen=True)
class Job:
    """One simulation: ``function(*arguments, studies)``, with a part of the wanted studies where one takes long."""

    section: str
    label: str
    function: Callable[..., Record]
    arguments: tuple[Any, ...]
    part: float = 1.0


def jobs() -> Iterator[Job]:
    for seeds in SEEDS:
        for noise in NOISE:
            yield Job("intervals", f"{seeds} seeds, {noise}", _intervals.grid, (seeds, noise))
    for name in _intervals.STRESSES:
        yield Job("stress", name, _intervals.stress, (name,))
    for level in (0.01, 0.03, 0.1):
        yield Job("edges", f"{level:.0%}", _intervals.edges, (level, 100))
    for seeds in (1, 3):
        for items in (300, 1000):
            for sharpness in (1.0, 1.7):
                kind = "calibrated" if sharpness == 1 else "overconfident"
                label = f"{kind}, {items:,} items, {seeds} seed{'s' * (seeds > 1)}"
                yield Job("ece", label, _intervals.calibration, (seeds, items, sharpness), 0.5)
    for seeds in SEEDS:
        for noise in (*NOISE, *UNEVEN):
            yield Job("families", f"{seeds} seeds, {noise}", _decisions.family_error, (seeds, noise))
    yield from _other_decisions()
    for name in _curves.CURVES:
        for noise in NOISE:
            yield Job("curves", f"{name}; {noise} noise", _curves.curve, (name, noise, 1000), 0.5)


def _other_decisions() -> Iterator[Job]:
    for noise in ("small", "large"):
        yield Job("mixed", noise, _decisions.mixed_family, (noise,), 0.5)
        yield Job("verdicts", f"{noise}, 500 items", _decisions.verdicts, (noise, 500), 0.4)
    yield Job("verdicts", "none, 2,000 items", _decisions.verdicts, ("none", 2000), 0.2)
    for noise in NOISE:
        yield Job("power", noise, _decisions.power, (noise, 500))
        for points in (-0.03, -0.045):
            yield Job("equivalence", f"{100 * points:g} points, {noise}", _decisions.equivalence, (points, 300, noise))
    for noise in ("none", "small"):
        for items in (100, 300, 1000, 3000):
            for points in (0.0, -0.01):
                label = f"{100 * points:g} points, {items} items, {noise}"
                yield Job("safe", label, _decisions.equivalence, (points, items, noise), 0.3)
    for points in (-0.05, 0.0):
        for corrected in (False, True):
            for more, noise in (("items", "none"), ("seeds", "small")):
                label = f"{100 * points:g} points, {'corrected for 25' if corrected else 'at 5 %'}, {more}, {noise}"
                yield Job("planned", label, _decisions.planned, (points, corrected, more, noise), 0.3)
        yield Job("asked", f"{100 * points:g} points, small", _decisions.asked, (points, "small"), 0.3)


def done(job: Job, studies: int) -> tuple[Job, Record]:
    # Corrections of statsmodels collect garbage each time; what is loaded by now is none.
    gc.freeze()
    return job, job.function(*job.arguments, max(2, round(job.part * studies)))


def run(studies: int, processes: int, only: list[str]) -> dict[str, dict[str, Record]]:
    wanted = [job for job in jobs() if not only or job.section in only]
    found: dict[str, dict[str, Record]] = {job.section: {job.label: {} for job in wanted} for job in wanted}
    for section in found:
        found[section] = {job.label: {} for job in wanted if job.section == section}
    with get_context("spawn").Pool(processes) as pool:
        # One task a job, in order, so that a worker is never left with several long ones.
        handed = [pool.apply_async(done, (job, studies)) for job in wanted]
        for number, result in enumerate(handed, 1):
            job, record = result.get()
            found[job.section][job.label] = record
            print(f"{number}/{len(wanted)} {job.section}: {job.label}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=FULL)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    start = time.perf_counter()
    found = run(given.studies, given.processes, given.only)
    tables = _tables.markdown(found)
    print(tables)
    if given.studies < FULL:
        return
    path = HERE / "results" / "coverage.json"
    before = json.loads(path.read_text())["results"] if given.only and path.exists() else {}
    record = {
        "command": "python experiments/statistics/coverage.py",
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "machine": f"{platform.machine()}, {given.processes} processes",
        "versions": {name: version(name) for name in ("numpy", "scipy", "statsmodels")},
        "results": before | found,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    _tables.into(HERE / "README.md", _tables.markdown(record["results"]))


if __name__ == "__main__":
    main()
