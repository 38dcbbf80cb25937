"""What a hardware profile asks for to train faster, put on a model: attention without padding, compiled blocks.

Documents that lie end to end in one row (:func:`synthmix.data.batching.flatten`) must not see one another. Their borders
go through a model where the attention mask goes, as a tensor of shape (1, 1, 1, documents + 1), which transformers hands
on to the attention function as it is: it builds no mask of (tokens, tokens), and asks the device nothing. Passing
positions alone is not enough: OPT makes its mask without looking at them.
"""

from __future__ import annotations

import importlib.util
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from synthmix.config.schema import HardwareConfig
from synthmix.errors import ConfigError

#: Our attention function's name among transformers' implementations.
NAME = "synthmix_varlen"
#: Families whose every layer attends by transformers' interface, causally, within a window at most, and whose positions
#: are given: tests/models/test_kernels.py holds each to padded batches.
PADDING_FREE = frozenset(
    {"gpt_neox", "llama", "opt", "gemma", "gemma3_text", "qwen2", "qwen3", "mistral", "olmo2", "smollm3"}
)


def apply_speed(model: PreTrainedModel, hardware: HardwareConfig) -> None:
    """Does to ``model``, in place, what ``padding_free`` and ``compile`` ask for; a second call changes nothing.

    Call it before the model is shared out: a block's compiled forward holds no weights, and keeps their names.

    Raises:
        ConfigError: something that the profile asks for cannot be had for this model or on this machine.
    """
    if problems := speed_problems(model, hardware):
        raise ConfigError(problems, origin=f"hardware profile {hardware.name}")
    if hardware.padding_free:
        model.set_attn_implementation(NAME)
    if hardware.compile:
        for block in blocks(model):
            # Lengths differ from batch to batch, and a compilation for each would take longer than the training.
            block.compile(dynamic=True)


def speed_problems(model: PreTrainedModel, hardware: HardwareConfig) -> list[str]:
    """What :func:`apply_speed` would refuse, each as a message."""
    problems = []
    family = model.config.model_type
    if hardware.padding_free and family not in PADDING_FREE:
        problems.append(
            f"padding_free = true: not checked for {family}; expected one of {', '.join(sorted(PADDING_FREE))}"
        )
    if hardware.loss_kernel == "liger":
        if hardware.accelerator != "gpu":
            problems.append("loss_kernel = liger: its kernels need a GPU (Triton); expected sliced")
        elif importlib.util.find_spec("liger_kernel") is None:
            problems.append("loss_kernel = liger: needs liger-kernel; pip install 'synthmix[liger]'")
    if hardware.compile and not blocks(model):
        problems.append(f"compile = true: {family} does not say which of its modules are its blocks; expected false")
    return problems


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks of ``model``, in order."""
    names = set(model._no_split_modules or ())
    return [module for module in model.base_model.modules() if type(module).__name__ in names]


def as_mask(borders: Tensor, longest: int | None = None) -> dict[str, Any]:
    """Arguments of a model's forward that say where documents of one row begin and end.

    Args:
        borders: int32, shape (documents + 1,): 0, and the end of each.
        longest: no fewer than the tokens of the longest; looked for by default.
    """
    longest = int(borders.diff().max()) if longest is None else longest
    return {"attention_mask": borders.view(1, 1, 1, -1), "max_length_q": longest}


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: ``(1, heads, tokens, D)`` queries to ``(1, tokens, heads, D)`` outputs.

    ``key`` and ``value`` have ``(1, kv_heads, tokens, D)``, ``attention_mask`` is from :func:`as_mask`. With any other
    mask, or none, it is the library's SDPA.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    borders, half = attention_mask.flatten(), _half_precision(value)
    if query.is_cuda and half is not None and not dropout:
        query, key, value = (x[0].transpose(0, 1).to(half) for x in (query, key, value))
        return _flash(query, key, value, borders, max_length_q, scaling, sliding_window)[None], None
    if query.device.type == "cpu" and half is not None:
        # torch's attention on a CPU takes three times as long in bf16 as in fp32, backward
        with torch.autocast("cpu", enabled=False):
            wide = (x.float() for x in (query, key, value))
            out = _one_by_one(module, *wide, borders.tolist(), dropout, scaling, sliding_window)
        return out.to(half), None
    return _one_by_one(module, query, key, value, borders.tolist(), dropout, scaling, sliding_window), None


def _half_precision(like: Tensor) -> torch.dtype | None:
    """The precision in which attention takes place, if it is one that FlashAttention knows."""
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def _flash(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, scale: float | None, window: int | None
) -> Tensor:
    """torch's variable-length FlashAttention, which is part of torch and differentiable; all of (tokens, heads, D)."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    # (k, 0): a token sees k tokens before it and none behind; -1: all. A window counts the token itself.
    sight = (-1 if window is None else window - 1, 0)
    out = varlen_attn(query, key, value, borders, borders, longest, longest, scale=scale, window_size=sight, **options)
    return cast(Tensor, out)


@torch.compiler.disable
def _one_by_one(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: list[int],
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """SDPA of each document. Cutting by ``split`` keeps backward to one copy, where slices would add up full rows."""
    lengths = [end - start for start, end in zip(borders, borders[1:], strict=False)]
    done = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        n = q.shape[2]
        mask = _window_mask(n, window, q.device) if window is not None and n > window else None
        done.append(sdpa_attention_forward(module, q, k, v, mask, dropout, scaling)[0])
    return torch.cat(done, dim=1)


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """True where a token sees another: itself and the ``window - 1`` tokens before it."""
    ones = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


AttentionInterface.register(NAME, varlen_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
