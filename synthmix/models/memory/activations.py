"""Activations of one micro-batch, in bytes: what backward needs of each layer, and what comes and goes beside it.

Counted after the way of Korthikanti et al. 2022 (arXiv 2205.05198, section 4), for the layers that are used here, from
the tensors that autograd holds: attention is taken to be fused (SDPA's flash or memory-efficient kernel, without a mask;
keys, values, queries, the output and a logarithm a head and token are kept, and no matrix of tokens by tokens), and the
output head to be read a slice at a time (:mod:`synthmix.models.loss`).
"""

from __future__ import annotations

from dataclasses import dataclass

from synthmix.models.memory.dimensions import Dimensions
from synthmix.models.slices import slice_rows, softmax_rows


@dataclass(frozen=True)
class Numbers:
    """Bytes of an element: of what matrices are multiplied in, of the residual stream, and of the parameters."""

    compute: int
    residual: int
    weight: int

    @property
    def is_autocast(self) -> bool:
        return self.compute < self.weight


@dataclass(frozen=True)
class _Kept:
    """Elements a token that a layer keeps for backward.

    ``wide`` are in units of the MLP's width, ``kv`` of the keys' width, the others of the residual stream's. ``narrow``
    and ``recast`` are in the precision of the products, recast only under autocast, where each of several products with
    the same input has a copy of its own. ``residual`` are in the residual stream's precision, ``upcast`` in fp32.
    ``masks`` are dropout's.
    """

    wide: int
    narrow: int
    residual: int
    kv: int = 0
    recast: int = 0
    upcast: int = 0
    masks: int = 0


#: gpt_neox: before and after GELU; both norms' outputs, queries, keys, values, rotated queries and keys, attention's
#: output and its copy by tokens; the residual stream.
#: opt: after ReLU; both norms' outputs, queries, keys, values, attention's output; the residual stream twice.
#: llama: gate, its SiLU, up, their product; both norms' outputs, queries, attention's output; keys and values; the
#: residual stream twice, of which a norm keeps an fp32 copy, and twice normalised.
_KEPT = {
    "gpt_neox": _Kept(wide=2, narrow=9, residual=1),
    "opt": _Kept(wide=1, narrow=6, residual=2, recast=2, masks=2),
    "llama": _Kept(wide=4, narrow=4, residual=2, kv=2, recast=3, upcast=2),
}


def layer(model: Dimensions, tokens: float, numbers: Numbers, device: str) -> float:
    """What backward needs of a layer's forward over ``tokens`` tokens, padding included."""
    kept, width = _KEPT[model.architecture], model.width
    narrow = kept.narrow + (kept.recast if numbers.is_autocast else 0)
    # a GPU keeps a byte for each element that dropout drops, a CPU a number
    mask = 1 if device == "gpu" else numbers.compute
    return tokens * (
        numbers.compute * (kept.wide * model.mlp_width + narrow * width + kept.kv * model.kv_width)
        + width * (numbers.residual * kept.residual + 4 * kept.upcast + mask * kept.masks)
        + 4 * model.heads
    )


def all_layers(model: Dimensions, tokens: float, numbers: Numbers, device: str, checkpointing: bool) -> float:
    """What is kept of all layers, the embeddings and the last norm; with checkpointing the layers' inputs alone."""
    stream = tokens * model.width * numbers.residual
    if checkpointing:
        return (model.layers + 1) * stream
    return model.layers * layer(model, tokens, numbers, device) + stream


def backward(model: Dimensions, tokens: float, numbers: Numbers) -> float:
    """What the backward pass of a layer holds beside what was kept: gradients of the MLP's inside and of the stream."""
    return tokens * (numbers.compute * 2 * model.mlp_width + 3 * numbers.residual * model.width)


@dataclass(frozen=True)
class Loss:
    """Bytes of the output head and cross-entropy: at the end of forward, and when backward begins."""

    forward: float
    backward: float


def sliced_loss(model: Dimensions, tokens: float, numbers: Numbers, device: str) -> Loss:
    """:func:`synthmix.models.loss.linear_cross_entropy`: the gradients are made in forward, and scaled in backward."""
    states, table = tokens * model.width, float(model.table)
    rows = int(min(slice_rows(model.vocabulary, device), tokens))
    # hidden states of the labels, and the gradient; the head's gradient is summed in fp32; logits, which become theirs
    forward = 2 * states * numbers.residual + 4 * table + numbers.compute * rows * model.vocabulary
    if numbers.compute != 4:
        # some of them in fp32 for the softmax; then a product of the head's size, which is added up (a CPU converts it
        # first, an accelerator's kernel as it goes)
        converted = 4 if device == "cpu" else 0
        softmax = 4 * softmax_rows(rows, device) * model.vocabulary
        forward += max(softmax, (numbers.compute + converted) * table)
    if numbers.is_autocast:  # copies of the hidden states and of the head
        forward += numbers.compute * (states + table)
    kept = states * numbers.residual + numbers.weight * table
    return Loss(forward, 2 * kept)


def whole_loss(model: Dimensions, tokens: float, numbers: Numbers) -> Loss:
    """Where the head is shared among devices: logits of all labels, their fp32 copy, and the log-softmax of that."""
    logits = tokens * model.vocabulary
    forward = tokens * model.width * numbers.residual + logits * (
        numbers.compute + (0 if numbers.compute == 4 else 4) + 4
    )
    return Loss(forward, forward + logits * 4)
