"""The hand-over from training to everything after it: a Hugging Face folder that anything can load."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix.files import write_json
from synthmix.models.stored import stored_name
from synthmix.models.strategies import is_zero, whole

#: Bytes of a file of weights: what rank 0 holds at a time while a sharded model is written.
SHARD_BYTES = 2 * 2**30


def export(model: PreTrainedModel | Path, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> Path:
    """Writes weights, tokenizer and ``card`` (README.md) to ``folder``; returns it.

    The folder appears whole or not at all, and replaces an earlier one.

    Args:
        model: a whole model, or the folder that :func:`write_weights` made of one, which is used up.
        tokenizer: its tokenizer.
        folder: where to.
        card: the text of README.md.
    """
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    for end in ("part", "old"):  # of a process that was killed here
        for left in folder.parent.glob(f".{folder.name}.*.{end}"):
            shutil.rmtree(left, ignore_errors=True)
    try:
        if isinstance(model, Path):
            model.rename(partial)
        else:
            # what save_pretrained writes, without DeepSpeed, which it imports where that is installed (seconds)
            write_weights(model, partial)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def write_weights(model: PreTrainedModel, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a model that ranks share, as ``save_pretrained`` would; all ranks take part, rank 0 writes.

    Weights are gathered one by one; rank 0 keeps those of one file, the others none. ZeRO's are the optimizer's own, in
    fp32; the others have the precision that they were trained in.

    Args:
        model: under its strategy, after the last step.
        folder: replaced.
        shard_bytes: the most that a file holds, unless one weight is more.

    Raises:
        UserError: a family whose files do not hold its parameters one by one.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    tensors = {stored_name(model, name): tensor for name, tensor in _tensors(model).items()}
    likenesses = {name: _likeness(tensor) for name, tensor in tensors.items()}
    plan = split_torch_state_dict_into_shards(likenesses, max_shard_size=shard_bytes)
    for file, names in plan.filename_to_tensors.items():
        _write_file({name: tensors[name] for name in names}, folder / file if first else None)
    if not first:
        return
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
    _write_config(model, folder, next(iter(likenesses.values())).dtype)


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that belong to the weights."""
    kept = model.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return dict(model.named_parameters()) | buffers


def _likeness(tensor: Tensor) -> Tensor:
    """Shape and precision of :func:`~.strategies.whole`, without the numbers."""
    dtype = torch.float32 if is_zero(tensor) else tensor.dtype
    return torch.empty(getattr(tensor, "ds_shape", tensor.shape), dtype=dtype, device="meta")


def _write_file(tensors: dict[str, Tensor], path: Path | None) -> None:
    """Gathers ``tensors`` one by one; the rank that has a ``path`` keeps them on the host and writes them."""
    from safetensors.torch import save_file

    gathered = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if path is not None:
            gathered[name] = full.cpu().contiguous()
        del full
    if path is not None:
        save_file(gathered, path, metadata={"format": "pt"})


def _write_config(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    # FSDP2 gives the model a class of its own, whose last base is the model's.
    kind = type(model).__bases__[-1] if type(model).__name__.startswith("FSDP") else type(model)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [kind.__name__], str(dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
