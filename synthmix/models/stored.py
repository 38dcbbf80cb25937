"""A model's weights as its files hold them: under which name, in which file, read a part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from synthmix.errors import UserError

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


def stored_name(model: PreTrainedModel, name: str) -> str:
    """The name that a parameter of ``model`` has in a file; GPT-NeoX's head is ``embed_out`` there.

    Raises:
        UserError: the model's files do not hold its parameters one by one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    known: dict[str, str] = getattr(model, "stored_names", {})
    if name in known:
        return known[name]
    names = list(revert_weight_conversion(model, {name: torch.empty(0, device="meta")}))
    if len(names) != 1:
        raise UserError(f"{type(model).__name__}: {name} is stored as {', '.join(names)}; expected one weight each")
    return names[0]


def remember_names(model: PreTrainedModel) -> None:
    """Has :func:`stored_name` know the names when the model's class, by which transformers tells them, is another."""
    setattr(model, "stored_names", {name: stored_name(model, name) for name, _ in model.named_parameters()})  # noqa: B010


def stored_weights(model: PreTrainedModel, folder: Path) -> Iterator[tuple[Tensor, Any]]:
    """Each parameter, and its weight in the safetensors of ``folder``: a slice, of which nothing is read yet.

    Raises:
        UserError: there are none, or not all, or one has another shape.
    """
    from safetensors import safe_open

    place, opened = _places(folder), {}
    for name, parameter in model.named_parameters():
        stored = stored_name(model, name)
        if stored not in place:
            raise UserError(f"the model in '{folder}' cannot be loaded: it has no weight {stored}")
        file = place[stored]
        if file not in opened:
            opened = {file: safe_open(folder / file, framework="pt")}  # one at a time: parameters come file by file
        weight = opened[file].get_slice(stored)
        given, expected = list(weight.get_shape()), list(getattr(parameter, "ds_shape", parameter.shape))
        if given != expected:
            raise UserError(
                f"the model in '{folder}' cannot be loaded: {stored} has shape {given}; expected {expected}"
            )
        yield parameter, weight


def has_weights(folder: Path) -> bool:
    """Whether the weights in ``folder`` are safetensors; older repositories on the Hub have none."""
    return (folder / _INDEX).is_file() or (folder / _SINGLE).is_file()


def _places(folder: Path) -> dict[str, str]:
    """Weight -> file."""
    from safetensors import safe_open

    if (folder / _INDEX).is_file():
        found: dict[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
        return found
    if not has_weights(folder):
        raise UserError(f"'{folder}' has no {_SINGLE}; expected weights in safetensors")
    with safe_open(folder / _SINGLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), _SINGLE)
