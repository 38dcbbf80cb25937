"""Writing with transformers' own continuous batching: its paged cache and scheduler, our keyed sampler.

Its loop runs in a thread of its own and draws with one generator for all, so that a sequence would depend on its company.
Here the loop's logits processors are replaced by one that draws with the request's key (:mod:`.sampling`) and leaves the
loop nothing to choose. Its log-probabilities are those of the processed distribution; what is kept is the model's own,
from one forward over each finished sequence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import FutureRequestState, GenerationOutput
from transformers.generation.continuous_batching.utils import WorkloadHints

from synthmix import interrupts
from synthmix.errors import DataError, UserError
from synthmix.generation.backbone import Backbone
from synthmix.generation.engine import PREFILL_TOKENS, Completion, Draft, Request, eos_ids
from synthmix.generation.sampling import DIVERGED, Sampling, draw
from synthmix.generation.text import StopFinder, TextReader

#: Logits held at once when finished sequences are scored: 64 MiB in float32.
LOGITS = 16 * 2**20
#: Tokens of one forward of the loop, prompts and new ones together; without FlashAttention it makes a mask of so many rows.
BATCH_TOKENS = 1024
#: Share of its pages that the loop wants free before it lets another sequence in.
RESERVE = 0.2
#: How long to wait for the loop before looking whether this process was asked to stop, in seconds.
PATIENCE = 0.1


class KeyedSampling(ContinuousBatchingLogitsProcessorList):
    """The logits processor of a loop: leaves, of each row of logits, only the token that the request's key draws.

    Requests say their key, and the length of their prompt, as ``key`` and ``start``. Rows of the loop's int32 tensor
    hold the lower and upper half of the key, and the step.
    """

    def __init__(self, sampling: Sampling) -> None:
        super().__init__(LogitsProcessorList())
        self.sampling = sampling
        self.tensors_required, self.do_processing = 3, True
        self.supported_keys = {"key": int, "start": int}

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_in_batch: list[FutureRequestState], arg_storage: Tensor) -> Tensor:
        keys, steps = [], []
        for request in requests_in_batch:
            if request.has_new_token:
                asked = request.state.logit_processor_kwargs
                keys.append(asked["key"])
                # The place of the token to come, whether or not earlier ones have arrived (asynchronous batching), and
                # where a sequence was put off and read again with what it had written.
                steps.append(request.state.position_offset - asked["start"])
        if keys:
            low, high = torch.tensor(keys).view(torch.int32).view(-1, 2).T
            rows = torch.stack([low, high, torch.tensor(steps, dtype=torch.int32)])
            arg_storage[:, : len(keys)] = rows.to(arg_storage.device)
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        low, high, step = logits_processor_args[:, : len(scores)].long()
        key = (high << 32) | (low & 0xFFFFFFFF)
        # No tiers: the loop may be recorded as a CUDA graph.
        tiers = None if scores.device.type == "cpu" else ()
        tokens, _ = draw(scores, self.sampling, key, step, tiers)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class TransformersWriter:
    """Writes completions with ``model.init_continuous_batching``.

    Args:
        model: a Hugging Face causal LM that takes a paged cache; put into evaluation mode.
        tokenizer: its tokenizer; as in :class:`~synthmix.generation.engine.Generator`.
        batch_size: sequences decoded together.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 128) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; expected at least 1")
        self.model, self.batch_size = model, batch_size
        self.backbone, self.reader = Backbone(model), TextReader(tokenizer)
        self.eos = eos_ids(tokenizer, model.generation_config)

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, stop: Sequence[str] = ()
    ) -> Iterator[Completion]:
        """Yields a completion for each request once all are written.

        Args and errors are those of :meth:`~synthmix.generation.engine.Generator.generate`; an interrupt loses what was
        asked for in this call.

        Raises:
            UserError: transformers cannot batch this model continuously, or the model has diverged.
        """
        drafts = [Draft.of(request, self.backbone.context, self.backbone.vocabulary) for request in requests]
        waiting = {str(i): draft for i, draft in enumerate(drafts) if draft.limit > 0}
        if waiting:
            self._write(waiting, sampling, StopFinder(self.reader, stop))
            for batch in _batches(list(waiting.values())):
                self._score(batch)
        for draft in drafts:
            yield draft.completion(self.reader, stop)

    def _write(self, drafts: dict[str, Draft], sampling: Sampling, stops: StopFinder) -> None:
        with self._loop(drafts, sampling) as loop:
            for name, draft in drafts.items():
                prompt = draft.request.prompt_ids
                loop.add_request(prompt, name, draft.limit, bool(stops.stop), key=draft.request.key, start=len(prompt))
            unfinished = set(drafts)
            while unfinished:
                interrupts.check()
                output = loop.get_result(timeout=PATIENCE)
                if output is None:
                    _check(loop)
                elif output.request_id in unfinished and self._take(drafts[output.request_id], output, stops):
                    unfinished.remove(output.request_id)
                    if not output.is_finished():
                        loop.cancel_request(output.request_id)

    @contextmanager
    def _loop(self, drafts: dict[str, Draft], sampling: Sampling) -> Iterator[ContinuousBatchingManager]:
        config = GenerationConfig(do_sample=False, eos_token_id=sorted(self.eos) or [-1])
        model: Any = self.model  # the mixin that batches is not part of PreTrainedModel
        try:
            loop = model.init_continuous_batching(config, *self._sizes(drafts.values()))
        except ValueError as error:
            raise UserError(f"generation.backend = transformers: {type(self.model).__name__}: {error}") from error
        loop.logit_processor = KeyedSampling(sampling)
        loop.start()
        try:
            yield loop
        finally:
            loop.stop(hard_stop=True)
            loop.destroy()

    def _sizes(self, drafts: Collection[Draft]) -> tuple[ContinuousBatchingConfig, WorkloadHints]:
        longest = max(draft.limit for draft in drafts)
        prompt = max(len(draft.request.prompt_ids) for draft in drafts)
        rows = min(self.batch_size, len(drafts))
        sizes = ContinuousBatchingConfig(max_requests_per_batch=rows, max_batch_tokens=max(BATCH_TOKENS, rows))
        sizes.auto_switch_to_flash = self.model.dtype in (torch.bfloat16, torch.float16)  # all that its kernels take
        # transformers' own where logits are processed, which it does not know of yet
        sizes.max_memory_percent = 0.8
        if self.backbone.device.type == "cpu":  # where the loop would take 60 % of all memory
            pages = -(-(prompt + longest) // sizes.page_size) + 1
            sizes.num_blocks = math.ceil(rows * pages / (1 - RESERVE))
        return sizes, WorkloadHints(prompt, longest, len(drafts))

    def _take(self, draft: Draft, output: GenerationOutput, stops: StopFinder) -> bool:
        """Takes what a sequence has got by now; True if it ends there. Log-probabilities are left at 0 until scored."""
        if output.error is not None:
            raise UserError(DIVERGED) if DIVERGED in output.error else RuntimeError(output.error)
        return any(draft.accept(token, 0.0, self.eos, stops) for token in output.generated_tokens[len(draft.tokens) :])

    @torch.inference_mode()
    def _score(self, drafts: list[Draft]) -> None:
        """Puts the log-probabilities in place, from one forward over the sequences, padded on the right."""
        device = self.backbone.device
        end = min(self.eos, default=0)
        told = [draft.tokens + [end] * (draft.reason == "eos") for draft in drafts]
        rows = [draft.request.prompt_ids + tokens[:-1] for draft, tokens in zip(drafts, told, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        hidden = self.backbone.hidden(ids, torch.arange(width, device=device).expand_as(ids)).flatten(0, 1)
        places = [
            i * width + len(draft.request.prompt_ids) - 1 + j
            for i, (draft, tokens) in enumerate(zip(drafts, told, strict=True))
            for j in range(len(tokens))
        ]
        found = iter(self._logprobs(hidden[torch.tensor(places, device=device)], [t for row in told for t in row]))
        for draft in drafts:
            draft.logprobs = [next(found) for _ in draft.tokens]
            draft.eos_logprob = next(found) if draft.reason == "eos" else None

    def _logprobs(self, hidden: Tensor, tokens: list[int]) -> list[float]:
        """Log-probability of each of ``tokens`` after each of ``hidden``, ``(n, D)``; logits are made in slices."""
        found: list[Tensor] = []
        size = max(1, LOGITS // self.backbone.vocabulary)
        for part, asked in zip(hidden.split(size), torch.tensor(tokens, device=hidden.device).split(size), strict=True):
            logits = self.backbone.logits(part).float()
            found.append(logits.gather(-1, asked[:, None]).squeeze(-1) - logits.logsumexp(-1))
        return torch.cat(found).tolist()


def _batches(drafts: list[Draft]) -> Iterator[list[Draft]]:
    """Finished sequences of similar length together, at most ``PREFILL_TOKENS`` with their padding."""
    batch: list[Draft] = []
    by_length = sorted(drafts, key=lambda draft: len(draft.request.prompt_ids) + len(draft.tokens), reverse=True)
    for draft in by_length:
        width = len((batch or [draft])[0].request.prompt_ids) + len((batch or [draft])[0].tokens)
        if batch and (len(batch) + 1) * width > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(draft)
    if batch:
        yield batch


def _check(loop: ContinuousBatchingManager) -> None:
    """Raises what ended the loop, if it has ended."""
    error = loop.background_thread_status.fatal_error
    if isinstance(error, UserError):
        raise error
    if error is not None or not loop.is_running():
        raise RuntimeError(f"transformers' continuous batching ended: {error}") from error
