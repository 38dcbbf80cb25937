"""A causal LM in two halves: hidden states everywhere, logits only where they are read.

For a small model the output head is most of the arithmetic and of the memory (50k logits a position), so neither
generation nor scoring computes a logit that nobody looks at.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from synthmix.errors import UserError

FULL, SLIDING = "full_attention", "sliding_attention"
Mask = Tensor | dict[str, Tensor] | None


class Backbone:
    """Hidden states and logits of any Hugging Face causal LM, and the attention masks that it takes.

    Raises:
        UserError: if the model's attention or head is of a kind that this code would get wrong.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        #: Longest sequence (tokens), or None where the model sets no limit.
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary = int(cast(Tensor, model.get_input_embeddings().weight).shape[0])
        self.layer_types, self.window = _attention_of(config, model)
        self._check_head()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def hidden(self, input_ids: Tensor, positions: Tensor, mask: Mask = None, cache: Cache | None = None) -> Tensor:
        """Last hidden states, shape ``(B, T, D)``, for int64 ``input_ids`` and ``positions`` of shape ``(B, T)``."""
        output = self.model.base_model(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of hidden states ``(..., D)``."""
        logits = self.model.get_output_embeddings()(hidden)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def mask(self, visible: Tensor, distance: Tensor) -> Mask:
        """What the model takes as its attention mask.

        Args:
            visible: bool, ``(B, Q, K)``: may query q look at key k? Causality included.
            distance: int, ``(B, Q, K)`` or broadcastable: position of q minus position of k, for sliding windows.
        """
        kinds = set(self.layer_types)
        masks = {FULL: self._additive(visible)} if FULL in kinds else {}
        if SLIDING in kinds:
            masks[SLIDING] = self._additive(visible & (distance < self.window))
        return masks if self.takes_dict else next(iter(masks.values()))

    @property
    def takes_dict(self) -> bool:
        """True for models that mix layer types (Gemma 3) and so take one mask for each."""
        return len(set(self.layer_types)) > 1

    def _additive(self, visible: Tensor) -> Tensor:
        # Additive from the start: a boolean mask would be converted in every layer.
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(self.dtype).min)[:, None]

    @torch.inference_mode()
    def _check_head(self) -> None:
        # Some architectures scale their logits in a way of their own: compare with the model's own forward once.
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        own = self.model(input_ids=ids, use_cache=False).logits
        ours = self.logits(self.hidden(ids, torch.zeros_like(ids)))
        if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2, equal_nan=True):
            name = type(self.model).__name__
            raise UserError(f"{name} changes its logits after the output head in a way that is not supported")


def _attention_of(config: Any, model: PreTrainedModel) -> tuple[list[str], int]:
    # Only masks given as tensors keep padding and packing apart; fused kernels take none.
    if config._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        types = [FULL if window is None else SLIDING]
    unknown = set(types) - {FULL, SLIDING}
    if unknown:
        raise UserError(f"attention of type {sorted(unknown)} is not supported; expected {FULL} or {SLIDING}")
    return list(types), window if window is not None else 0
