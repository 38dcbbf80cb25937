"""Decoding many prompts with one model: continuous batching over any Hugging Face causal LM.

A sequence that ends makes room at once for the next request, so none waits for the longest of its batch; the output
head runs on the last position only; prompts that are equal are read once. With :mod:`.sampling`, what a request yields
depends on its own prompt and key, not on the batch size, the order or the split over ranks (in float32, up to draws
that rounding could tip).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from synthmix import interrupts
from synthmix.errors import DataError, UserError
from synthmix.generation.attention import decoding
from synthmix.generation.backbone import Backbone, Mask
from synthmix.generation.sampling import DIVERGED, Sampling, draw
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
    """What writes a completion for each request, in any order: a :class:`Generator`, several of them, or another
    engine (:mod:`synthmix.generation.backends`)."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, stop: Sequence[str] = ()
    ) -> Iterator[Completion]: ...


@dataclass
class Draft:
    """A completion under way; ``limit`` tokens fit it, and none where that is not positive."""

    request: Request
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    eos_logprob: float | None = None
    reason: StopReason = "length"

    @classmethod
    def of(cls, request: Request, context: int | None, vocabulary: int) -> Draft:
        """Begins a completion.

        Args:
            context: the longest sequence that the model takes, in tokens; None for any.
            vocabulary: the number of token ids that it knows.

        Raises:
            DataError: naming the request, if its prompt is empty, exceeds the context or has ids that the model lacks.
        """
        name, length = f"request '{request.id}'", len(request.prompt_ids)
        if length == 0:
            raise DataError(f"{name}: the prompt is empty; expected at least one token")
        if context is not None and length > context:
            raise DataError(f"{name}: the prompt has {length} tokens; the model's context is {context}")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
            raise DataError(f"{name}: token ids outside 0..{vocabulary - 1}")
        return cls(
            request, request.max_new_tokens if context is None else min(request.max_new_tokens, context - length)
        )

    def accept(self, token: int, logprob: float, eos: frozenset[int], stops: StopFinder) -> bool:
        """Takes the next token; True if the sequence ends with it.

        Raises:
            UserError: its log-probability is not a number: the model has diverged.
        """
        if math.isnan(logprob):
            raise UserError(DIVERGED)
        if token in eos:
            self.reason, self.eos_logprob = "eos", logprob
            return True
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in stops.enders and stops.found(self.request.prompt_ids, self.tokens):
            self.reason = "stop"
            return True
        return len(self.tokens) >= self.limit

    def completion(self, reader: TextReader, stop: Sequence[str]) -> Completion:
        """What was written, as text, cut before the first of the stop strings."""
        text = reader.text(self.request.prompt_ids, self.tokens)
        cuts = [at for string in stop if (at := text.find(string)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Completion(self.request.id, self.tokens, self.logprobs, self.eos_logprob, self.reason, text)


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
        self.eos = eos_ids(tokenizer, model.generation_config)

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
        backbone = self.backbone
        rows = [Draft.of(request, backbone.context, backbone.vocabulary) for request in requests]
        for row in rows:
            if row.limit <= 0:
                yield row.completion(self.reader, stop)
        waiting = [row for row in rows if row.limit > 0]
        if not waiting:
            return
        self.model.eval()
        run = _Run(self, waiting, sampling, StopFinder(self.reader, stop))
        with decoding(self.model):
            while run.waiting or run.rows:
                interrupts.check()
                for row in run.advance():
                    yield row.completion(self.reader, stop)


#: Rows of ``_Run.state``: a sequence's key, how many tokens it has drawn, how many are in the cache, and the last one.
KEY, STEP, LENGTH, TOKEN = range(4)


class _Run:
    """The state of one :meth:`Generator.generate`: rows under way, their tensors, and their cache.

    Rows ``0..n-1`` of the cache, and columns of ``state``, are the sequences under way, in the order of :attr:`rows`.
    What a step needs stays on the device: a step sends nothing there, and brings back tokens and log-probabilities in
    one go.
    """

    def __init__(self, generator: Generator, waiting: list[Draft], sampling: Sampling, stops: StopFinder) -> None:
        # Longest prompts first, equal prompts side by side; popped from the end.
        self.waiting = sorted(waiting, key=lambda row: (len(row.request.prompt_ids), row.request.prompt_ids))
        self.backbone, self.eos, self.sampling, self.stops = generator.backbone, generator.eos, sampling, stops
        self.capacity = min(generator.batch_size, len(waiting))
        self.cache = SlotCache(self.capacity)
        self.rows: list[Draft] = []
        self.lengths: list[int] = []  # tokens in each row's cache
        self.device = self.backbone.device
        self.state = torch.zeros(4, self.capacity, dtype=torch.long, device=self.device)
        self.shared = self.waiting[0].request.prompt_ids == self.waiting[-1].request.prompt_ids
        self.shared_logits: Tensor | None = None

    @torch.inference_mode()
    def advance(self) -> list[Draft]:
        """Lets new rows join if it is time, then writes a token in every row; returns the rows that ended."""
        free = self.capacity - len(self.rows)
        if self.waiting and (free >= min(len(self.waiting), self.capacity * REFILL_SHARE) or not self.rows):
            ended = self._join(free)
            if ended or not self.rows:
                return ended
        return self._step()

    def _step(self) -> list[Draft]:
        n = len(self.rows)
        tokens, positions = self.state[TOKEN, :n], self.state[LENGTH, :n]
        self.cache.fit(max(self.lengths) + 1, n)
        self.cache.write_step(positions)
        hidden = self.backbone.hidden(tokens[:, None], positions[:, None], self._mask(positions), self.cache)
        positions += 1
        self.lengths = [length + 1 for length in self.lengths]
        return self._choose(self.backbone.logits(hidden[:, -1]), 0, n)

    def _mask(self, positions: Tensor) -> Mask:
        distance = positions[:, None, None] - torch.arange(self.cache.columns, device=positions.device)
        return self.backbone.mask(distance >= 0, distance)

    def _choose(self, logits: Tensor, first: int, count: int) -> list[Draft]:
        """Draws the next token of rows ``first..first+count-1``; returns those that end, removed from the batch."""
        state = self.state[:, first : first + count]
        tokens, logprobs = draw(logits, self.sampling, state[KEY], state[STEP])
        state[TOKEN] = tokens
        state[STEP] += 1
        drawn = torch.stack([tokens.double(), logprobs.double()], 1).tolist()  # exact: token ids are below 2**53
        ended = [
            first + i
            for i, (token, logprob) in enumerate(drawn)
            if self.rows[first + i].accept(int(token), logprob, self.eos, self.stops)
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
            to, of = torch.tensor(targets, device=self.device), torch.tensor(sources, device=self.device)
            self.cache.move(of, to)
            self.state[:, to] = self.state[:, of]
        del self.rows[left:], self.lengths[left:]

    # -- joining ------------------------------------------------------------------------------------------------------

    def _join(self, free: int) -> list[Draft]:
        """Reads the prompts of up to ``free`` waiting rows and draws their first tokens; returns those that end."""
        joining = self._next_group(free)
        first = len(self.rows)
        self.rows += joining
        begun = [(row.request.key, 0, len(row.request.prompt_ids), 0) for row in joining]
        self.lengths += [length for _, _, length, _ in begun]
        self.cache.fit(max(self.lengths) + 1, first)
        self.state[:, first : len(self.rows)] = torch.tensor(begun, device=self.device).T
        logits = self._shared_prompt(first, len(joining)) if self.shared else self._read_prompts(first, joining)
        return self._choose(logits, first, len(joining))

    def _next_group(self, free: int) -> list[Draft]:
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

    def _read_prompts(self, first: int, rows: list[Draft]) -> Tensor:
        """Forward over the different prompts of ``rows``, padded on the right, where causal attention never looks."""
        unique: dict[tuple[int, ...], int] = {}
        source = [unique.setdefault(tuple(row.request.prompt_ids), len(unique)) for row in rows]
        lengths = [len(prompt) for prompt in unique]
        width = max(lengths)
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in unique], device=self.device)
        positions = torch.arange(width, device=self.device).expand_as(ids)
        of, ends = torch.tensor(source, device=self.device), torch.tensor(lengths, device=self.device) - 1
        self.cache.write_prompts(first, of)
        hidden = self.backbone.hidden(ids, positions, None, self.cache)
        return self.backbone.logits(hidden[torch.arange(len(ends), device=self.device), ends])[of]


def eos_ids(tokenizer: PreTrainedTokenizerBase, defaults: GenerationConfig | None) -> frozenset[int]:
    """The tokens that end a sequence: the tokenizer's EOS; only where it has none, those of the model's ``defaults``."""
    # The tokenizer's comes first: documents were trained to end with it, while a fresh configuration's is a default
    # that may be any token of a small vocabulary.
    if tokenizer.eos_token_id is not None:
        return frozenset([int(tokenizer.eos_token_id)])  # type: ignore[arg-type]
    ids = defaults.eos_token_id if defaults is not None else None
    return frozenset([ids] if isinstance(ids, int) else ids or ())
