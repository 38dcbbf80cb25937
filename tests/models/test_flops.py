"""Operations of a token against torch's own counter, and shapes against the models that they describe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from synthmix.config import ModelConfig, config_names, load_model
from synthmix.models import nano
from synthmix.models.flops import local_file, shape_of


def neox(layers: int, width: int, vocabulary: int) -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=128, attn_implementation="eager",
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


@pytest.mark.parametrize(("layers", "width", "vocabulary"), [(2, 32, 300), (3, 64, 1000)])
def test_operations_against_the_counter_of_torch(layers: int, width: int, vocabulary: int, tmp_path: Path) -> None:
    model, batch, length = neox(layers, width, vocabulary), 3, 40
    model.config.save_pretrained(tmp_path)
    parameters = sum(p.numel() for p in model.parameters())
    shape = shape_of(ModelConfig("x", "folder", str(tmp_path), parameters=parameters))
    ids = torch.randint(vocabulary, (batch, length))
    with FlopCounterMode(display=False) as forward:
        model(ids)
    with FlopCounterMode(display=False) as both:
        model(ids, labels=ids).loss.backward()
    # biases and norms are counted as if they were multiplied with; attention is taken over all positions
    assert shape.forward(batch * length, length) == pytest.approx(forward.get_total_flops(), rel=0.03)
    assert shape.training(batch * length, length) == pytest.approx(both.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("name", [name for name in config_names("model") if name.startswith(("nano", "pythia"))])
def test_shapes_of_the_shipped_files_add_up_to_their_parameters(name: str) -> None:
    model = load_model(name)
    assert model.layers and model.width and model.vocabulary
    block = 12 * model.width**2 + 13 * model.width  # GPT-NeoX: attention, MLP, two norms, all with biases
    assert model.parameters == model.layers * block + 2 * model.width + 2 * model.vocabulary * model.width
    assert shape_of(model).multiplied == model.parameters - model.vocabulary * model.width


def test_the_shape_of_a_tied_model() -> None:
    model = load_model("smollm2-135m")
    assert shape_of(model).multiplied == model.parameters and shape_of(model).attention == 30 * 9 * 64


@pytest.mark.parametrize("name", nano.SHIPPED)
def test_a_model_without_a_shape_in_its_file_is_read_from_its_config(name: str, tmp_path: Path) -> None:
    known = load_model(name)
    read = shape_of(ModelConfig(name, "nano", name, parameters=known.parameters))
    assert (read.multiplied, read.attention) == (shape_of(known).multiplied, shape_of(known).attention)
    assert read.origin == "config.json" and shape_of(known).origin == "configs/model"


def test_a_model_of_which_only_the_size_is_known(tmp_path: Path) -> None:
    elsewhere = ModelConfig("far", "hub", "nobody/nothing-of-this-name", parameters=1000)
    assert local_file(elsewhere, "config.json") is None
    assert shape_of(elsewhere).forward(1, length=50) == 2000 and "without attention" in shape_of(elsewhere).origin
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other", "depth": 3}))
    assert shape_of(ModelConfig("own", "folder", str(tmp_path), parameters=1000)).attention == 0


def test_a_file_of_a_hub_model_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--somebody--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    file = repo / "snapshots" / "abc" / "config.json"
    file.parent.mkdir(parents=True)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "vocab_size": 10}
    file.write_text(json.dumps(shape | {"tie_word_embeddings": False}))
    found = shape_of(ModelConfig("hub", "hub", "somebody/model", parameters=1000))
    assert (found.multiplied, found.attention) == (1000 - 80, 16)
