"""Training throughput against the Hugging Face Trainer and TRL's SFTTrainer, on the same text, with the same loss.

    SYNTHMIX_DATA=DIR python experiments/benchmarks/training.py --tokenizer DIR

Each side is a process of its own and they take turns, a step each, so that all see the same machine. Useful tokens are
those of the documents, not padding. TRL and the Trainer are at their defaults but for batch size, learning rate,
schedule, order and precision (``_training_sides.py``). A fifth side measures the machine's rate in matrix products, from
which the floor follows: the products that no implementation can leave out. ``--parts losses`` compares 50 steps of the
loss, ``--parts cells`` the memory after ten fits in one process. Needs ``pip install trl``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from _bench import summary, write

from synthmix.config.schema import HardwareConfig

RIVALS = ("trainer", "trl", "trl_packed")


@contextmanager
def process(side: str, shape: str, precision: str, settings: dict[str, Any]) -> Iterator[Connection]:
    from _training_sides import work

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs, side, shape, precision, settings), daemon=True)
    worker.start()
    theirs.close()  # so that a side that dies is noticed
    try:
        yield ours
    finally:
        worker.kill()
        worker.join()


def take_turns(
    sides: list[str], shape: str, precision: str, settings: dict[str, Any]
) -> dict[str, list[dict[str, float]]]:
    """What every side says of each of its steps, the first (a warm-up) included."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        pipes = {side: stack.enter_context(process(side, shape, precision, settings)) for side in sides}
        for _ in range(settings["steps"]):
            for side, pipe in pipes.items():
                pipe.send("go")
                found[side].append(pipe.recv())
    return found


def floor_flops(shape: str, documents: list[Any]) -> float:
    """Operations in matrix products that training on ``documents`` cannot do without, forward and backward.

    2 a parameter of a block and token, as many for the head and each token that is a label, 2 L H T^2 for the causal half
    of attention; twice that again for the two gradients.
    """
    from _training_sides import SHAPES

    model = SHAPES[shape]()
    blocks = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name)
    head = model.get_output_embeddings().weight.numel()
    attention = model.config.num_hidden_layers * model.config.hidden_size
    lengths = [len(document.ids) for document in documents]
    return 3.0 * sum(2 * n * blocks + 2 * (n - 1) * head + 2 * n * n * attention for n in lengths)


def row(side: str, steps: list[dict[str, float]], tokens: list[int]) -> dict[str, Any]:
    """Figures of a side; ``tokens`` are the documents' of each timed step."""
    timed = steps[1:]
    if side == "trl_packed":  # its steps have tokens of their own
        so_far = [step["tokens_so_far"] for step in steps]
        tokens = [round(b - a) for a, b in zip(so_far, so_far[1:], strict=False)]
    rates = [n / step["seconds"] for n, step in zip(tokens, timed, strict=True)]
    return {
        **summary([step["seconds"] for step in timed]),
        "cpu_seconds": [step["cpu_seconds"] for step in timed],
        "tokens": tokens,
        "useful_tokens_per_s": median(rates),
        "useful_tokens_per_cpu_s": median(n / step["cpu_seconds"] for n, step in zip(tokens, timed, strict=True)),
        "peak_mib": max(step["peak_bytes"] for step in steps) / 2**20,
        "losses": [step["loss"] for step in steps],
    }


def speed(shape: str, precision: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All sides, a warm-up step and the timed ones each."""
    from _training_sides import BATCH, documents, load_tokenizer

    load = list(os.getloadavg())
    docs = documents(load_tokenizer(settings["tokenizer"]), settings["steps"])
    batches = [docs[k : k + BATCH] for k in range(BATCH, len(docs), BATCH)]
    tokens = [sum(len(document.ids) for document in batch) for batch in batches]
    steps = take_turns(["synthmix", *RIVALS, "matrix_rate"], shape, precision, settings)
    rate = median(step["flops_per_s"] for step in steps.pop("matrix_rate"))
    rows = {side: row(side, taken, tokens) for side, taken in steps.items()}
    floor = median(floor_flops(shape, batch) for batch in batches) / rate
    ours = rows["synthmix"]
    result = {"shape": shape, "precision": precision, "load_average": [load, list(os.getloadavg())], "sides": rows}
    result["matrix_gflops"], result["floor_s"] = rate / 1e9, floor
    result["times_the_floor"] = ours["median_s"] / floor
    for unit in ("s", "cpu_s"):
        key = f"useful_tokens_per_{unit}"
        result[f"ratios_{unit}"] = {side: ours[key] / rows[side][key] for side in RIVALS}
    # what is packed is other examples a step
    result["largest_loss_difference"] = {
        side: difference(ours["losses"], rows[side]["losses"]) for side in ("trainer", "trl")
    }
    return result


def difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def losses(shape: str, tokens: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The loss of 50 steps, ours and the Trainer's, in fp32, on documents cut at ``tokens``."""
    steps = take_turns(["synthmix", "trainer"], shape, "fp32", settings | {"steps": 50, "tokens": tokens})
    found = {side: [step["loss"] for step in taken] for side, taken in steps.items()}
    largest = difference(found["synthmix"], found["trainer"])
    print(f"{shape}: largest difference of the loss over 50 steps {largest:.1e}", flush=True)
    return {"shape": shape, "document_tokens": tokens, "losses": found, "largest_loss_difference": largest}


def cells(tokenizer: str, fits: int = 10) -> list[float]:
    """MiB that this process holds after each of ten fits of two steps, above what it held before the first."""
    import numpy as np
    import torch
    from _training_sides import RATE, SHAPES, _resident, documents, load_tokenizer

    from synthmix.config.schema import TrainingConfig
    from synthmix.data.datamodule import MixtureDataModule
    from synthmix.models.training import fit
    from synthmix.study.out_of_memory import release_memory

    docs = documents(load_tokenizer(tokenizer), 1)[:16]
    before, held = _resident(), []
    for seed in range(fits):
        torch.manual_seed(seed)
        data = MixtureDataModule(docs, lambda epoch: np.arange(len(docs)), 8, 8)
        with tempfile.TemporaryDirectory() as folder:
            fit(SHAPES["pythia-14m"](), data, TrainingConfig(epochs=1), HardwareConfig(), Path(folder), RATE)
        release_memory()  # as a cell does at its end
        held.append((_resident() - before) / 2**20)
    print("MiB held after each fit:", ", ".join(f"{value:.0f}" for value in held), flush=True)
    return held


def show(result: dict[str, Any]) -> None:
    sides, ratios, cpu = result["sides"], result["ratios_s"], result["ratios_cpu_s"]
    print(f"{result['shape']} {result['precision']}: {sides['synthmix']['useful_tokens_per_s']:,.0f} useful tokens/s,")
    for side in RIVALS:
        rate = sides[side]["useful_tokens_per_s"]
        print(f"  {side} {rate:,.0f}: {ratios[side]:.1f} times (by CPU time {cpu[side]:.1f})")
    print(f"  {result['times_the_floor']:.2f} times the floor of {result['floor_s']:.2f} s a step", end="")
    print(f" at {result['matrix_gflops']:.0f} GFLOP/s; peak MiB", end=" ")
    print(", ".join(f"{side} {found['peak_mib']:,.0f}" for side, found in sides.items()))
    largest = ", ".join(f"{side} {value:.1e}" for side, value in result["largest_loss_difference"].items())
    print(f"  losses within: {largest}; load average {result['load_average'][-1][0]:.1f}", flush=True)


def has_bf16() -> bool:
    """Whether the processor multiplies in bf16; without, autocast is slower than fp32."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True, help="folder of the GPT-NeoX tokenizer")
    parser.add_argument(
        "--parts", nargs="+", default=["speed", "losses", "cells"], choices=["speed", "losses", "cells"]
    )
    shapes = ["pythia-14m", "pythia-70m"]
    parser.add_argument("--shapes", nargs="+", default=shapes, choices=[*shapes, "smollm2-135m"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", *(["bf16"] if has_bf16() else [])])
    parser.add_argument("--steps", type=int, default=3, help="timed steps a side")
    parser.add_argument("--micro-batch", type=int, default=32, help="examples that our side takes at once")
    parser.add_argument("--document-tokens", type=int, help="where --parts losses cuts documents; whole by default")
    parser.add_argument("--padded", action="store_true", help="our side pads rows instead of laying them end to end")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    hardware = HardwareConfig(micro_batch=arguments.micro_batch, padding_free=not arguments.padded)
    settings = {"tokenizer": arguments.tokenizer, "steps": arguments.steps + 1, "hardware": hardware}
    about = {"micro_batch": hardware.micro_batch, "padding_free": hardware.padding_free, "trl": version("trl")}
    for shape in arguments.shapes if "speed" in arguments.parts else []:
        results = []
        for precision in arguments.precisions:
            results.append(speed(shape, precision, settings))
            show(results[-1])
        if not arguments.no_write:
            print(write(f"training-{shape}", {"settings": about, "speed": results}))
    for shape in arguments.shapes if "losses" in arguments.parts else []:
        found = losses(shape, arguments.document_tokens, settings)
        if not arguments.no_write:
            print(write(f"training-losses-{shape}", {"settings": about, **found}))
    if "cells" in arguments.parts:
        held = cells(arguments.tokenizer)
        if not arguments.no_write:
            print(write("training-cells", {"settings": about, "held_mib_after_each_fit": held}))


if __name__ == "__main__":
    main()
