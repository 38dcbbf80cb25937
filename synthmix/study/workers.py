"""Several processes on one study. Each walks the plan by itself; this one only shows what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import TaskID

from synthmix.study.cells import Plan
from synthmix.study.reporting import PipeReporter, Reporter, make_progress
from synthmix.study.store import Store


def cores() -> int:
    """CPU cores that this process may use; ``OMP_NUM_THREADS`` (the first level, if it lists several) lowers them."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = (os.environ.get("OMP_NUM_THREADS") or "").split(",")[0].strip()
    return min(available, int(asked)) if asked.isdigit() and int(asked) else available


def threads_per_worker(plan: Plan) -> int:
    """CPU threads of a worker: the hardware profile's, else an equal share of the cores."""
    if os.environ.get("SYNTHMIX_WORKER") == "1":  # the share was computed by the process that started this one
        return cores()
    threads = [profile.threads for profile in plan.hardware.values() if profile.threads]
    return max(threads, default=0) or max(1, cores() // plan.config.workers)


def worker_devices(plan: Plan) -> list[dict[str, str]]:
    """Each worker's ``CUDA_VISIBLE_DEVICES``, where cells run on GPUs: each has one, in turns; else they would share one."""
    if all(profile.accelerator != "gpu" for profile in plan.hardware.values()):
        return [{}] * plan.config.workers
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(i) for i in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": names[i % len(names)]} if names else {} for i in range(plan.config.workers)]


def run_workers(plan: Plan, store: Store, command: Sequence[str], console: Console) -> int:
    """Starts ``workers`` processes of ``command`` and shows their lines and bars until they end.

    Returns:
        the first exit status that is not 0, or 0.
    """
    environment = os.environ | {
        "SYNTHMIX_WORKER": "1",
        "OMP_NUM_THREADS": str(threads_per_worker(plan)),
    }
    log = store.study_folder(plan.config.name) / "workers.log"
    with log.open("a", encoding="utf-8") as errors:
        devices = worker_devices(plan)
        processes = [_start(command, environment | devices[i], errors) for i in range(plan.config.workers)]
        try:
            _Display(plan, store, console).show(processes)
        except KeyboardInterrupt:
            for process in processes:
                process.terminate()
            raise
        finally:
            codes = [process.wait() for process in processes]
    return next((code for code in codes if code), 0)


def _start(command: Sequence[str], environment: dict[str, str], errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
    )


class _Display:
    """One bar for the cells of the study, one for what each worker does now."""

    def __init__(self, plan: Plan, store: Store, console: Console) -> None:
        self.plan, self.store, self.console = plan, store, console
        self.progress = make_progress(console)
        self.lock = threading.Lock()

    def show(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        total = self.progress.add_task("cells", total=len(self.plan.cells), unit="cells", completed=self._done())
        with self.progress:
            readers = [threading.Thread(target=self._read, args=(p, total), daemon=True) for p in processes]
            for reader in readers:
                reader.start()
            for reader in readers:
                while reader.is_alive():  # a join without a timeout would not let Ctrl-C through
                    reader.join(0.2)

    def _done(self) -> int:
        return sum(self.store.is_done(cell) for cell in self.plan.cells)

    def _read(self, process: subprocess.Popen[str], total: TaskID) -> None:
        assert process.stdout is not None
        bar: TaskID | None = None
        for text in process.stdout:
            try:
                message = json.loads(text)
            except json.JSONDecodeError:
                message = {"line": text.rstrip()}
            with self.lock:
                bar = self._handle(message, bar, total)
        if bar is not None:
            self.progress.remove_task(bar)

    def _handle(self, message: dict[str, object], bar: TaskID | None, total: TaskID) -> TaskID | None:
        if "line" in message:
            self.progress.console.print(str(message["line"]), highlight=False, markup=False, soft_wrap=True)
            self.progress.update(total, completed=self._done())
            return bar
        if bar is not None and message["bar"] != self.progress.tasks[self._index(bar)].description:
            self.progress.remove_task(bar)
            bar = None
        if message["bar"] is None:
            return bar
        if bar is None:
            bar = self.progress.add_task(str(message["bar"]), total=float(str(message["total"])), unit=message["unit"])
        self.progress.update(bar, completed=float(str(message["done"])))
        return bar

    def _index(self, bar: TaskID) -> int:
        return next(i for i, task in enumerate(self.progress.tasks) if task.id == bar)


def worker_reporter() -> Reporter | None:
    """In a worker: the reporter that speaks to the process that started it; otherwise None.

    Whatever else prints to standard output goes to the log, so that it cannot break the protocol.
    """
    if os.environ.get("SYNTHMIX_WORKER") != "1":
        return None
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return PipeReporter(pipe)


def worker_command(plan_file: Path) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "synthmix.cli", "work", str(plan_file)]
