"""The hand-over from training to everything after it: a Hugging Face folder that anything can load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix.models.loading import without_bars


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> Path:
    """Writes weights, tokenizer and ``card`` (README.md) to ``folder``; returns it.

    The folder appears whole or not at all, and replaces an earlier one. ZeRO-3 and FSDP shard the weights: gather
    them first.
    """
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    try:
        with without_bars():
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder
