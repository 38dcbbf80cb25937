"""Nucleus sampling in which a draw belongs to a key, not to a place in a batch.

Sampling from a categorical distribution equals taking the argmax of its log-probabilities plus Gumbel noise (the
Gumbel-max trick). Here the noise of a token is a hash of (the sequence's key, the step, the token's id), so what a
sequence draws at a step depends on its key and the step alone: not on the batch, its order, the rank or a resume.

A nucleus (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration") rarely holds more than some dozens of
tokens, so the vocabulary is not sorted: the most probable tokens are selected first, and only the rows whose nucleus is
not among them are looked at again, last of all with a full sort. The probabilities are normalised over the whole
vocabulary in every case, so all ways lead to the same nucleus and the same draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synthmix.errors import UserError

#: Numbers of most probable tokens tried before the full sort: on a CPU, and where each try waits for the device.
TIERS, DEVICE_TIERS = (64, 256, 1024), (1024,)
#: Slices that the vocabulary is cut into to find the most probable tokens.
_SLICES = 16
#: What a user is told where logits are not numbers.
DIVERGED = "the model's logits are not finite; expected numbers (a training run that diverged?)"
#: Logits that a CPU handles at once, so that what is made of them stays in its cache.
_CPU_LOGITS = 2**20

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") in signed 64-bit integers,
# whose products wrap around on every device.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: nucleus sampling, or the most probable token.

    ``temperature`` divides the logits before the nucleus is found (0 is greedy); ``top_p`` is the nucleus mass, in
    (0, 1], and 1 keeps every token.

    Raises:
        UserError: if either is out of its range.
    """

    temperature: float = 0.8
    top_p: float = 0.9
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; expected a finite number of at least 0 (0: greedy)")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p is {self.top_p}; expected a number above 0 and at most 1 (1: every token)")

    @property
    def is_greedy(self) -> bool:
        """True if no randomness is left: the most probable token is taken."""
        return self.greedy or self.temperature == 0.0


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # `>>` on signed integers copies the sign; the mask makes the shift logical.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(keys: Tensor, step: Tensor | int, token_ids: Tensor) -> Tensor:
    """Uniform numbers in (0, 1), a pure function of (key, step, token id), the same on every device.

    Token ``t`` gets output ``t`` of a SplitMix64 stream whose seed is itself a hash of the key and the step.

    Args:
        keys: int64, shape ``(B,)``.
        step: int64, shape ``(B,)``, or one step for all rows.
        token_ids: int64, shape ``(B, K)``.

    Returns:
        float32, shape ``(B, K)``; fine-grained near 0 (63 bits), at most 1 - 2**-24.
    """
    steps = torch.as_tensor(step, device=keys.device)
    seed = _mix(_mix(keys + _GOLDEN) + (steps + 1) * _GOLDEN)
    bits = _mix(seed[:, None] + (token_ids + 1) * _GOLDEN)
    return (_shift_right(bits, 1).to(torch.float32) * 2.0**-63).clamp_(2.0**-63, 1.0 - 2.0**-24)


def gumbel(keys: Tensor, step: Tensor | int, token_ids: Tensor) -> Tensor:
    """Standard Gumbel noise for (key, step, token id); shapes as in :func:`uniform`."""
    # -log(E) of an exponential E = -log(1 - u): small E, which win, come from small u, where u is fine-grained.
    return uniform(keys, step, token_ids).neg_().log1p_().neg_().log_().neg_()


def nucleus(sorted_probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Which of the most probable tokens are in the nucleus, the smallest set of mass ``top_p`` or more.

    Tokens exactly as probable as the last one of the set are in it too, so that the set does not depend on how a sort
    orders equals (``transformers.TopPLogitsWarper`` keeps an arbitrary part of them).

    Args:
        sorted_probs: shape ``(B, K)``, descending along each row, normalised over the whole vocabulary (K may be less).
        top_p: nucleus mass.

    Returns:
        ``(keep, complete)``: bool, ``(B, K)`` and ``(B,)``. A row is complete if its nucleus cannot reach beyond its K
        tokens; ``keep`` means nothing in rows that are not.
    """
    before = sorted_probs.cumsum(-1).roll(1, -1)
    before[:, 0] = 0.0
    size = (before < top_p).sum(-1, keepdim=True)
    edge = sorted_probs.gather(-1, size - 1)
    reached = before[:, -1:] + sorted_probs[:, -1:] >= top_p
    complete = (reached & (edge > sorted_probs[:, -1:])).squeeze(-1)
    return sorted_probs >= edge, complete


def most_probable(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``probs.topk(k)`` of shape ``(B, V)``; two to five times faster on a CPU where V is much larger than k.

    Columns that lie V/16 apart form a group; the k largest values are in the k groups with the largest maxima.
    """
    size = probs.shape[-1] // _SLICES
    if size < 4 * k or probs.device.type != "cpu":
        return probs.topk(k, dim=-1)
    grouped = probs[:, : size * _SLICES].view(-1, _SLICES, size)
    groups = grouped.amax(1).topk(k, sorted=False).indices[:, None]
    values = grouped.gather(2, groups.expand(-1, _SLICES, -1)).flatten(1)
    ids = (groups + torch.arange(0, size * _SLICES, size, device=probs.device)[:, None]).flatten(1)
    left_over = torch.arange(size * _SLICES, probs.shape[-1], device=probs.device).expand(len(probs), -1)
    values, ids = torch.cat([values, probs[:, size * _SLICES :]], 1), torch.cat([ids, left_over], 1)
    top, at = values.topk(k, dim=-1)
    return top, ids.gather(1, at)


def _draw_sorted(probs: Tensor, ids: Tensor, keep: Tensor, keys: Tensor, step: Tensor) -> Tensor:
    if probs.device.type == "cpu":  # elsewhere noise is cheaper than waiting to learn how much of it is needed
        width = int(keep.sum(-1).max())
        probs, ids, keep = probs[:, :width], ids[:, :width], keep[:, :width]
    scores = probs.log() + gumbel(keys, step, ids)
    best = scores.masked_fill_(~keep, -torch.inf).argmax(-1, keepdim=True)
    return ids.gather(-1, best).squeeze(-1)


def _draw_nucleus(probs: Tensor, top_p: float, keys: Tensor, step: Tensor, tiers: tuple[int, ...]) -> Tensor:
    vocabulary = probs.shape[-1]
    last = not tiers or 2 * tiers[0] >= vocabulary
    if last:
        top, ids = probs.sort(dim=-1, descending=True, stable=True)
        keep, _ = nucleus(top, top_p)
        return _draw_sorted(top, ids, keep, keys, step)
    top, ids = most_probable(probs, tiers[0])
    keep, complete = nucleus(top, top_p)
    if complete.all():
        return _draw_sorted(top, ids, keep, keys, step)
    tokens = torch.empty_like(keys)
    if complete.any():
        tokens[complete] = _draw_sorted(top[complete], ids[complete], keep[complete], keys[complete], step[complete])
    rest = ~complete
    tokens[rest] = _draw_nucleus(probs[rest], top_p, keys[rest], step[rest], tiers[1:])
    return tokens


def _draw_any(log_probs: Tensor, keys: Tensor, step: Tensor) -> Tensor:
    ids = torch.arange(log_probs.shape[-1], device=log_probs.device).expand_as(log_probs)
    return (log_probs + gumbel(keys, step, ids)).argmax(-1)


def draw(
    logits: Tensor, sampling: Sampling, keys: Tensor, step: Tensor, tiers: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability under the model.

    Args:
        logits: any floating type, shape ``(B, V)``; arithmetic is in float32.
        sampling: temperature and nucleus, or greedy.
        keys: int64, ``(B,)``: one key a sequence.
        step: int64, ``(B,)``: index of the token within its sequence.
        tiers: numbers of tokens tried before the full sort, by default those of the device; they change the speed,
            not the draw. With none, nothing on a GPU waits for the host, so that the call can be part of a CUDA graph.

    Returns:
        ``(tokens, logprobs)``: int64 and float32, ``(B,)``. The log-probability (natural) is that of the unfiltered
        distribution at temperature 1, whatever the sampling.

    Raises:
        UserError: if a row's logits hold NaN or plus infinity: the model has diverged. On other devices than the CPU,
            which would have to be waited for, the row's log-probability is NaN instead.
    """
    if tiers is None:
        tiers = TIERS if logits.device.type == "cpu" else DEVICE_TIERS
    size = len(logits) if logits.device.type != "cpu" else max(1, _CPU_LOGITS // logits.shape[-1])
    parts = [
        _draw_rows(logits[i : i + size].float(), sampling, keys[i : i + size], step[i : i + size], tiers)
        for i in range(0, len(logits), size)
    ]
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([logprobs for _, logprobs in parts])


def _draw_rows(
    logits: Tensor, sampling: Sampling, keys: Tensor, step: Tensor, tiers: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    highest = logits.amax(-1)
    if logits.device.type == "cpu" and not torch.isfinite(highest).all():
        raise UserError(DIVERGED)
    probs = logits.softmax(-1)
    # The fused softmax is the fastest way to the normaliser: log Z = max - log max p, and max p >= 1/V.
    log_z = highest - probs.amax(-1).log()
    if sampling.is_greedy:
        tokens = logits.argmax(-1)
    elif sampling.top_p == 1.0:
        tokens = _draw_any((logits - highest[:, None]) / sampling.temperature, keys, step)
    else:
        if sampling.temperature != 1.0:
            probs = torch.softmax((logits - highest[:, None]).div_(sampling.temperature), -1, out=probs)
        tokens = _draw_nucleus(probs, sampling.top_p, keys, step, tiers)
    return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1) - log_z
