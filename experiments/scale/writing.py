"""Tokens a second of the back ends that write samples, beside ``model.generate``, on requests as long as GSM8K's.

Random weights never end a text, so each request has a length of its own, drawn from GSM8K's answers; ``generate`` runs
each batch of 32 to its longest row, and only the tokens that were asked for count.
"""

from __future__ import annotations

import gc
import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import _scale
import torch
from _generation_sides import BATCH, SAMPLING, Run, generate
from _machine import GIB, Options  # puts the benchmarks' folder on the path

from synthmix import keys
from synthmix.generation.engine import Request

#: Sequences that our engine holds by default, beside the ``BATCH`` that ``generate`` is given at once.
MORE = 128


def run(
    size: str | None, options: Options, save: Callable[[dict[str, Any]], None], found: dict[str, Any]
) -> dict[str, Any]:
    """Every side ``repeats`` times, and each one's speed over ``generate``'s."""
    size, toy = size or "410m", options.toy
    model, folder = _scale.described(size, toy), _scale.weights(size, options, sharp=True)
    asked = requests(8 if toy else 256, model.vocabulary or 0, toy)
    gpu = options.accelerator == "gpu"
    figures = {
        "model": model.name, "parameters": model.parameters, "requests": len(asked),
        "dtype": "bfloat16" if gpu else "float32", "useful_new_tokens": sum(r.max_new_tokens for r in asked),
        "prompt_tokens": sum(len(r.prompt_ids) for r in asked), "sampling": vars(SAMPLING), "complete": False,
        "sides": found.get("sides", {}),
    }  # fmt: skip
    for name, make in sides(folder, options).items():
        if name in figures["sides"] and "error" not in figures["sides"][name]:
            continue
        if options.left < 60:
            return figures
        # vLLM's memory is that of a process of its own
        figures["sides"][name] = measured(
            make, asked, 1 if toy else 3, gpu, has_peak=gpu and not name.startswith("vllm")
        )
        print(f"  {name}: {said(figures['sides'][name])}", flush=True)
        save(figures)
    return compared(figures)


def requests(n: int, vocabulary: int, toy: bool) -> list[Request]:
    """``n`` requests with prompts and answers as long as GSM8K's; at toy size, an eighth of it."""
    prompts, answers = _scale.recorded_lengths("prompts", n), _scale.recorded_lengths("answers", n)
    if toy:
        prompts, answers = ([max(2, length // 8) for length in lengths] for lengths in (prompts, answers))
    return [
        Request(str(i), _scale.zipf_ids(prompt, vocabulary, "prompt", str(i)), keys.key("scale", i), answer)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


def sides(folder: Any, options: Options) -> dict[str, Callable[[], Run]]:
    """Each side as a function that loads it and gives what writes; vLLM where it is installed."""
    found: dict[str, Callable[[], Run]] = {
        f"generate, batch {BATCH}": lambda: generate(_load(folder, options)[0]),
        f"synthmix, batch {BATCH}": lambda: _backend("synthmix", folder, options, BATCH),
        f"synthmix, batch {MORE}": lambda: _backend("synthmix", folder, options, MORE),
        f"transformers, batch {BATCH}": lambda: _backend("transformers", folder, options, BATCH),
        f"transformers, batch {MORE}": lambda: _backend("transformers", folder, options, MORE),
    }
    if options.toy:
        found = {name: make for name, make in found.items() if str(MORE) not in name}
    if importlib.util.find_spec("vllm") is not None:
        found[f"vllm, batch {MORE}"] = lambda: _backend("vllm", folder, options, MORE)
    return found


def _load(folder: Any, options: Options) -> Any:
    from synthmix.models.loading import load_model, load_tokenizer

    gpu = options.accelerator == "gpu"
    model: Any = load_model(folder, torch.bfloat16 if gpu else torch.float32)
    model.generation_config.eos_token_id = None
    return model.to("cuda" if gpu else "cpu"), load_tokenizer(folder)


def _backend(name: str, folder: Any, options: Options, batch_size: int) -> Run:
    """The project's writer of that name, as a cell makes it."""
    from synthmix.generation.backends import make_writer
    from synthmix.models.loading import load_tokenizer

    dtype = torch.bfloat16 if options.accelerator == "gpu" else torch.float32
    writer = make_writer(
        name, lambda: _load(folder, options), folder, lambda: load_tokenizer(folder), batch_size, dtype
    )
    return lambda asked: sum(len(done.token_ids) for done in writer.generate(asked, SAMPLING))


def measured(make: Callable[[], Run], asked: list[Request], repeats: int, gpu: bool, has_peak: bool) -> dict[str, Any]:
    """Seconds of ``repeats`` runs after a short one that does not count, and the peak of GPU memory (GiB)."""
    try:
        write = make()
        write(asked[: len(asked) // 8])
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds, written = [], 0
        for _ in range(repeats):
            began = time.perf_counter()
            written = write(asked)
            seconds.append(time.perf_counter() - began)
    except Exception as error:  # one side less is still a comparison
        return {"error": f"{type(error).__name__}: {str(error).strip()[:600]}"}
    finally:
        write = None  # type: ignore[assignment]
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
    if written != sum(request.max_new_tokens for request in asked):
        return {"error": f"AssertionError: wrote {written} tokens"}
    peak = {"peak_gib": torch.cuda.max_memory_allocated() / GIB} if has_peak else {}
    return {"seconds": seconds, "tokens_per_s": written / median(seconds), **peak}


def compared(figures: dict[str, Any]) -> dict[str, Any]:
    """With each side's speed over ``generate``'s."""
    from synthmix.generation.backends import backend_version

    rows = figures["sides"]
    base = rows[f"generate, batch {BATCH}"].get("tokens_per_s")
    for name, row in rows.items():
        if "error" not in row and base:
            row["over_generate"] = row["tokens_per_s"] / base
        if name.startswith(("synthmix", "vllm", "transformers")) and "error" not in row:
            row["version"] = backend_version(name.split(",")[0])
    failed = [name for name, row in rows.items() if "error" in row]
    return figures | ({"error": f"failed: {', '.join(failed)}"} if failed else {"complete": True, "error": None})


def said(row: dict[str, Any]) -> str:
    """A side in words."""
    if "error" in row:
        return str(row["error"]).splitlines()[0][:150]
    return f"{row['tokens_per_s']:,.0f} tokens/s"
