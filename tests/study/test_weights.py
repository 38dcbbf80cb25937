"""Weights looked at without loading them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from synthmix.errors import UserError
from synthmix.study.weights import check_weights, described_parameters, stored_parameters, weight_files


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def count(folder: Path) -> int:
    """The parameters that transformers loads."""
    from transformers import AutoModelForCausalLM

    return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(folder).parameters())


def test_parameters_are_counted_as_loading_counts_them(folder: Path) -> None:
    parameters, size = check_weights(folder)
    assert parameters == described_parameters(folder) == count(folder)
    assert size == (folder / "model.safetensors").stat().st_size


def test_masks_and_counters_are_no_parameters(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    floats = sum(tensor.numel() for tensor in tensors.values())
    save_file(
        tensors | {"bias": torch.ones(1, 1, 64, 64, dtype=torch.bool), "n": torch.zeros(9, dtype=torch.int64)}, path
    )
    assert stored_parameters(path) == floats


def test_weights_in_pieces_and_pickled_weights(folder: Path) -> None:
    whole = check_weights(folder)[0]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    pieces = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for piece, own in pieces.items():
        save_file({name: tensors[name] for name in own}, folder / piece)
    index = {"weight_map": {name: piece for piece, own in pieces.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(folder)] == list(pieces)
    assert check_weights(folder)[0] == whole
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="weights are missing: model-00002-of-00002.safetensors"):
        check_weights(folder)
    (folder / "model.safetensors.index.json").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert check_weights(folder)[0] == whole


def test_weights_that_were_cut_or_are_of_another_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match=rf"{len(content) - 100} bytes, but its header says {len(content)}"):
        check_weights(folder)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="not a safetensors file"):
        check_weights(folder)
    save_file({"gpt_neox.embed_in.weight": torch.zeros(8, 8)}, path)
    with pytest.raises(UserError, match="the weights hold 64 numbers, the model of config.json has"):
        check_weights(folder)
    path.unlink()
    with pytest.raises(UserError, match="no weights there; expected one of model.safetensors"):
        check_weights(folder)
