"""Every Hub model under configs/model, built on the meta device from its published configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from synthmix.config import config_names, load_model
from synthmix.models.memory import dimensions_of

#: (layers, hidden, heads, vocabulary) of the config.json files of EleutherAI/pythia-*; the MLP is 4 x hidden wide.
PYTHIA = {
    "14m": (6, 128, 4, 50304), "31m": (6, 256, 8, 50304), "70m": (6, 512, 8, 50304), "160m": (12, 768, 12, 50304),
    "410m": (24, 1024, 16, 50304), "1b": (16, 2048, 8, 50304), "1.4b": (24, 2048, 16, 50304),
    "2.8b": (32, 2560, 32, 50304), "6.9b": (32, 4096, 32, 50432), "12b": (36, 5120, 40, 50688),
}  # fmt: skip
#: (layers, hidden, heads) of facebook/opt-*; vocabulary 50272, MLP 4 x hidden.
OPT = {"125m": (12, 768, 12), "1.3b": (24, 2048, 32), "2.7b": (32, 2560, 32), "6.7b": (32, 4096, 32)}
#: (layers, hidden, heads, key-value heads, MLP, vocabulary, tied).
LLAMA = {
    "smollm2-360m": (32, 960, 15, 5, 2560, 49152, True),
    "smollm2-1.7b": (24, 2048, 32, 32, 8192, 49152, True),
    "tinyllama-1.1b": (22, 2048, 32, 4, 5632, 32000, False),
    "openllama-3b": (26, 3200, 32, 32, 8640, 32000, False),
    "openllama-7b": (32, 4096, 32, 32, 11008, 32000, False),
}


def published() -> dict[str, dict[str, Any]]:
    """config.json, as far as it decides the size, by the name of the file under configs/model."""
    found: dict[str, dict[str, Any]] = {}
    for size, (layers, hidden, heads, vocabulary) in PYTHIA.items():
        found[f"pythia-{size}"] = {
            "model_type": "gpt_neox", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
            "intermediate_size": 4 * hidden, "vocab_size": vocabulary, "tie_word_embeddings": False,
        }  # fmt: skip
    for size, (layers, hidden, heads) in OPT.items():
        found[f"opt-{size}"] = {
            "model_type": "opt", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
            "ffn_dim": 4 * hidden, "word_embed_proj_dim": hidden, "vocab_size": 50272, "max_position_embeddings": 2048,
        }  # fmt: skip
    for name, (layers, hidden, heads, kv_heads, mlp, vocabulary, tied) in LLAMA.items():
        found[name] = {
            "model_type": "llama", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": mlp, "vocab_size": vocabulary,
            "tie_word_embeddings": tied,
        }  # fmt: skip
    return found


def test_every_hub_model_has_its_published_configuration_here() -> None:
    assert set(published()) == {name for name in config_names("model") if load_model(name).source == "hub"}


@pytest.mark.parametrize("name", published())
def test_parameters_and_sizes_of_the_file_are_those_of_the_published_model(name: str) -> None:
    settings = published()[name]
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    file = load_model(name)
    assert file.parameters == sum(parameter.numel() for parameter in model.parameters())
    found = dimensions_of(file)
    assert (found.architecture, found.layers, found.width, found.heads) == (
        settings["model_type"], config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
    )  # fmt: skip
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    assert found.kv_width == config.hidden_size // config.num_attention_heads * kv_heads
    assert found.mlp_width == settings.get("intermediate_size", settings.get("ffn_dim"))
    assert (found.vocabulary, found.tied) == (config.vocab_size, config.tie_word_embeddings)
    blocks = sum(p.numel() for n, p in model.named_parameters() if "layers." in n)
    # beside the layers and the tables there are a last norm, and OPT's positions
    assert found.blocks == pytest.approx(blocks, rel=0.05 if file.parameters < 2e8 else 0.005)


@pytest.mark.parametrize("name", published())
def test_the_revision_is_pinned_where_it_is_known(name: str) -> None:
    assert load_model(name).revision == ("step143000" if name.startswith("pythia") else "main")
    assert load_model(name).learning_rate == 1e-5 and load_model(name).context == 2048
