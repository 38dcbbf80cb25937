"""What the paper says its runs cost, out of the file that holds all its numbers (``experiments/paper/published.yaml``,
which :mod:`synthmix.analysis.paper.published` reads whole)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from synthmix.study.cells import Plan

FILE = "published.yaml"


@dataclass(frozen=True)
class Published:
    """What a published study of this kind is said to have cost; ``items`` of each task family: train and test."""

    source: str
    runs: int
    device_hours: float
    device: str
    items: dict[str, dict[str, int]]


def published_files() -> list[Path]:
    """Where the numbers are looked for: ./experiments/paper, the checkout's own, the installed package's."""
    package = Path(__file__).resolve().parents[1]
    experiments = [folder / "experiments" / "paper" / FILE for folder in (Path.cwd(), package.parent)]
    return list(dict.fromkeys([*experiments, package / "analysis" / "assets" / FILE]))


def published_cost(plan: Plan) -> Published | None:
    """The cost of the paper's runs, for a plan that has its models and shares; None for others, and without the file."""
    shares = {round(100 * cell.proportion) for cell in plan.cells}
    if len(shares) < 3 or not any(name.startswith("pythia-") for name in plan.models):
        return None  # nothing like it: the file need not be read
    path = next((file for file in published_files() if file.is_file()), None)
    if path is None:
        return None
    told: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    protocol = told["protocol"]
    if not (set(told["models"]) <= set(plan.models) and set(protocol["proportions"]) <= shares):
        return None
    source = f"arXiv {told['paper']['arxiv']}, {protocol['source']}"
    items = {
        family: {"train": task["train_items"], "test": task["test_items"]} for family, task in told["tasks"].items()
    }
    return Published(source, protocol["runs"], protocol["gpu_hours"], protocol["gpu"], items)
