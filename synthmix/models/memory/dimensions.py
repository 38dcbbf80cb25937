"""What of a model's shape decides the memory that it takes."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from synthmix.config.schema import ARCHITECTURES, ModelConfig
from synthmix.models.flops import local_file


@dataclass(frozen=True)
class Dimensions:
    """A decoder's sizes.

    Attributes:
        name: the model's.
        architecture: one of :data:`~synthmix.config.schema.ARCHITECTURES`.
        parameters: all of them; a table that is embedding and head counts once.
        layers, heads: how many.
        width: of the residual stream; kv_width: of a position's keys, and of its values; mlp_width: inside the MLP.
        vocabulary: rows of the embedding.
        tied: the output head is the embedding.
    """

    name: str
    architecture: str
    parameters: int
    layers: int
    width: int
    heads: int
    kv_width: int
    mlp_width: int
    vocabulary: int
    tied: bool = False

    @property
    def is_known(self) -> bool:
        """Whether more than the number of parameters is."""
        return self.width > 0

    @property
    def table(self) -> int:
        """Parameters of the embedding, and of a head apart."""
        return self.vocabulary * self.width

    @property
    def blocks(self) -> int:
        """Parameters of the layers."""
        return self.parameters - self.table * (1 if self.tied else 2)

    @property
    def block(self) -> int:
        """Parameters of one layer."""
        return self.blocks // self.layers


def dimensions_of(model: ModelConfig) -> Dimensions:
    """From a model's file under configs/model, else from its config.json on this machine.

    Where neither says, all but the number of parameters is 0 (one layer): activations are left out then.
    """
    known = model
    if None in (model.layers, model.width, model.vocabulary):
        path = local_file(model, "config.json")
        # a family may name things in its own way
        with suppress(ValueError, KeyError):
            known = model if path is None else _read(model, json.loads(path.read_text(encoding="utf-8")))
    if known.layers is None or known.width is None or known.vocabulary is None:
        return Dimensions(model.name, "gpt_neox", model.parameters, 1, 0, 0, 0, 0, 0)
    heads = known.heads or max(1, known.width // 64)
    return Dimensions(
        name=model.name,
        architecture=known.architecture or "gpt_neox",
        parameters=model.parameters,
        layers=known.layers,
        width=known.width,
        heads=heads,
        kv_width=known.width * (known.kv_heads or heads) // heads,
        mlp_width=known.mlp_width or 4 * known.width,
        vocabulary=known.vocabulary,
        tied=known.tied,
    )


def _read(model: ModelConfig, config: dict[str, Any]) -> ModelConfig:
    """``model`` with the sizes of a Hugging Face configuration."""
    config = config.get("text_config", config)
    family, width = config["model_type"], config["hidden_size"]
    return dataclasses.replace(
        model,
        layers=config["num_hidden_layers"],
        width=width,
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", True),
        # gated MLPs and norms of the Llama kind are what most families have
        architecture=family if family in ARCHITECTURES else "llama",
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads"),
        mlp_width=config.get("intermediate_size") or config.get("ffn_dim") or 4 * width,
    )
