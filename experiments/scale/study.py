"""A real study in pieces: SmolLM2-135M on all of GSM8K and CommonsenseQA, at 0 to 50 % synthetic.

``synthmix run`` on smollm2.yaml. When the part's time is over it is interrupted as by Ctrl-C: its workers save where
they are, and the next call goes on from there. What is recorded is the table of cells and the report, not the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _machine import Options, gpus

HERE = Path(__file__).parent
#: Seconds for the workers to end the step that is under way and save, and for the report after that.
SAVING_S = 45.0
#: The nano suite in its place, at toy size.
TOY = (
    "tasks=[nano-math]", "models=[nano-0.3m]", "proportions=[0.0,0.5]", "hardware=cpu", "data.train_examples=64",
    "data.validation_examples=16", "data.test_examples=32", "training.epochs=1", "evaluation.diversity_samples=16",
)  # fmt: skip
COLUMNS = (
    "name", "task", "proportion", "iteration", "seed", "status", "error", "test_n", "test_score", "test_score_flexible",
    "test_invalid_rate", "test_ece", "test_perplexity", "diversity_self_bleu", "pool_kept", "pool_wellformed_rate",
    "mixture_synthetic", "train_loss", "train_tokens", "train_tokens_per_second", "timings_train", "timings_evaluate",
    "timings_generate", "timings_total",
)  # fmt: skip


def run(_: None, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]) -> dict[str, Any]:
    """Runs the study for as long as there is time, then says where it stands."""
    place = options.work / "study"
    place.mkdir(parents=True, exist_ok=True)
    study = [str(HERE / "smollm2.yaml"), *overrides(options, place)]
    root = options.data or os.environ.get("SYNTHMIX_DATA")
    if root is None and not options.toy:
        print("  no data: name its folder with --data or $SYNTHMIX_DATA", flush=True)
        return found | {"complete": False, "reason": "no data"}
    environment = os.environ | ({"SYNTHMIX_DATA": str(Path(root).resolve())} if root else {})
    status = interruptible(["run", *study], place, environment, options.left - SAVING_S)
    figures = standing(place) | {"exit_status": status, "study": study[1:], "pieces": found.get("pieces", 0) + 1}
    if status:
        figures |= {"error": _last_words(place)}
        print(f"  synthmix run ended with status {status}:\n{figures['error']}", flush=True)
    print(f"  {figures['done']} of {len(figures['cells'])} cells done", flush=True)
    if figures["complete"]:
        shutil.copytree(
            place / "runs" / "studies" / "smollm2" / "report", options.out / "study-report", dirs_exist_ok=True
        )
    return figures


def overrides(options: Options, place: Path) -> list[str]:
    """Settings beside the file's: the machine's profile, where the weights are, and toy sizes."""
    if options.toy:
        return ["store.root=runs", *TOY]
    gpu = gpus()[0]["name"] if options.accelerator == "gpu" else ""
    found = ["store.root=runs", f"hardware={'h200x1' if 'H200' in gpu else 'gpu1' if gpu else 'cpu-bf16'}"]
    if options.model is not None:
        folder = place / "configs" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        described = {"source": "folder", "id": str(Path(options.model).resolve()), "parameters": 134515008}
        (folder / "smollm2-folder.yaml").write_text(json.dumps(described), encoding="utf-8")  # JSON is YAML
        found.append("models=[smollm2-folder]")
    return found


def interruptible(arguments: list[str], place: Path, environment: dict[str, str], seconds: float) -> int | None:
    """Exit status of ``synthmix ARGUMENTS`` run in ``place``; None if it was interrupted after ``seconds``."""
    with (place / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "synthmix.cli", *arguments]
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            return process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # the workers save and end, then it does
            process.wait()
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # workers that it had no time to tell
                os.killpg(process.pid, signal.SIGTERM if process.poll() is not None else signal.SIGKILL)


def _last_words(place: Path, lines: int = 8) -> str:
    return "\n".join((place / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def standing(place: Path) -> dict[str, Any]:
    """The table of cells, and whether all are done."""
    from synthmix.analysis.load import load_study

    if not (place / "runs" / "studies" / "smollm2" / "plan.json").is_file():
        return {"complete": False, "done": 0, "cells": []}
    cells = load_study("smollm2", place / "runs").cells
    known = cells[[column for column in COLUMNS if column in cells]]
    rows = json.loads(known.to_json(orient="records"))
    done = sum(row["status"] == "done" for row in rows)
    return {"complete": done == len(rows), "done": done, "cells": rows}
