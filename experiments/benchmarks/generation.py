"""Generation: synthmix's decoder against transformers' ``generate`` and ``generate_batch``, and vLLM, in one run.

    OMP_NUM_THREADS=2 python experiments/benchmarks/generation.py [--vllm PYTHON]

GPT-NeoX shaped like Pythia-14M and Pythia-70M and a Llama like SmolLM2-135M, with random weights (the arithmetic is that of
trained ones). All sides sample with temperature 0.8 and top-p 0.9, 32 sequences at a time:

- ``synthmix``: our engine, with log-probabilities.
- ``generate``: what a script would do: ``generate(do_sample=True)``, batches in order of arrival, padded on the left.
- ``generate_batch``: transformers' continuous batching as it is, each request with its own length.
- ``backend``: the same through ``generation.backend: transformers``, with keyed draws and log-probabilities.
- ``vllm``: vLLM's ``LLM.generate``, each request with its own length and seed, in the environment whose Python is given.

What is made comparable, and how:

- Random weights never end a text, so each request has a length of its own, drawn from a log-normal distribution fitted
  to GSM8K (GPT-NeoX tokens; questions: mean 56, answers: mean 96). ``generate`` runs each batch to its longest row.
  Only the tokens that were asked for count, on all sides. ``equal`` repeats this with 64 new tokens for every request.
- Random weights make nearly flat distributions, whose nucleus is most of the vocabulary. The output head is scaled so
  that logits have a standard deviation of 4: an entropy of some 4.4 nats, flatter than a model trained on its task
  (1.5 to 3 nats), so the shortcut is not flattered. The entropy and the nucleus sizes are in the results.
- Each side has a process of its own, which waits while another one works, so that peak memory is its own. The sides take
  turns, run by run, so that a noisy machine is noisy for all. Figures are medians. CPU seconds (of all threads and
  processes of a side) stand beside the wall clock: they tell what other programs on the machine did to it.
- ``floor`` is what cannot be avoided: the multiplications of each token with the weights over the machine's best matrix
  rate, or, if that takes longer, the bytes of weights (once a step) and cached keys and values (once a token) over its
  memory bandwidth. Both rates are measured before and after the runs, the better one counts. A model that stays in the
  processor's cache is read faster than that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import _bench
import numpy as np
import torch
from _generation_sides import BATCH, SAMPLING, SIDES, Run, ids_only_tokenizer
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from synthmix import keys
from synthmix.generation.engine import Generator, Request
from synthmix.generation.sampling import TIERS, nucleus

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


def neox(**shape: int) -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50304, max_position_embeddings=2048, **shape))


def pythia_14m() -> PreTrainedModel:
    return neox(hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512)


def pythia_70m() -> PreTrainedModel:
    return neox(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048)


def smollm2_135m() -> PreTrainedModel:
    shape = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(
        vocab_size=49152, intermediate_size=1536, max_position_embeddings=2048, tie_word_embeddings=True, **shape
    )
    return LlamaForCausalLM(config)


CASES = {
    case.name: case
    for case in (
        Case("pythia-14m, lengths like GSM8K", pythia_14m, requests=64),
        Case("pythia-14m, 64 new tokens each", pythia_14m, requests=64, equal=64),
        Case("pythia-70m, lengths like GSM8K", pythia_70m, requests=64),
        Case("smollm2-135m, lengths like GSM8K", smollm2_135m, requests=32),
    )
}


def random_model(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = build().eval()
    head = model.get_output_embeddings()
    with torch.inference_mode():
        scale = float(LOGIT_STD / model(torch.randint(0, 40_000, (4, 32))).logits.std())
    if model.config.tie_word_embeddings:  # a hook leaves the embedding as it is
        head.register_forward_pre_hook(lambda _module, args: (args[0] * scale,))
    else:
        head.weight.data.mul_(scale)
    model.generation_config.eos_token_id = None
    return model


def lengths(distribution: tuple[float, float, int, int], n: int, *name: str) -> list[int]:
    mean, std, low, high = distribution
    drawn = np.exp(keys.generator("benchmark", *name).normal(mean, std, n))
    return np.clip(drawn.round(), low, high).astype(int).tolist()


def requests_of(case: Case, vocabulary: int, share: float = 1.0) -> list[Request]:
    prompts = lengths(QUESTION, case.requests, "questions")
    new = [case.equal] * case.requests if case.equal else lengths(ANSWER, case.requests, "answers")
    random = keys.generator("benchmark", "tokens")
    requests = [
        Request(str(i), random.integers(2, vocabulary, size).tolist(), keys.key("benchmark", i), n)
        for i, (size, n) in enumerate(zip(prompts, new, strict=True))
    ]
    return requests[: max(2, round(case.requests * share))]


# -- a process for each side --------------------------------------------------------------------------------------


def serve(case: Case, side: str, share: float) -> None:
    """Runs one side whenever a line comes in; answers with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    model = random_model(case.build)
    requests = requests_of(case, model.config.vocab_size, share)
    run = SIDES[side](model)
    if side == "vllm":
        del model
    run(requests[:4])
    for _ in sys.stdin:
        before = cpu_seconds()
        (seconds,) = _bench.measure(partial(complete, run, requests), 1)
        now = {"wall": seconds, "cpu": cpu_seconds() - before, "rss": memory("VmRSS"), "peak": memory("VmHWM")}
        print(json.dumps(now), file=answers, flush=True)


def complete(run: Run, requests: list[Request]) -> None:
    written, asked = run(requests), sum(request.max_new_tokens for request in requests)
    assert written == asked, (written, asked)


def family() -> list[int]:
    """This process and its descendants."""
    found = [os.getpid()]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def cpu_seconds() -> float:
    """CPU seconds of the family so far."""
    ticks = 0
    for pid in family():
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(values[11]) + int(values[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(name: str) -> int:
    """Bytes that the family holds (VmRSS), or the sum of what each of it has held at most (VmHWM)."""
    lines = [line for pid in family() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


@contextlib.contextmanager
def side_of(case: Case, side: str, share: float, python: str) -> Iterator[Callable[[], dict[str, float]]]:
    """A process for a side; what is yielded has it run once."""
    command = [python, str(Path(__file__).resolve()), "--serve", side, "--only", case.name, "--share", str(share)]
    # Threads that spin while they wait take the cores from whoever has work, on a machine that is not quite idle.
    waiting = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    environment = os.environ | waiting | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None and process.stdout is not None

    def run() -> dict[str, float]:
        print("run", file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"{side} ended with status {process.wait()}; try {' '.join(command)}")
        return json.loads(answer)

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


# -- what stands beside the figures -------------------------------------------------------------------------------


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


def same_samples(model: PreTrainedModel, requests: list[Request]) -> dict[str, int]:
    """How many of some requests get the same tokens one at a time, 32 at a time, and in another order."""
    tokenizer = ids_only_tokenizer(model.config.vocab_size)
    some = [replace(request, max_new_tokens=min(request.max_new_tokens, 48)) for request in requests[:16]]

    def written(asked: list[Request], batch: int) -> dict[str, list[int]]:
        return {c.id: c.token_ids for c in Generator(model, tokenizer, batch).generate(asked, SAMPLING)}

    shuffled = [some[i] for i in keys.permutation(len(some), "benchmark", "order")]
    alone, together, otherwise = written(some, 1), written(some, BATCH), written(shuffled, 5)
    same = sum(alone[r.id] == together[r.id] == otherwise[r.id] for r in some)
    return {"requests": len(some), "same_at_batch_1_and_32_and_shuffled_at_5": same}


def rates() -> tuple[float, float]:
    """Multiply-adds x 2 a second of a large float32 product, and bytes a second that are read from memory."""
    a, b, big = torch.randn(1536, 1536), torch.randn(1536, 1536), torch.randn(2**26)
    product = min(_bench.measure(lambda: a @ b, 10, warmup=2))
    read = min(_bench.measure(big.sum, 5, warmup=1))
    return 2 * 1536**3 / product, big.nbytes / read


def floor(model: PreTrainedModel, requests: list[Request], measured: tuple[float, float]) -> dict[str, float]:
    """The least seconds in which the requests can be written 32 at a time, at these rates."""
    body = sum(p.numel() for p in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = heads * config.hidden_size // config.num_attention_heads
    new = [request.max_new_tokens for request in requests]
    prompts = [len(request.prompt_ids) for request in requests]
    operations = 2 * (sum(new) * (body + head) + sum(prompts) * body)
    steps = max(-(-sum(new) // BATCH), max(new))
    looked_at = sum(n * p + n * (n + 1) // 2 for n, p in zip(new, prompts, strict=True))
    moved = 4 * (steps * (body + head) + looked_at * 2 * config.num_hidden_layers * width)
    products, reads = operations / measured[0], moved / measured[1]
    return {"products_s": products, "reads_s": reads, "floor_s": max(products, reads)}


def compare(case: Case, sides: dict[str, str], runs: int, share: float) -> dict[str, Any]:
    """Runs the sides (and the Python of each) in turns."""
    model = random_model(case.build)
    requests = requests_of(case, model.config.vocab_size, share)
    same, shape, measured = same_samples(model, requests), distributions(model, model.config.vocab_size), [rates()]
    if model.config.tie_word_embeddings:
        sides = {side: python for side, python in sides.items() if side != "vllm"}
    told: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with contextlib.ExitStack() as stack:
        ready = {side: stack.enter_context(side_of(case, side, share, python)) for side, python in sides.items()}
        for _ in range(runs):
            for side, run in ready.items():
                told[side].append(run())
            last = {side: f"{told[side][-1]['wall']:.1f} s, CPU {told[side][-1]['cpu']:.1f} s" for side in sides}
            print(case.name, last, flush=True)
    measured.append(rates())
    best = max(rate for rate, _ in measured), max(rate for _, rate in measured)
    least = floor(model, requests, best)
    tokens = sum(request.max_new_tokens for request in requests)
    walls = {side: [run["wall"] for run in told[side]] for side in sides}
    ours = median(walls["synthmix"])
    return {
        "case": case.name,
        "requests": len(requests),
        "prompt_tokens_mean": float(np.mean([len(request.prompt_ids) for request in requests])),
        "useful_new_tokens": tokens,
        "batch_size": BATCH,
        "distributions": shape,
        "same_samples": same,
        **{
            side: _bench.summary(walls[side])
            | {
                "tokens_per_s": tokens / median(walls[side]),
                "cpu_median_s": median(run["cpu"] for run in told[side]),
                "cpu_s": [run["cpu"] for run in told[side]],
                "peak_memory_bytes": max(run["peak"] for run in told[side]),
                "memory_after_each_run_bytes": [run["rss"] for run in told[side]],
            }
            for side in sides
        },
        "times_as_fast_as": {side: median(wall) / ours for side, wall in walls.items() if side != "synthmix"},
        "times_as_fast_as_each_run": {
            side: [b / a for a, b in zip(walls["synthmix"], wall, strict=True)]
            for side, wall in walls.items()
            if side != "synthmix"
        },
        "matrix_rate_flops": best[0],
        "memory_bandwidth_bytes_per_s": best[1],
        "floor": least | {"synthmix_over_floor": ours / least["floor_s"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    parser.add_argument("--share", type=float, default=1.0, help="share of the requests, for a quick look")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--vllm", default="", metavar="PYTHON", help="the Python of an environment that has vLLM")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(CASES[args.only], args.serve, args.share)
    sides = {side: args.vllm if side == "vllm" else sys.executable for side in SIDES if side != "vllm" or args.vllm}
    results = [compare(case, sides, args.runs, args.share) for name, case in CASES.items() if args.only in name]
    for result in results:
        figures = [f"{side} {result[side]['tokens_per_s']:.0f}" for side in sides if side in result]
        ratios = [f"{ratio:.2f} x {side}" for side, ratio in result["times_as_fast_as"].items()]
        over = result["floor"]["synthmix_over_floor"]
        print(f"{result['case']}: {', '.join(figures)} tokens/s; {', '.join(ratios)}; {over:.1f} x the floor")
    if not args.no_write:
        payload = {"threads": torch.get_num_threads(), "sampling": vars(SAMPLING), "cases": results}
        print(_bench.write("-".join(filter(None, ["generation", args.only])), payload))


if __name__ == "__main__":
    main()
