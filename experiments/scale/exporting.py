"""Sharded training to a folder and back: what is exported is what was trained, and a fit that was stopped goes on.

For each strategy: a fit from start to end; and one that is told to stop half-way, saves, and is finished by other
processes. Both export. Equal are, weight by weight (SHA-256 in fp32), what the ranks held after the last step and what
``from_pretrained`` reads from the folder; and the losses and weights of the two fits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _scale
from _machine import Options
from _scale import LEARNING_RATE
from training import hardware_of, settled

STRATEGIES = {"zero-3": "deepspeed_stage_3", "fsdp2": "fsdp2"}


def run(
    size: str | None, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]
) -> dict[str, Any]:
    """Every strategy's three fits."""
    size = size or "410m"
    model, steps = _scale.described(size, options.toy), options.steps or (4 if options.toy else 6)
    texts, text = _scale.documents(steps * options.batch, model.vocabulary or 0, options)
    common = {
        "weights": str(_scale.weights(size, options)), "documents": [document.ids for document in texts],
        "batch": options.batch, "steps": steps, "warmup": 1, "learning_rate": LEARNING_RATE,
    }  # fmt: skip
    figures = found | {"model": model.name, "parameters": model.parameters, "text": text, "steps": steps,
                       "strategies": found.get("strategies", {}), "complete": False, "error": None}  # fmt: skip
    for name, strategy in STRATEGIES.items():
        if settled(figures["strategies"].get(name)):
            continue
        if options.left < 60:
            return figures
        row = strategy_of(common | {"hardware": hardware_of(model, options, {"strategy": strategy})}, options)
        figures["strategies"][name] = row
        print(f"  {name}: {row}", flush=True)
        save(figures)
    failed = [name for name, row in figures["strategies"].items() if not settled(row)]
    return figures | ({"error": f"failed: {', '.join(failed)}"} if failed else {"complete": True})


def strategy_of(spec: dict[str, Any], options: Options) -> dict[str, Any]:
    """What is equal; ``{"error": ...}`` where a fit failed or something is not."""
    place = options.work / "export"
    shutil.rmtree(place, ignore_errors=True)
    try:
        whole = _scale.run_fit(spec | {"export": str(place / "whole")}, options)
        again = spec | {"folder": str(place / "fit"), "export": str(place / "again")}
        stopped = _scale.run_fit(again | {"stop_at": spec["steps"] // 2}, options)
        resumed = _scale.run_fit(again, options)
        for outcome in (whole, stopped, resumed):
            if "error" in outcome:
                return outcome
        return compared(whole, stopped, resumed, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def compared(whole: dict[str, Any], stopped: dict[str, Any], resumed: dict[str, Any], place: Path) -> dict[str, Any]:
    """Weights of the two fits, of their folders, and the losses after the stop."""
    after = len(resumed["losses"])
    losses = [abs(a - b) for a, b in zip(resumed["losses"], whole["losses"][-after:], strict=True)]
    row = {
        "weights": len(whole["digests"]), "files": len([*(place / "whole").glob("*.safetensors")]),
        "reloaded_equal": reloaded(place / "whole") == whole["digests"],
        "resumed_reloaded_equal": reloaded(place / "again") == resumed["digests"],
        "stopped": stopped.get("stopped", "no"), "resumed": resumed["resumed"], "steps_after": after,
        "resumed_equal": resumed["digests"] == whole["digests"], "loss_difference": max(losses),
        "peak_gib": whole["peak_gib"],
    }  # fmt: skip
    wrong = [name for name in ("reloaded_equal", "resumed_reloaded_equal", "resumed") if not row[name]]
    return row | ({"error": f"not so: {', '.join(wrong)}"} if wrong else {})


def reloaded(folder: Path) -> dict[str, str]:
    """The digests of an exported folder, read as anybody would."""
    from fit import digest

    from synthmix.models.loading import load_model

    return {name: digest(parameter) for name, parameter in load_model(folder).named_parameters()}
