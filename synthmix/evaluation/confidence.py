"""How sure a model was of an answer: one documented estimator a task is the headline, the others stand beside it.

=========  ==========================================  =====================================================
estimator  generated answer                            multiple choice
=========  ==========================================  =====================================================
mean       exp(mean token log-probability)             softmax over the choices' log-likelihoods per token
sum        exp(sum of token log-probabilities, EOS     softmax over the choices' log-likelihoods
           included): the probability of the answer
answer     exp(mean) over the tokens that state the    --
           result (the number after ``####``)
=========  ==========================================  =====================================================

``auto`` is ``mean`` for generated answers and ``sum`` for choices (PROTOCOL: section "Confidence" of the docs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from synthmix.generation.engine import Completion

#: The headline estimator where ``evaluation.confidence`` is ``auto``.
AUTO = {"generation": "mean", "choice": "sum"}


def choice_confidences(logprobs: Sequence[float], n_tokens: Sequence[int]) -> dict[str, list[float]]:
    """Probabilities over the choices under each estimator; each list sums to 1.

    Args:
        logprobs: log-likelihood of each choice, shape ``(choices,)``.
        n_tokens: tokens of each choice, shape ``(choices,)``.
    """
    total = np.asarray(logprobs, dtype=np.float64)
    return {"sum": _softmax(total), "mean": _softmax(total / np.maximum(1, np.asarray(n_tokens)))}


def same_text_together(choices: Sequence[str], probabilities: Sequence[float]) -> list[float]:
    """The probability of each choice's *text*: choices that read the same are one answer, whose parts add up.

    >>> same_text_together(["bank", "park", "bank"], [0.5, 0.2, 0.3])
    [0.8, 0.2, 0.8]
    """
    texts = [choice.strip() for choice in choices]
    return [math.fsum(p for t, p in zip(texts, probabilities, strict=True) if t == text) for text in texts]


def _softmax(scores: np.ndarray) -> list[float]:
    shifted = np.exp(scores - scores.max())
    values: list[float] = (shifted / shifted.sum()).tolist()
    return values


def generation_confidences(
    completion: Completion, span: tuple[int, int] | None, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float | None]:
    """Confidence in a greedy completion under each estimator; ``answer`` is None where no answer was found."""
    emitted = completion.logprobs
    total = sum(emitted) + (completion.eos_logprob or 0.0)
    return {
        "mean": math.exp(sum(emitted) / len(emitted)) if emitted else math.exp(total),
        "sum": math.exp(total),
        "answer": _span_confidence(completion, span, tokenizer),
    }


def _span_confidence(
    completion: Completion, span: tuple[int, int] | None, tokenizer: PreTrainedTokenizerBase
) -> float | None:
    if span is None or not completion.logprobs:
        return None
    first = _token_at(completion.token_ids, span[0], tokenizer)
    last = max(_token_at(completion.token_ids, span[1] - 1, tokenizer), first)
    inside = completion.logprobs[first : last + 1]
    return math.exp(sum(inside) / len(inside)) if inside else None


def _token_at(ids: list[int], position: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Index of the token that writes character ``position`` of the decoded text, by bisection over prefixes."""
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(ids[: middle + 1])) > position:
            high = middle
        else:
            low = middle + 1
    return low
