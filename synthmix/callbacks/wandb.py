"""A cell's numbers on Weights & Biases: a replay of its files once it is done.

No cell waits for the service. A run is written into the cell's folder first, which asks no network
(:mod:`synthmix.callbacks.wandb_run`), and sent from there by a process of its own
(:mod:`synthmix.callbacks.wandb_upload`).
"""

from __future__ import annotations

import os
from pathlib import Path

from synthmix.callbacks.base import CellCallback, CellContext
from synthmix.callbacks.wandb_run import CellRun, first_line, write_cell_run
from synthmix.callbacks.wandb_upload import background_uploader
from synthmix.config import WandbConfig


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

    Written at the end, in one go: a resumed cell leaves one run, not pieces with one id, which offline folders could
    not merge. Whatever fails costs a line: the cell's own files hold every number.
    """

    def __init__(self, config: WandbConfig) -> None:
        self.config = config
        self.mode = resolve_mode(config.mode)

    def on_cell_end(self, cell: CellContext) -> None:
        """Writes the run; online, hands it to the process that sends runs, and does not wait for it."""
        if self.mode == "disabled":
            return
        try:
            run = write_cell_run(CellRun.of_context(cell), self.config)
            if self.mode == "online":
                background_uploader(self.config.timeout, cell.say).add(run)
        except Exception as error:  # wandb raises many kinds, and none of them is about this cell
            cell.say(f"{cell.name}: W&B: {first_line(error)}")
