"""Files of weights looked at without loading them: whether they are whole, and how many parameters they hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

from synthmix.errors import UserError
from synthmix.study.hub_files import WEIGHTS

#: Kinds of numbers that parameters have; masks and counters are stored as others.
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that loading takes from a model's folder.

    Raises:
        UserError: there are none, or one that the index names is missing.
    """
    for name in WEIGHTS:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return [folder / name]
        named = sorted(set(json.loads((folder / name).read_text())["weight_map"].values()))
        if missing := [piece for piece in named if not (folder / piece).is_file()]:
            raise UserError(f"{folder}: weights are missing: {', '.join(missing)}")
        return [folder / piece for piece in named]
    raise UserError(f"{folder}: no weights there; expected one of {', '.join(WEIGHTS)}")


def stored_parameters(path: Path) -> int:
    """Floating-point numbers in a file of weights, from its header.

    Raises:
        UserError: the file is shorter or longer than its header says, or has no readable header.
    """
    if path.suffix != ".safetensors":
        return _pickled_parameters(path)
    total = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > total:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        count = sum(math.prod(entry["shape"]) for entry in tensors if entry["dtype"] in _FLOATS)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error
    if end != total:
        raise UserError(f"{path}: {total} bytes, but its header says {end}; the file was cut or changed")
    return count


def _pickled_parameters(path: Path) -> int:
    import torch

    try:
        tensors = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and torch raise kinds of their own
        raise UserError(f"{path}: not readable weights ({error})") from error
    return sum(t.numel() for t in tensors.values() if torch.is_tensor(t) and t.is_floating_point())


def described_parameters(folder: Path) -> int:
    """Parameters of the model that ``config.json`` describes; its weights are not made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def check_weights(folder: Path) -> tuple[int, int]:
    """(parameters, bytes on the disk) of the weights in a folder.

    Raises:
        UserError: a file is missing, damaged, or holds fewer parameters than the model has.
    """
    files = weight_files(folder)
    stored, described = sum(map(stored_parameters, files)), described_parameters(folder)
    if stored < described:
        raise UserError(f"{folder}: the weights hold {stored:,} numbers, the model of config.json has {described:,}")
    return described, sum(path.stat().st_size for path in files)
