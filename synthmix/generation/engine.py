"""Decoding many prompts with one model: continuous batching over any Hugging Face causal LM.

A sequence that ends makes room at once for the next request, so none waits for the longest of its batch; the output
head runs on the last position only; prompts that are equal are read once. With :mod:`.sampling`, what a request yields
depends on its own prompt and key, not on the batch size, the order or the split over ranks (in float32, up to draws
that rounding could tip).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix import interrupts
from synthmix.errors import DataError
from synthmix.generation.attention import decoding
from synthmix.generation.backbone import Backbone, Mask
from synthmix.generation.sampling import Sampling, draw
from synthmix.generation.slots import SlotCache
from synthmix.generation.text import StopFinder, TextReader

StopReason = Literal["eos", "stop", "length"]

#: Prompt tokens, padding included, that one forward reads: bounds the memory of its activations.
PREFILL_TOKENS = 8192
#: New requests join when this share of the slots is free: joining costs about as much as a decoding step.
REFILL_SHARE = 1 / 16


@dataclass(frozen=True)
class Request:
    """One sequence to write: it continues ``prompt_ids``; ``key`` decides everything random about it."""

    id: str
    prompt_ids: list[int]
    key: int
    max_new_tokens: int


@dataclass(frozen=True)
class Completion:
    """What the model wrote.

    Attributes:
        id: that of the request.
        token_ids: the tokens written, EOS not included; with ``stop``, up to the token that completed the stop string.
        logprobs: natural log-probability of each token under the unfiltered model at temperature 1.
        eos_logprob: that of EOS, if the sequence ended with it.
        stop_reason: ``eos``, ``stop`` (a stop string was written) or ``length`` (``max_new_tokens`` or the context).
        text: decoded, cut before the stop string; special tokens that the model wrote stay visible.
    """

    id: str
    token_ids: list[int]
    logprobs: list[float]
    eos_logprob: float | None
    stop_reason: StopReason
    text: str


class Writer(Protocol):
    """What writes a completion for each request, in any order: a :class:`Generator`, or several of them."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop: Sequence[str] = ()
    ) -> Iterator[Completion]: ...


@dataclass
class _Row:
    """A sequence under way; its place in the batch is its index in ``_Run.rows``."""

    request: Request
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    eos_logprob: float | None = None
    reason: StopReason = "length"

    def accept(self, token: int, logprob: float, eos: frozenset[int], stops: StopFinder) -> bool:
        """Takes the next token; True if the sequence ends with it."""
        if token in eos:
            self.reason, self.eos_logprob = "eos", logprob
            return True
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in stops.enders and stops.found(self.request.prompt_ids, self.tokens):
            self.reason = "stop"
            return True
        return len(self.tokens) >= self.limit


class Generator:
    """Writes completions with a causal LM.

    Args:
        model: any Hugging Face causal LM with a key-value cache (GPT-NeoX, Llama, OPT, Gemma, ...). It is put into
            evaluation mode.
        tokenizer: its tokenizer, for text and stop strings. Its EOS ends a sequence; only where it has none, the
            model's ``generation_config`` says what does.
        batch_size: sequences decoded together; changes speed and memory, not what is written.
        device: where to move the model; None leaves it where it is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 128,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; expected at least 1")
        self.model = model if device is None else model.to(device)  # type: ignore[arg-type]
        self.backbone = Backbone(self.model)
        self.reader = TextReader(tokenizer)
        self.batch_size = batch_size
        self.eos = _eos_ids(model, tokenizer)

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, stop: Sequence[str] = ()
    ) -> Iterator[Completion]:
        """Yields a completion for each request as its sequence ends (not in the order of the requests).

        Args:
            requests: sequences to write.
            sampling: how tokens are chosen.
            stop: strings that end a sequence as soon as its text contains one.

        Raises:
            DataError: naming the request, if a prompt is empty, exceeds the context or has ids that the model lacks.
            Preempted: between two tokens, if the process was asked to stop; what is under way is lost.
        """
        rows = [_Row(request, self._limit(request)) for request in requests]
        for row in rows:
            if row.limit <= 0:
                yield self._completion(row, stop)
        waiting = [row for row in rows if row.limit > 0]
        if not waiting:
            return
        self.model.eval()
        run = _Run(self, waiting, sampling, StopFinder(self.reader, stop))
        with decoding(self.model):
            while run.waiting or run.rows:
                interrupts.check()
                for row in run.advance():
                    yield self._completion(row, stop)

    def _limit(self, request: Request) -> int:
        length, context = len(request.prompt_ids), self.backbone.context
        if length == 0:
            raise DataError(f"request '{request.id}': the prompt is empty; expected at least one token")
        if context is not None and length > context:
            raise DataError(f"request '{request.id}': the prompt has {length} tokens; the model's context is {context}")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.backbone.vocabulary:
            raise DataError(f"request '{request.id}': token ids outside 0..{self.backbone.vocabulary - 1}")
        return request.max_new_tokens if context is None else min(request.max_new_tokens, context - length)

    def _completion(self, row: _Row, stop: Sequence[str]) -> Completion:
        text = self.reader.text(row.request.prompt_ids, row.tokens)
        cuts = [at for string in stop if (at := text.find(string)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Completion(row.request.id, row.tokens, row.logprobs, row.eos_logprob, row.reason, text)


class _Run:
    """The state of one :meth:`Generator.generate`: rows under way, their tensors, and their cache.

    Rows ``0..n-1`` of every tensor and of the cache are the sequences under way, in the order of :attr:`rows`.
    """

    def __init__(self, generator: Generator, waiting: list[_Row], sampling: Sampling, stops: StopFinder) -> None:
        # Longest prompts first, equal prompts side by side; popped from the end.
        self.waiting = sorted(waiting, key=lambda row: (len(row.request.prompt_ids), row.request.prompt_ids))
        self.backbone, self.eos, self.sampling, self.stops = generator.backbone, generator.eos, sampling, stops
        self.capacity = min(generator.batch_size, len(waiting))
        self.cache = SlotCache(self.capacity)
        self.rows: list[_Row] = []
        self.lengths: list[int] = []  # tokens in each row's cache
        self.keys = torch.empty(0, dtype=torch.long, device=self.backbone.device)
        self.shared = self.waiting[0].request.prompt_ids == self.waiting[-1].request.prompt_ids
        self.shared_logits: Tensor | None = None

    @torch.inference_mode()
    def advance(self) -> list[_Row]:
        """Lets new rows join if it is time, then writes a token in every row; returns the rows that ended."""
        free = self.capacity - len(self.rows)
        if self.waiting and (free >= min(len(self.waiting), self.capacity * REFILL_SHARE) or not self.rows):
            ended = self._join(free)
            if ended or not self.rows:
                return ended
        return self._step()

    def _step(self) -> list[_Row]:
        n, device = len(self.rows), self.backbone.device
        tokens = torch.tensor([row.tokens[-1] for row in self.rows], device=device)
        positions = torch.tensor(self.lengths, device=device)
        self.cache.fit(max(self.lengths) + 1, n)
        self.cache.write_step(positions)
        mask = self._mask(positions)
        hidden = self.backbone.hidden(tokens[:, None], positions[:, None], mask, self.cache)
        self.lengths = [length + 1 for length in self.lengths]
        return self._choose(self.backbone.logits(hidden[:, -1]), 0, n)

    def _mask(self, positions: Tensor) -> Mask:
        distance = positions[:, None, None] - torch.arange(self.cache.columns, device=positions.device)
        return self.backbone.mask(distance >= 0, distance)

    def _choose(self, logits: Tensor, first: int, count: int) -> list[_Row]:
        """Draws the next token of rows ``first..first+count-1``; returns those that end, removed from the batch."""
        steps = torch.tensor([len(row.tokens) for row in self.rows[first : first + count]], device=logits.device)
        tokens, logprobs = draw(logits, self.sampling, self.keys[first : first + count], steps)
        drawn = zip(tokens.tolist(), logprobs.tolist(), strict=True)
        ended = [
            first + i
            for i, (token, logprob) in enumerate(drawn)
            if self.rows[first + i].accept(token, logprob, self.eos, self.stops)
        ]
        rows = [self.rows[i] for i in ended]
        if ended:
            self._remove(ended)
        return rows

    def _remove(self, ended: list[int]) -> None:
        """Closes the gaps with the last rows, so that the rows under way stay the first ones."""
        left = len(self.rows) - len(ended)
        gone = set(ended)
        sources = [i for i in range(left, len(self.rows)) if i not in gone]
        targets = [i for i in ended if i < left]
        for source, target in zip(sources, targets, strict=True):
            self.rows[target], self.lengths[target] = self.rows[source], self.lengths[source]
        if sources:
            to, of = torch.tensor(targets, device=self.keys.device), torch.tensor(sources, device=self.keys.device)
            self.cache.move(of, to)
            self.keys[to] = self.keys[of]
        del self.rows[left:], self.lengths[left:]
        self.keys = self.keys[:left]

    # -- joining ------------------------------------------------------------------------------------------------------

    def _join(self, free: int) -> list[_Row]:
        """Reads the prompts of up to ``free`` waiting rows and draws their first tokens; returns those that end."""
        joining = self._next_group(free)
        first = len(self.rows)
        self.rows += joining
        self.lengths += [len(row.request.prompt_ids) for row in joining]
        self.cache.fit(max(self.lengths) + 1, first)
        keys = torch.tensor([row.request.key for row in joining], device=self.keys.device)
        self.keys = torch.cat([self.keys, keys])
        logits = self._shared_prompt(first, len(joining)) if self.shared else self._read_prompts(first, joining)
        return self._choose(logits, first, len(joining))

    def _next_group(self, free: int) -> list[_Row]:
        if self.shared:
            size = free
        else:
            size = min(free, max(1, PREFILL_TOKENS // len(self.waiting[-1].request.prompt_ids)))
        return [self.waiting.pop() for _ in range(min(size, len(self.waiting)))]

    def _shared_prompt(self, first: int, count: int) -> Tensor:
        """All requests have one prompt: it is read once, and its keys and values are kept in a row of their own."""
        if self.shared_logits is None:
            self.shared_logits = self._read_prompts(first, self.rows[first : first + 1])
            self.shared_prompt = self.cache.copy_of(first, self.lengths[first])
        self.cache.paste(self.shared_prompt, slice(first, first + count))
        return self.shared_logits.expand(count, -1)

    def _read_prompts(self, first: int, rows: list[_Row]) -> Tensor:
        """Forward over the different prompts of ``rows``, padded on the right, where causal attention never looks."""
        unique: dict[tuple[int, ...], int] = {}
        source = [unique.setdefault(tuple(row.request.prompt_ids), len(unique)) for row in rows]
        lengths = [len(prompt) for prompt in unique]
        width = max(lengths)
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in unique], device=self.keys.device)
        positions = torch.arange(width, device=self.keys.device).expand_as(ids)
        of = torch.tensor(source, device=self.keys.device)
        self.cache.write_prompts(first, of)
        hidden = self.backbone.hidden(ids, positions, None, self.cache)
        last = hidden[torch.arange(len(lengths)), torch.tensor(lengths) - 1]
        return self.backbone.logits(last)[of]


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    # The tokenizer's comes first: documents were trained to end with it, while a fresh configuration's is a default
    # that may be any token of a small vocabulary.
    if tokenizer.eos_token_id is not None:
        return frozenset([int(tokenizer.eos_token_id)])  # type: ignore[arg-type]
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    return frozenset([ids] if isinstance(ids, int) else ids or ())
