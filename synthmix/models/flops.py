"""What a token costs: floating-point operations from a model's shape, without its weights and without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix.config.schema import ModelConfig
from synthmix.models import nano


@dataclass(frozen=True)
class Shape:
    """What of a model decides the operations of a token.

    Attributes:
        multiplied: parameters that each token is multiplied with: all but an input embedding, which is looked up;
            one that is the output head too counts once, as the head.
        attention: layers x heads x size of a head; 0 where it is not known, and attention is left out.
        origin: where the two are from.
    """

    multiplied: int
    attention: int
    origin: str

    def forward(self, tokens: float, length: float) -> float:
        """FLOPs to read or write ``tokens`` tokens in sequences of ``length``: 2 a parameter, and 4 L H Q T for
        attention, a token.

        The counting is that of Kaplan et al. 2020 (arXiv 2001.08361, section 2.1) with the output head, and of
        Chowdhery et al. 2022 (arXiv 2204.02311, appendix B) for attention, which takes every position to look at all T.
        """
        return tokens * (2 * self.multiplied + 4 * self.attention * length)

    def training(self, tokens: float, length: float) -> float:
        """FLOPs to train on them, forward and backward: 6 N + 12 L H Q T a token.

        >>> Shape(multiplied=1000, attention=10, origin="").training(1, length=5)
        6600
        """
        return 3 * self.forward(tokens, length)


def shape_of(model: ModelConfig) -> Shape:
    """From a model's file under configs/model, else from its config.json on this machine, else from its size alone."""
    if model.layers is not None and model.width is not None and model.vocabulary is not None:
        looked_up = 0 if model.tied else model.vocabulary * model.width
        return Shape(model.parameters - looked_up, model.layers * model.width, "configs/model")
    path = local_file(model, "config.json")
    try:
        if path is not None:
            looked_up, attention = _read(json.loads(path.read_text(encoding="utf-8")))
            return Shape(model.parameters - looked_up, attention, "config.json")
    except (ValueError, KeyError):  # a family that names things in its own way
        pass
    return Shape(model.parameters, 0, "the number of parameters alone, without attention")


def _read(config: dict[str, Any]) -> tuple[int, int]:
    """(parameters that are looked up, layers x heads x head size) of a Hugging Face configuration."""
    config = config.get("text_config", config)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size = config.get("head_dim") or hidden // heads
    # a file leaves out what is the library's default, which is tied
    looked_up = 0 if config.get("tie_word_embeddings", True) else config["vocab_size"] * hidden
    return looked_up, config["num_hidden_layers"] * heads * size


def local_file(model: ModelConfig, name: str) -> Path | None:
    """A file of a model that is on this machine; None without one. Nothing is fetched or built."""
    if model.source == "nano":
        folders = [nano.TOKENIZER] if name.startswith("tokenizer") else [nano.ASSETS / model.id]
    elif model.source == "gguf":
        # dequantised once, into a folder that carries the file's name and digest
        folders = sorted(nano.cache_dir().glob(f"{Path(model.gguf_file or '-').stem}-*"))
    elif model.source == "folder":
        folders = [Path(model.id).expanduser()]
    else:
        return _cached(model, name)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _cached(model: ModelConfig, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.id, name, revision=model.revision)
    return Path(found) if isinstance(found, str) else None
