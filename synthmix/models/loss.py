"""The training loss without the logits that nobody reads.

With a vocabulary of 50,000 the output head dominates the cost and the memory of a small model. Here it is applied only
to hidden states whose next token is a label, a slice at a time; the gradient of a slice is computed while its logits
are in the cache and the logits are dropped. That is three matrix products, and no tensor of (tokens, vocabulary).
A vocabulary of 512 takes the same path in one slice, which is as fast as ``torch.nn.functional.cross_entropy``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from synthmix.data.batching import IGNORE
from synthmix.models.kernels import as_mask
from synthmix.models.slices import slice_rows, softmax_rows

#: Families whose forward is ``head(base(ids))`` and nothing else: no scaling or capping of logits, no auxiliary loss.
HEAD_ONLY = frozenset(
    {"gpt_neox", "llama", "opt", "gemma", "gemma3_text", "qwen2", "qwen3", "mistral", "olmo2", "smollm3"}
)


#: A probability below this one is too close to what fp32 cannot hold to take its logarithm.
_SMALLEST = 1e-30


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            total, grads = _loss_and_gradients(hidden, weight, bias, targets, rows, dtype, ctx.needs_input_grad)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if grad is None else grad * grad_output.to(grad.dtype) for grad in ctx.saved_tensors), None, None


def _loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    rows: int,
    dtype: torch.dtype,
    needs: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Sum of the token losses (fp32) and its gradients with respect to hidden, weight and bias where needed."""
    states, head = hidden.to(dtype), weight.to(dtype)
    grad_hidden = torch.empty_like(hidden) if needs[0] else None
    grad_weight = _accumulator(weight) if needs[1] else None
    grad_bias = _accumulator(bias) if bias is not None and needs[2] else None
    accurate = torch.promote_types(dtype, torch.float32)
    total = hidden.new_zeros((), dtype=accurate)
    buffer = torch.empty((min(rows, len(targets)), len(weight)), dtype=dtype, device=hidden.device)
    for start in range(0, len(targets), rows):
        part, target = states[start : start + rows], targets[start : start + rows, None]
        logits = _logits(part, head, bias, buffer[: len(part)])
        losses = _softmax_minus_one_hot_(logits, target, accurate)
        if logits.device.type == "cpu" and not losses.isfinite():  # a label's probability has vanished
            losses = F.cross_entropy(_logits(part, head, bias).to(accurate), target[:, 0], reduction="sum")
        total += losses
        difference = logits  # whose place it has taken
        if grad_hidden is not None:
            grad_hidden[start : start + rows] = difference @ head
        if grad_weight is not None and grad_weight.dtype == dtype:
            grad_weight.addmm_(difference.t(), part)
        elif grad_weight is not None:
            grad_weight += difference.t() @ part
        if grad_bias is not None:
            grad_bias += difference.sum(0, dtype=accurate)
    grads = (grad_hidden, grad_weight, grad_bias)
    like = (hidden, weight, bias)
    return total, tuple(None if g is None or t is None else g.to(t.dtype) for g, t in zip(grads, like, strict=True))


def _logits(states: Tensor, head: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    logits = torch.mm(states, head.t(), out=out)
    return logits if bias is None else logits.add_(bias)


def _accumulator(like: Tensor) -> Tensor:
    """Zeros to sum a gradient in: thousands of slices would drown in bf16."""
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def _softmax_minus_one_hot_(logits: Tensor, target: Tensor, accurate: torch.dtype) -> Tensor:
    """Sum of the cross-entropies of the rows; in ``logits``' place it leaves their gradient.

    Everything is computed in the precision ``accurate``. On a CPU, where passes over the logits cost, the sum is infinite
    if the probability of a label is too small to be told; see :func:`_sum_of_losses_`.
    """
    total = logits.new_zeros((), dtype=accurate)
    rows = softmax_rows(len(logits), logits.device.type)
    wide = None if logits.dtype == accurate else torch.empty_like(logits[:rows], dtype=accurate)
    for part, label in zip(logits.split(rows), target.split(rows), strict=True):
        gradient = part if wide is None else wide[: len(part)].copy_(part)
        total += _sum_of_losses_(gradient, part, label)
        gradient.scatter_add_(1, label, gradient.new_full(label.shape, -1.0))
        if wide is not None:
            part.copy_(gradient)
    return total


def _sum_of_losses_(gradient: Tensor, logits: Tensor, label: Tensor) -> Tensor:
    """Sum of the cross-entropies of the rows; ``gradient``, the logits in full precision, becomes their softmax.

    On a CPU the label's probability says it, which saves two passes over the rows where it has not vanished. An
    accelerator would have to be asked whether it has; there it is the largest one, 1 / sum(exp(logits - top)).
    """
    # softmax may write over what it reads: a row is read before it is written
    if gradient.device.type == "cpu":
        likely = torch.softmax(gradient, 1, out=gradient).gather(1, label)
        return -likely.masked_fill_(likely < _SMALLEST, 0.0).log_().sum()
    top, chosen = logits.amax(1, keepdim=True).to(gradient), logits.gather(1, label).to(gradient)
    norm = torch.softmax(gradient, 1, out=gradient).amax(1, keepdim=True).reciprocal_()
    return (norm.log_() + top - chosen).sum()


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, rows: int | None = None
) -> Tensor:
    """Sum over rows of ``cross_entropy(hidden @ weight.T + bias, targets)``, differentiable once.

    Args:
        hidden: shape (tokens, width).
        weight: shape (vocabulary, width); its gradient adds up with that of tied embeddings.
        targets: int64, shape (tokens,); no ignored index.
        bias: shape (vocabulary,).
        rows: tokens in a slice; by default as many as measured fastest.

    Returns:
        A scalar, in fp32 for half precision and under autocast.
    """
    if rows is None:
        rows = slice_rows(len(weight), hidden.device.type)
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, rows)


def liger_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by liger-kernel's Triton kernels (https://github.com/linkedin/Liger-Kernel); arguments as above.

    The head's gradient adds up in fp32: liger's own default is the weights' precision, in which thousands of small
    terms are lost in bf16.
    """
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss: Tensor = liger_fused_linear_cross_entropy(
        hidden, weight, targets, bias=bias, reduction="sum", accum_dtype=torch.float32
    )
    return loss


def _is_plain_parameter(weight: Tensor | None) -> bool:
    # ZeRO-3 empties a parameter outside its module's forward; FSDP2 and tensor parallelism make it a DTensor.
    return weight is None or (not hasattr(weight, "ds_id") and type(weight) in (nn.Parameter, Tensor))


def is_head_only(model: PreTrainedModel) -> bool:
    """Whether the logits of ``model`` are those of its linear head on its base model's last hidden state."""
    if model.config.model_type not in HEAD_ONLY or getattr(model.config, "final_logit_softcapping", None):
        return False
    return isinstance(model.get_output_embeddings(), nn.Linear)


def _fusable(head: nn.Module) -> bool:
    plain = type(head) is nn.Linear and _is_plain_parameter(head.weight) and _is_plain_parameter(head.bias)
    return plain and not head._forward_hooks and not head._forward_pre_hooks


def causal_lm_loss(
    model: PreTrainedModel,
    input_ids: Tensor,
    labels: Tensor,
    label_positions: Tensor | None = None,
    borders: Tensor | None = None,
    longest: int | None = None,
    kernel: str = "sliced",
    **kwargs: Any,
) -> Tensor:
    """Sum of the next-token losses of ``labels``.

    Args:
        model: a causal LM; with ``borders`` one that :func:`synthmix.models.kernels.apply_speed` prepared for them.
        input_ids: int64, shape (rows, longest), padded on the right; or (1, tokens), documents end to end.
        labels: int64, of the same shape, -100 where a token is no label; shifted here, as transformers does.
        label_positions: int64, shape (labels,): where the labels are in the flattened rows; looked for by default.
        borders: int32, shape (documents + 1,): where documents that lie end to end begin and end.
        longest: no fewer than the tokens of the longest document between ``borders``.
        kernel: ``sliced``, or ``liger`` for liger-kernel's (a GPU; one wait for it each time).
        kwargs: further arguments of the model's forward; with ``borders``, ``position_ids``.

    Returns:
        A scalar, at least fp32; divide by the number of labels for the mean. Without labels it is 0 and still part of
        the graph, so that every rank of a distributed run has a backward pass.
    """
    if label_positions is None:
        chosen = labels != IGNORE
        chosen[:, 0] = False  # nothing stands before it
        label_positions = chosen.flatten().nonzero()[:, 0]
    if borders is not None:
        kwargs |= as_mask(borders, longest)
    targets, before = labels.flatten()[label_positions], label_positions - 1
    if not is_head_only(model):
        logits = model(input_ids=input_ids, use_cache=False, **kwargs).logits.flatten(0, 1).index_select(0, before)
        return F.cross_entropy(logits.float(), targets, reduction="sum")
    states = model.base_model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state
    hidden = states.flatten(0, 1).index_select(0, before)
    head = model.get_output_embeddings()
    if not _fusable(head):
        return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    if kernel == "liger" and len(targets):
        return liger_cross_entropy(hidden, head.weight, targets, head.bias)
    return linear_cross_entropy(hidden, head.weight, targets, head.bias)
