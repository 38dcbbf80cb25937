"""Generation: synthmix's decoder against transformers' ``model.generate``, both sides in one run.

    OMP_NUM_THREADS=2 python experiments/benchmarks/generation.py

Two shapes with random weights (the arithmetic is that of trained ones): a GPT-NeoX like Pythia-14M and a Llama like
SmolLM2-135M. Both sides sample with temperature 0.8 and top-p 0.9, 32 sequences at a time. The other side is what a
script would do: ``generate(do_sample=True)``, batches in order of arrival, padded on the left.

What is made comparable, and how:

- Random weights never end a text, so each request has a length of its own, drawn from a log-normal distribution fitted
  to GSM8K (GPT-NeoX tokens; questions: mean 56, answers: mean 96). ``generate`` runs each batch to its longest row.
  Only the tokens that were asked for count, on both sides. ``equal`` repeats this with 64 new tokens for every request.
- Random weights make nearly flat distributions, whose nucleus is most of the vocabulary. The output head is scaled so
  that logits have a standard deviation of 4: an entropy of some 4.4 nats, flatter than a model trained on its task
  (1.5 to 3 nats), so the shortcut is not flattered. The entropy and the nucleus sizes are in the results.
- The sides take turns, run by run, so that a noisy machine is noisy for both. Figures are medians. CPU seconds (of all
  threads) stand beside the wall clock: they tell how much of a difference other programs on the machine made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import _bench
import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from synthmix import keys
from synthmix.generation.engine import Generator, Request
from synthmix.generation.sampling import TIERS, Sampling, nucleus

SAMPLING = Sampling(temperature=0.8, top_p=0.9)
BATCH = 32
LOGIT_STD = 4.0
#: Mean and standard deviation of the log of the lengths of GSM8K's training set (GPT-NeoX tokens), and the range.
QUESTION, ANSWER = (3.959, 0.356, 10, 217), (4.470, 0.426, 21, 342)


@dataclass(frozen=True)
class Case:
    """One comparison; ``equal`` is the number of new tokens of every request, None draws lengths like GSM8K's."""

    name: str
    build: Callable[[], PreTrainedModel]
    requests: int
    equal: int | None = None


def pythia_14m() -> PreTrainedModel:
    shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50304, max_position_embeddings=2048, **shape))


def smollm2_135m() -> PreTrainedModel:
    shape = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(
        vocab_size=49152, intermediate_size=1536, max_position_embeddings=2048, tie_word_embeddings=True, **shape
    )
    return LlamaForCausalLM(config)


CASES = (
    Case("pythia-14m, lengths like GSM8K", pythia_14m, requests=64),
    Case("pythia-14m, 64 new tokens each", pythia_14m, requests=64, equal=64),
    Case("smollm2-135m, lengths like GSM8K", smollm2_135m, requests=32),
)


def random_model(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = build().eval()
    with torch.inference_mode():
        spread = model(torch.randint(0, 40_000, (4, 32))).logits.std()
    # Where the head is tied to the embedding, a hook leaves the embedding as it is.
    scale = float(LOGIT_STD / spread)
    model.get_output_embeddings().register_forward_pre_hook(lambda _module, args: (args[0] * scale,))
    model.generation_config.eos_token_id = None
    return model


def lengths(distribution: tuple[float, float, int, int], n: int, *name: str) -> list[int]:
    mean, std, low, high = distribution
    drawn = np.exp(keys.generator("benchmark", *name).normal(mean, std, n))
    return np.clip(drawn.round(), low, high).astype(int).tolist()


def requests_of(case: Case, vocabulary: int) -> list[Request]:
    prompts = lengths(QUESTION, case.requests, "questions")
    new = [case.equal] * case.requests if case.equal else lengths(ANSWER, case.requests, "answers")
    random = keys.generator("benchmark", "tokens")
    return [
        Request(str(i), random.integers(2, vocabulary, size).tolist(), keys.key("benchmark", i), n)
        for i, (size, n) in enumerate(zip(prompts, new, strict=True))
    ]


def ids_only_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Random prompts need no text: one word a token."""
    words = {f"t{i}": i for i in range(vocabulary)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")))


def ours(generator: Generator, requests: list[Request]) -> None:
    written = sum(len(completion.token_ids) for completion in generator.generate(requests, SAMPLING))
    assert written == sum(request.max_new_tokens for request in requests)


def theirs(model: PreTrainedModel, requests: list[Request]) -> None:
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        width = max(len(request.prompt_ids) for request in batch)
        padding = [width - len(request.prompt_ids) for request in batch]
        ids = torch.tensor([[0] * pad + request.prompt_ids for pad, request in zip(padding, batch, strict=True)])
        mask = (torch.arange(width) >= torch.tensor(padding)[:, None]).long()
        longest = max(request.max_new_tokens for request in batch)
        output = model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=SAMPLING.temperature, top_p=SAMPLING.top_p, top_k=0,
            max_new_tokens=longest, pad_token_id=0,
        )  # fmt: skip
        assert output.shape == (len(batch), width + longest)


@torch.inference_mode()
def distributions(model: PreTrainedModel, vocabulary: int) -> dict[str, Any]:
    """How flat the distributions are that both sides sample from."""
    ids = torch.tensor(keys.generator("benchmark", "flatness").integers(2, vocabulary, (8, 32)))
    logits = model(ids).logits.flatten(0, 1)
    log_probs = logits.log_softmax(-1)
    probs = (logits / SAMPLING.temperature).softmax(-1).sort(dim=-1, descending=True).values
    sizes = nucleus(probs, SAMPLING.top_p)[0].sum(-1)
    return {
        "entropy_nats": float(-(log_probs.exp() * log_probs).sum(-1).mean()),
        "nucleus_tokens_median": int(sizes.median()),
        "share_beyond_first_tier": float((sizes > TIERS[0]).float().mean()),
        "share_sorted": float((sizes > TIERS[-1]).float().mean()),
    }


def compare(case: Case, runs: int, share: float) -> dict[str, Any]:
    model = random_model(case.build)
    vocabulary = model.config.vocab_size
    requests = requests_of(case, vocabulary)[: max(2, round(case.requests * share))]
    generator = Generator(model, ids_only_tokenizer(vocabulary), BATCH)
    ours(generator, requests[:4])
    theirs(model, requests[:4])
    sides = {"synthmix": lambda: ours(generator, requests), "generate": lambda: theirs(model, requests)}
    wall: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(runs):
        for side, run in sides.items():
            before = time.process_time()
            wall[side] += _bench.measure(run, 1)
            cpu[side].append(time.process_time() - before)
        print(case.name, {side: f"{wall[side][-1]:.1f} s, CPU {cpu[side][-1]:.1f} s" for side in sides}, flush=True)
    tokens = sum(request.max_new_tokens for request in requests)
    return {
        "case": case.name,
        "requests": len(requests),
        "prompt_tokens_mean": float(np.mean([len(request.prompt_ids) for request in requests])),
        "useful_new_tokens": tokens,
        "batch_size": BATCH,
        "distributions": distributions(model, vocabulary),
        **{
            side: _bench.summary(wall[side])
            | {"tokens_per_s": tokens / median(wall[side]), "cpu_median_s": median(cpu[side]), "cpu_s": cpu[side]}
            for side in sides
        },
        "speedup": median(wall["generate"]) / median(wall["synthmix"]),
        "speedup_each_run": [b / a for a, b in zip(wall["synthmix"], wall["generate"], strict=True)],
        "speedup_cpu": median(cpu["generate"]) / median(cpu["synthmix"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each side")
    parser.add_argument("--share", type=float, default=1.0, help="share of the requests, for a quick look")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    results = [compare(case, args.runs, args.share) for case in CASES if args.only in case.name]
    for result in results:
        print(
            f"{result['case']:34s} synthmix {result['synthmix']['tokens_per_s']:7.0f}  "
            f"generate {result['generate']['tokens_per_s']:7.0f} tokens/s  {result['speedup']:.2f}x "
            f"(CPU time {result['speedup_cpu']:.2f}x)"
        )
    if not args.no_write:
        payload = {"threads": torch.get_num_threads(), "sampling": vars(SAMPLING), "cases": results}
        print(_bench.write("generation", payload))


if __name__ == "__main__":
    main()
