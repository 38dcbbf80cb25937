"""Log-likelihoods of given texts: the choices of a question, and whole documents.

The choices of a question share its stem, so they are read in one row, ``stem + choice 1 + choice 2 + ...``: each choice
attends to the stem and to itself, at the positions it would have alone. The output head is applied only where a token's
probability is asked for, once for the first tokens of all choices: with one-token choices, once a question. A choice's
last token predicts nothing that is asked for and is not read at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from synthmix import interrupts
from synthmix.errors import DataError
from synthmix.generation.backbone import Backbone, Mask

#: Tokens, padding included, that one forward reads.
TOKEN_BUDGET = 8192
#: Tokens that one forward reads for each sequence that it may take: half the batch size is half the memory, also where
#: texts are so long that the budget, and not the batch size, ends a batch.
TOKENS_A_SEQUENCE = 64
#: Padding that one forward may read: beyond it, a further forward of narrower rows costs less.
PADDING_BUDGET = 256
#: Logits held at once: 64 MiB in float32.
LOGIT_BUDGET = 16 * 2**20


@dataclass(frozen=True)
class ChoiceItem:
    """A question: the tokens of its prompt, and those of each possible completion."""

    id: str
    prompt_ids: list[int]
    choices: list[list[int]]


class ChoiceScore(NamedTuple):
    """Sum of the natural log-probabilities of a text's tokens, and how many there are."""

    logprob: float
    n_tokens: int


@dataclass(frozen=True)
class _Row:
    """One packed row: ``stem`` followed by each choice without its last token."""

    index: int
    stem: Sequence[int]
    choices: Sequence[Sequence[int]]

    @property
    def length(self) -> int:
        return len(self.stem) + sum(len(choice) - 1 for choice in self.choices if choice)


def choice_logprobs(
    model: PreTrainedModel, items: Sequence[ChoiceItem], batch_size: int = 128, token_budget: int = TOKEN_BUDGET
) -> list[list[ChoiceScore]]:
    """The log-likelihood of every choice after its item's prompt.

    Args:
        model: any Hugging Face causal LM; put into evaluation mode.
        items: questions, of any lengths; sorted by length inside, answered in the order given.
        batch_size: most items in one forward.
        token_budget: most tokens, padding included, in one forward (an item that is longer goes alone).

    Returns:
        For each item, one score a choice. An empty choice scores (0.0, 0).

    Raises:
        DataError: naming the item, if a prompt is empty or a prompt with a choice exceeds the model's context.
    """
    rows = [_Row(i, item.prompt_ids, item.choices) for i, item in enumerate(items)]
    return _Scorer(model).score(rows, [f"item '{item.id}'" for item in items], batch_size, token_budget)


def document_logprobs(
    model: PreTrainedModel,
    documents: Sequence[tuple[Sequence[int], int]],
    batch_size: int = 128,
    token_budget: int = TOKEN_BUDGET,
) -> list[ChoiceScore]:
    """The log-likelihood of each document's tokens from ``start`` on, given all before them.

    ``exp(-logprob / n_tokens)`` is the perplexity.

    Args:
        model: any Hugging Face causal LM; put into evaluation mode.
        documents: ``(ids, start)``. With ``start`` 0 the first token, which has nothing before it, is not counted.
        batch_size: most documents in one forward.
        token_budget: most tokens, padding included, in one forward (a document that is longer goes alone).

    Returns:
        ``(sum of natural log-probabilities, number of tokens counted)`` for each document, in the order given.

    Raises:
        DataError: naming the document by its place, if it is empty or exceeds the model's context.
    """
    rows = [_Row(i, ids[: max(start, 1)], [ids[max(start, 1) :]]) for i, (ids, start) in enumerate(documents)]
    names = [f"document {i}" for i in range(len(rows))]
    return [scores[0] for scores in _Scorer(model).score(rows, names, batch_size, token_budget)]


class _Scorer:
    def __init__(self, model: PreTrainedModel) -> None:
        model.eval()
        self.backbone = Backbone(model)

    def score(self, rows: list[_Row], names: list[str], batch_size: int, token_budget: int) -> list[list[ChoiceScore]]:
        for row, name in zip(rows, names, strict=True):
            self._check(row, name)
        scores: list[list[ChoiceScore]] = [[] for _ in rows]
        for batch in _batches(rows, batch_size, min(token_budget, TOKENS_A_SEQUENCE * batch_size)):
            interrupts.check()
            for row, sums in zip(batch, self._sums(batch), strict=True):
                scores[row.index] = [
                    ChoiceScore(total, len(choice)) for total, choice in zip(sums, row.choices, strict=True)
                ]
        return scores

    def _check(self, row: _Row, name: str) -> None:
        longest = len(row.stem) + max((len(choice) for choice in row.choices), default=0)
        if not row.stem:
            raise DataError(f"{name}: nothing comes before the first token; expected at least one token of prompt")
        if self.backbone.context is not None and longest > self.backbone.context:
            raise DataError(f"{name}: {longest} tokens; the model's context is {self.backbone.context}")

    @torch.inference_mode()
    def _sums(self, batch: list[_Row]) -> list[list[float]]:
        """Summed log-probabilities of each row's choices."""
        device = self.backbone.device
        ids, positions, mask = self._pack(batch)
        hidden = self.backbone.hidden(ids, positions, mask).flatten(0, 1)
        place, token, choice = _questions(batch, ids.shape[1], device)
        places, inverse = place.unique(return_inverse=True)
        logprobs = self._token_logprobs(hidden[places], inverse, token)
        counts = [len(row.choices) for row in batch]
        sums = torch.zeros(sum(counts), dtype=torch.float64, device=device).index_add_(0, choice, logprobs.double())
        return [part.tolist() for part in sums.split(counts)]

    def _token_logprobs(self, hidden: Tensor, place: Tensor, token: Tensor) -> Tensor:
        """Log-probability of ``token[i]`` after hidden state ``place[i]``; logits are made a slice at a time."""
        logprobs = torch.empty(len(token), device=hidden.device)
        rows = max(1, LOGIT_BUDGET // self.backbone.vocabulary)
        for start in range(0, len(hidden), rows):
            logits = self.backbone.logits(hidden[start : start + rows]).float()
            asked = (place >= start) & (place < start + rows)
            at = place[asked] - start
            logprobs[asked] = logits[at, token[asked]] - logits.logsumexp(-1)[at]
        return logprobs

    def _pack(self, batch: list[_Row]) -> tuple[Tensor, Tensor, Mask]:
        width, device = max(row.length for row in batch), self.backbone.device
        # Padding, on the right, belongs to a segment of its own; no real token looks at it.
        ids, positions, segments = (torch.full((len(batch), width), fill) for fill in (0, 0, -1))
        for i, row in enumerate(batch):
            tokens, places, owners = _layout(row)
            ids[i, : len(tokens)] = torch.tensor(tokens)
            positions[i, : len(tokens)] = torch.tensor(places)
            segments[i, : len(tokens)] = torch.tensor(owners)
        ids, positions, segments = ids.to(device), positions.to(device), segments.to(device)
        if all(len(row.choices) == 1 for row in batch):
            return ids, torch.arange(width, device=device).expand_as(ids), None
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        of_stem = (segments == 0)[:, None, :]
        same = segments[:, :, None] == segments[:, None, :]
        distance = positions[:, :, None] - positions[:, None, :]
        return ids, positions, self.backbone.mask((of_stem | same) & causal, distance)


def _layout(row: _Row) -> tuple[list[int], list[int], list[int]]:
    """Token ids, positions and segments (0: stem, c + 1: choice c) of a packed row."""
    ids = list(row.stem)
    positions, segments = list(range(len(ids))), [0] * len(ids)
    for number, choice in enumerate(row.choices, start=1):
        read = list(choice[:-1])
        ids += read
        positions += range(len(row.stem), len(row.stem) + len(read))
        segments += [number] * len(read)
    return ids, positions, segments


def _questions(batch: list[_Row], width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What is asked: ``(place in the flattened batch, token, choice counted over the batch)``, one entry a token."""
    place: list[int] = []
    token: list[int] = []
    owner: list[int] = []
    first_choice = 0
    for i, row in enumerate(batch):
        end_of_stem = i * width + len(row.stem) - 1
        start = end_of_stem + 1
        for number, choice in enumerate(row.choices):
            if not choice:
                continue
            place += [end_of_stem, *range(start, start + len(choice) - 1)]
            token += choice
            owner += [first_choice + number] * len(choice)
            start += len(choice) - 1
        first_choice += len(row.choices)
    return (
        torch.tensor(place, dtype=torch.long, device=device),
        torch.tensor(token, dtype=torch.long, device=device),
        torch.tensor(owner, dtype=torch.long, device=device),
    )


def _batches(rows: list[_Row], batch_size: int, token_budget: int) -> Iterator[list[_Row]]:
    """Rows of similar length together, the longest first, so that memory peaks at once."""
    batch: list[_Row] = []
    padding = 0
    for row in sorted(rows, key=lambda row: row.length, reverse=True):
        width = batch[0].length if batch else row.length
        full = len(batch) == batch_size or (len(batch) + 1) * width > token_budget
        if batch and (full or padding + width - row.length > PADDING_BUDGET):
            yield batch
            batch, padding, width = [], 0, row.length
        batch.append(row)
        padding += width - row.length
    if batch:
        yield batch
