"""The memory estimator against what a training step really holds, on the CPU.

    python experiments/scale/memory.py --out experiments/scale/memory.json

Every case builds a model with random weights and trains it for two optimizer steps as Lightning's precisions would
(fp32, or bf16 autocast; plain bf16 weights beside), with the loss that training uses. torch's profiler says what its CPU
allocator gives out and takes back; the peak is that of the last step. Attention is SDPA's fused CPU kernel, which keeps
what the flash kernel of a GPU keeps. A gradient is summed over two micro-batches in the cases that say so.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, OPTConfig, PreTrainedModel

from synthmix.config import HardwareConfig
from synthmix.models.loss import causal_lm_loss
from synthmix.models.memory import Dimensions, training_need

#: Tokens of a document, and optimizer steps: the first makes the optimizer's state.
LENGTH, STEPS = 256, 2


@dataclass(frozen=True)
class Case:
    """One measurement; ``micro_batches`` of ``micro_batch`` examples make a step."""

    shape: Dimensions
    precision: str
    checkpointing: bool
    micro_batch: int
    micro_batches: int = 1

    @property
    def hardware(self) -> HardwareConfig:
        return HardwareConfig(
            precision=self.precision, micro_batch=self.micro_batch, activation_checkpointing=self.checkpointing
        )


#: Pythia's, OPT's and Llama's layers at small sizes; parameters are counted when the model is built.
SHAPES = {
    "neox-deep": Dimensions("neox-deep", "gpt_neox", 0, 12, 256, 4, 256, 1024, 4096),
    "neox-wide": Dimensions("neox-wide", "gpt_neox", 0, 4, 768, 12, 768, 3072, 8192),
    "neox-14m": Dimensions("neox-14m", "gpt_neox", 0, 6, 128, 4, 128, 512, 50304),
    "opt": Dimensions("opt", "opt", 0, 8, 384, 6, 384, 1536, 8192, tied=True),
    "llama": Dimensions("llama", "llama", 0, 8, 384, 6, 128, 1024, 8192, tied=True),
    "llama-untied": Dimensions("llama-untied", "llama", 0, 6, 512, 8, 512, 1376, 8192),
}


class Allocations:
    """Bytes that torch's CPU allocator has given out, from its profiler: tensors, and what kernels need inside.

    Args:
        now: what is there before.
    """

    def __init__(self, now: float) -> None:
        self.now = self.peak = now

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Afterwards ``peak`` is the most that there was inside the block, and ``now`` what is left."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        self.peak = self.now
        for event in sorted(events, key=lambda event: event.start_ns()):
            self.now += event.nbytes()
            self.peak = max(self.peak, self.now)


def build(shape: Dimensions) -> PreTrainedModel:
    """A model of a shape, with random weights."""
    config: Any
    common: dict[str, Any] = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.width, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "max_position_embeddings": 512, "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    if shape.architecture == "gpt_neox":
        config = GPTNeoXConfig(intermediate_size=shape.mlp_width, **common)
    elif shape.architecture == "opt":
        config = OPTConfig(ffn_dim=shape.mlp_width, word_embed_proj_dim=shape.width, **common)
    else:
        kv_heads = shape.heads * shape.kv_width // shape.width
        config = LlamaConfig(intermediate_size=shape.mlp_width, num_key_value_heads=kv_heads, **common)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()


def measure(case: Case) -> dict[str, float]:
    """The peak bytes of live tensors in the last optimizer step, by moment, and the number of parameters."""
    model = build(case.shape)
    if case.precision == "bf16-true":
        model = model.bfloat16()
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ids = torch.randint(case.shape.vocabulary, (case.micro_batch, LENGTH))
    there = sum(tensor.nbytes for tensor in itertools.chain(parameters, model.buffers(), [ids]))
    memory = Allocations(there)
    peaks: dict[str, float] = {}
    for _ in range(STEPS):
        peaks = dict(_step(model, optimizer, ids, case, memory))
    return peaks | {"parameters": sum(parameter.numel() for parameter in parameters)}


def _step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: torch.Tensor, case: Case, memory: Allocations
) -> Iterator[tuple[str, float]]:
    forward = backward = 0.0
    for _ in range(case.micro_batches):
        with memory.follow(), torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16-mixed"):
            loss = causal_lm_loss(model, ids, ids)
        forward = memory.peak
        with memory.follow():
            (loss / ids.numel()).backward()
            del loss
        backward = memory.peak
    yield "loss", forward
    yield "backward", backward
    parameters = list(model.parameters())
    with memory.follow():
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del norm
    yield "step", memory.peak


def cases() -> Iterator[Case]:
    """Every shape in fp32 and bf16 autocast, with and without checkpointing, at two micro-batches; some beside."""
    for shape, precision, checkpointing, micro in itertools.product(
        SHAPES.values(), ("32-true", "bf16-mixed"), (False, True), (2, 8)
    ):
        yield Case(shape, precision, checkpointing, micro)
    for shape in SHAPES.values():
        yield Case(shape, "bf16-mixed", False, 8, micro_batches=2)
        yield Case(shape, "bf16-true", False, 8)


def compare(case: Case) -> dict[str, Any]:
    """One row: bytes measured and estimated, and their ratio."""
    found = measure(case)
    shape = replace(case.shape, parameters=int(found.pop("parameters")))
    need = training_need(shape, case.hardware, LENGTH, batch_size=case.micro_batch * case.micro_batches)
    moment = max(found, key=lambda name: found[name])
    return {
        "shape": shape.name,
        "parameters": shape.parameters,
        "precision": case.precision,
        "checkpointing": case.checkpointing,
        "micro_batch": case.micro_batch,
        "micro_batches": case.micro_batches,
        "measured": {name: round(value / 2**20, 1) for name, value in found.items()},
        "measured_peak_mib": round(found[moment] / 2**20, 1),
        "moment": moment,
        "estimated_peak_mib": round(need.tensors / 2**20, 1),
        "estimated_moment": need.moment,
        "parts_mib": {name: round(value / 2**20, 1) for name, value in need.device.items()},
        "ratio": round(need.tensors / found[moment], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, help="only one")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for case in cases():
        if options.shape in (None, case.shape.name):
            rows.append(compare(case))
            print("{shape:<13}{precision:<11}{checkpointing!s:<6}{micro_batch:>3} x {micro_batches}  {moment:<9}"
                  "{measured_peak_mib:>9.1f} MiB measured {estimated_peak_mib:>9.1f} estimated  {ratio:.2f}"
                  .format(**rows[-1]), flush=True)  # fmt: skip
    ratios = [row["ratio"] for row in rows]
    print(f"estimated / measured: {min(ratios):.2f} to {max(ratios):.2f} over {len(rows)} cases")
    if options.out is not None:
        settings = {"torch": torch.__version__, "length": LENGTH, "optimizer_steps": STEPS}
        options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
