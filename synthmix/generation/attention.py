"""Attention of one new token per sequence, for the cache's layout on a CPU.

The fused CPU kernel walks through heads one at a time; for a single query, two batched matrix products over the cache
take about half its time. Registered with transformers as an attention implementation of its own, which any model takes;
whatever is not a single query on a CPU goes to the library's SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "synthmix_decode"


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: ``(B, heads, Q, D)`` queries to ``(B, Q, heads, D)`` outputs.

    ``key`` and ``value`` have ``(B, kv_heads, K, D)``; ``attention_mask`` is additive, ``(B, 1, Q, K)``.
    """
    if query.shape[2] != 1 or query.device.type != "cpu" or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    batch, heads, _, size = query.shape
    kv_heads = key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    queries = (query * scale).reshape(batch * kv_heads, heads // kv_heads, size)
    # Rows and heads merge into one dimension without a copy: each row of the cache is contiguous.
    scores = torch.bmm(queries, key.flatten(0, 1).transpose(1, 2)).view(batch, heads, 1, -1)
    weights = scores.add_(attention_mask).softmax(-1, dtype=torch.float32).to(query.dtype)
    output = torch.bmm(weights.view(batch * kv_heads, heads // kv_heads, -1), value.flatten(0, 1))
    return output.view(batch, 1, heads, value.shape[-1]), None


@contextmanager
def decoding(model: PreTrainedModel) -> Iterator[None]:
    """Uses :func:`decode_attention` inside the block, in models that would use SDPA."""
    before = model.config._attn_implementation
    if before == "sdpa":
        model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        if before == "sdpa":
            model.set_attn_implementation(before)


AttentionInterface.register(NAME, decode_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
