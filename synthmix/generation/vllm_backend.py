"""Writing with vLLM (Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with
PagedAttention"), which loads the exported model by itself.

A request's key seeds a generator of its own, so that the same key yields the same text whatever its company, up to draws
that rounding could tip; that text is another than our own engine's, except for greedy decoding. vLLM runs in a process of
its own, whose memory, the GPU's included, is free once the writer is closed or forgotten.

Imports nothing of vLLM until a writer is made.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from synthmix import interrupts
from synthmix.errors import DataError, UserError
from synthmix.generation.engine import Completion, Draft, Request, eos_ids
from synthmix.generation.sampling import Sampling
from synthmix.generation.text import StopFinder, TextReader

#: Most memory for keys and values where they share it with everything else (CPU), unless one sequence needs more.
CPU_CACHE = 4 * 2**30
#: Share of a GPU's free memory that vLLM may take, weights included.
GPU_SHARE = 0.9
#: Seconds that vLLM's processes have to end by themselves.
GRACE = 30
#: Tokens of a page, as vLLM's CPU attention wants them; a sequence may leave the last one nearly empty.
PAGE = 128


class VllmWriter:
    """Writes completions with a vLLM engine.

    Args:
        folder: a Hugging Face folder that vLLM can load (GPT-NeoX, Llama, OPT, Gemma, ...).
        tokenizer: its tokenizer; as in :class:`~synthmix.generation.engine.Generator`.
        batch_size: sequences decoded together.
        dtype: of weights and cache; float32 or bfloat16.
        local_rank: this process's number on its node: the GPU that is used, of those that the process sees.

    Raises:
        UserError: vLLM does not take this model, or finds too little memory.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 128,
        dtype: torch.dtype = torch.float32,
        local_rank: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; expected at least 1")
        config = AutoConfig.from_pretrained(folder).get_text_config()
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocabulary = int(config.vocab_size)
        self.reader, self.eos = TextReader(tokenizer), eos_ids(tokenizer, _defaults(folder))
        self._engine = _engine(folder, _options(config, batch_size, dtype), local_rank)

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, stop: Sequence[str] = ()
    ) -> Iterator[Completion]:
        """Yields a completion for each request as its sequence ends; as
        :meth:`~synthmix.generation.engine.Generator.generate`, with its errors."""
        drafts = [Draft.of(request, self.context, self.vocabulary) for request in requests]
        stops = StopFinder(self.reader, stop)
        for draft in drafts:
            if draft.limit <= 0:
                yield draft.completion(self.reader, stop)
        # Names of our own: those of the requests need not differ from one another.
        running = {str(i): draft for i, draft in enumerate(drafts) if draft.limit > 0}
        try:
            for name, draft in running.items():
                self._engine.add_request(
                    name, {"prompt_token_ids": draft.request.prompt_ids}, self._params(draft, sampling)
                )
            while running:
                interrupts.check()
                for name in self._step(running, stops):
                    yield running.pop(name).completion(self.reader, stop)
        finally:
            if running:
                self._engine.abort_request(list(running))

    def _step(self, running: Mapping[str, Draft], stops: StopFinder) -> list[str]:
        """One step of the engine; returns the names of the sequences that ended."""
        try:
            outputs = self._engine.step()
        except Exception:
            interrupts.check()  # what asked this process to stop may have ended vLLM's
            raise
        ended = [
            o.request_id for o in outputs if o.request_id in running and self._take(running[o.request_id], o, stops)
        ]
        # The engine counts as we do; only stop strings are known to us alone.
        stopped = [name for name in ended if running[name].reason == "stop"]
        if stopped:
            self._engine.abort_request(stopped)
        return ended

    def _take(self, draft: Draft, output: Any, stops: StopFinder) -> bool:
        """Takes the tokens that are new; True if the sequence ends."""
        new = output.outputs[0]
        for token, known in zip(new.token_ids, new.logprobs or (), strict=True):
            if draft.accept(token, known[token].logprob, self.eos, stops):
                return True
        return bool(output.finished)

    def _params(self, draft: Draft, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0 if sampling.is_greedy else sampling.temperature,
            top_p=1.0 if sampling.is_greedy else sampling.top_p,
            seed=draft.request.key,
            max_tokens=draft.limit,
            stop_token_ids=sorted(self.eos),
            ignore_eos=True,  # vLLM's own idea of it, which is the folder's; ours is among the stop tokens
            logprobs=0,  # the chosen token's alone, before temperature and nucleus
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def close(self) -> None:
        """Ends vLLM's process."""
        engine = self.__dict__.pop("_engine", None)
        if engine is not None:
            engine.engine_core.shutdown(timeout=GRACE)

    def __del__(self) -> None:
        self.close()


def _defaults(folder: Path) -> GenerationConfig | None:
    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None


def _options(config: Any, batch_size: int, dtype: torch.dtype) -> dict[str, Any]:
    """What vLLM is told beside the folder: that its sizes are ours, and how much memory it may take."""
    options: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "max_num_seqs": batch_size,
        "max_model_len": config.max_position_embeddings,
        "seed": 0,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # not the folder's sampling parameters
        "disable_log_stats": True,
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return options | {"gpu_memory_utilization": GPU_SHARE * free / total}
    one = _sequence_bytes(config, dtype)
    return options | {"enforce_eager": True, "kv_cache_memory_bytes": min(batch_size * one, max(CPU_CACHE, one))}


def _sequence_bytes(config: Any, dtype: torch.dtype) -> int:
    """Memory of the keys and values of one sequence as long as the context."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    per_token = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * size
    return per_token * dtype.itemsize * (config.max_position_embeddings + PAGE)


def _engine(folder: Path, options: dict[str, Any], local_rank: int) -> Any:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing is reported to anybody
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        with _alone(local_rank):
            return LLMEngine.from_engine_args(EngineArgs(model=str(folder), **options), enable_multiprocessing=True)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"generation.backend = vllm: vLLM cannot load the model in '{folder}': {reason}") from error


@contextmanager
def _alone(local_rank: int) -> Iterator[None]:
    """Processes started inside see one GPU, no other ranks, and no request to save, which is meant for this process."""
    hidden = {name: os.environ.pop(name) for name in RANKS if name in os.environ}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available():
        known = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = known[local_rank % len(known)]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [interrupts.AGAIN])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.update(hidden)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        elif torch.cuda.is_available():
            del os.environ["CUDA_VISIBLE_DEVICES"]


#: Variables by which a launcher tells a process of the others; vLLM would look for as many ranks of its own.
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
