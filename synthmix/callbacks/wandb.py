"""A cell's numbers on Weights & Biases: a replay of ``metrics.jsonl`` once the cell ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from synthmix.callbacks.base import CellCallback, CellContext
from synthmix.config import WandbConfig
from synthmix.files import read_jsonl_prefix


def resolve_mode(mode: str) -> str:
    """``auto`` is online where a key is at hand (``WANDB_API_KEY``, ~/.netrc) and offline otherwise."""
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    netrc = Path.home() / ".netrc"
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "api.wandb.ai" in netrc.read_text())
    return "online" if has_key else "offline"


class WandbReplay(CellCallback):
    """One W&B run a cell: ``id`` = the cell's hash, ``group`` = the cell without its seed, ``job_type`` = its phase.

    ``train/*`` has the optimizer step as its axis, everything else the iteration. Written at the end, in one go: a
    resumed cell leaves one run, not pieces with one id, which offline folders could not merge.
    """

    def __init__(self, config: WandbConfig) -> None:
        self.config = config
        self.mode = resolve_mode(config.mode)

    def on_cell_end(self, cell: CellContext) -> None:
        """Writes the run. A service that cannot be reached costs one line: the run is kept offline, and the cell's own
        files hold every number anyway."""
        for mode in {"disabled": (), "online": ("online", "offline")}.get(self.mode, (self.mode,)):
            try:
                return self._write(cell, mode)
            except Exception as error:  # wandb raises many kinds, and none of them is about this cell
                said = str(error).splitlines()
                cell.say(f"{cell.name}: W&B ({mode}): {said[0] if said else type(error).__name__}")

    def _write(self, cell: CellContext, mode: str) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True)
        run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=mode,  # type: ignore[arg-type]
            id=cell.hash,
            name=cell.name,
            group=cell.group,
            job_type="phase0" if cell.iteration == 0 else f"iteration-{cell.iteration}",
            config=cell.config,
            dir=str(cell.folder),
            resume="allow" if mode == "online" else None,
            settings=settings,
        )
        try:
            self._replay(run, cell.folder / "metrics.jsonl")
        finally:
            run.finish()

    def _replay(self, run: Any, path: Path) -> None:
        run.define_metric("iteration")
        run.define_metric("train/*", step_metric="train/step")
        for space in ("eval/*", "calibration/*", "diversity/*", "monitoring/*", "pool/*"):
            run.define_metric(space, step_metric="iteration")
        # One step may stand in several lines, from several loggers or from before and after a kill: the later counts.
        merged: dict[tuple[str, int | None], dict[str, Any]] = {}
        for line in read_jsonl_prefix(path):
            merged.setdefault((line["phase"], line["step"]), {}).update(line)
        for (phase, at), line in merged.items():
            values = {name: value for name, value in line.items() if "/" in name}
            step = {"train/step": at} if phase == "train" else {}
            run.log(values | step | {"iteration": line["iteration"]})
