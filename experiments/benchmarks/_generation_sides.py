"""What writes in the comparisons of generation: each side takes requests and says how many tokens it wrote."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from synthmix.generation.engine import Generator, Request
from synthmix.generation.sampling import Sampling

SAMPLING = Sampling(temperature=0.8, top_p=0.9)
#: Sequences under way at once.
BATCH = 32

Run = Callable[[list[Request]], int]


def ids_only_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Random prompts need no text: one word a token."""
    words = {f"t{i}": i for i in range(vocabulary)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")))


def synthmix(model: PreTrainedModel) -> Run:
    generator = Generator(model, ids_only_tokenizer(model.config.vocab_size), BATCH)
    return lambda requests: sum(len(c.token_ids) for c in generator.generate(requests, SAMPLING))


def backend(model: PreTrainedModel) -> Run:
    from synthmix.generation.transformers_backend import TransformersWriter

    writer = TransformersWriter(model, ids_only_tokenizer(model.config.vocab_size), BATCH)
    return lambda requests: sum(len(c.token_ids) for c in writer.generate(requests, SAMPLING))


def generate(model: PreTrainedModel) -> Run:
    """What a script would do: batches in order of arrival, padded on the left, each as long as its longest row."""

    def run(requests: list[Request]) -> int:
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            width = max(len(request.prompt_ids) for request in batch)
            padding = [width - len(request.prompt_ids) for request in batch]
            rows = [[0] * pad + request.prompt_ids for pad, request in zip(padding, batch, strict=True)]
            ids = torch.tensor(rows, device=model.device)
            mask = (torch.arange(width) >= torch.tensor(padding)[:, None]).long().to(model.device)
            longest = max(request.max_new_tokens for request in batch)
            output = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=SAMPLING.temperature, top_p=SAMPLING.top_p,
                top_k=0, max_new_tokens=longest, pad_token_id=0,
            )  # fmt: skip
            assert output.cpu().shape == (len(batch), width + longest)  # the text is there, on the host
        return sum(request.max_new_tokens for request in requests)

    return run


def generate_batch(model: PreTrainedModel) -> Run:
    """What ``generate_batch`` does, which knows one length for all, with the length of each request."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    config = GenerationConfig(
        do_sample=True, temperature=SAMPLING.temperature, top_p=SAMPLING.top_p, top_k=0, eos_token_id=-1
    )

    def run(requests: list[Request]) -> int:
        longest = max(len(request.prompt_ids) + request.max_new_tokens for request in requests)
        # It would take 60 % of the memory for its cache; this holds the batch with the reserve that it keeps.
        blocks = 2 * BATCH * -(-longest // 256)
        batching = ContinuousBatchingConfig(max_requests_per_batch=BATCH, num_blocks=blocks, max_batch_tokens=1024)
        written = 0
        with model.continuous_batching_context_manager(config, continuous_batching_config=batching) as manager:
            for request in requests:
                manager.add_request(request.prompt_ids, request.id, request.max_new_tokens)
            for _ in requests:
                output = None
                while output is None:
                    output = manager.get_result(timeout=1)
                assert output.error is None
                written += len(output.generated_tokens)
        return written

    return run


def vllm(model: PreTrainedModel) -> Run:
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams

    assert not model.config.tie_word_embeddings, "the scale of the head cannot be said in the weights"
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        llm = LLM(
            model=folder, dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=BATCH, seed=0,
            skip_tokenizer_init=True, generation_config="vllm", kv_cache_memory_bytes=2**30,
        )  # fmt: skip

    def run(requests: list[Request]) -> int:
        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        params = [
            SamplingParams(
                temperature=SAMPLING.temperature, top_p=SAMPLING.top_p, seed=request.key, detokenize=False,
                ignore_eos=True, max_tokens=request.max_new_tokens,
            )
            for request in requests
        ]  # fmt: skip
        return sum(len(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False))

    return run


SIDES = {side.__name__: side for side in (synthmix, generate, generate_batch, backend, vllm)}
