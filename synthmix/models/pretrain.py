"""Pretrains a nano model, from nothing, by one deterministic command::

    python -m synthmix.models.pretrain nano-0.9m --out DIR

The corpus is the ``pretrain`` split of the five nano tasks: every document whole, prompt and completion, closed by
EOS; the loss is over all of its tokens. The same command on the same machine gives the same bytes; other CPUs or
thread counts round differently, which is why the smaller models are shipped rather than rebuilt.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthmix.keys import generator, permutation
from synthmix.models.nano import (
    CONTEXT,
    EOS_TOKEN,
    LADDER,
    TOKENIZER,
    Shape,
    sha256_of,
    shape_of,
    write_checksums,
)
from synthmix.tasks import get_task

SEED = 0
#: Raised whenever the tasks change what they write for a given seed, so that cached models are built again.
CORPUS_VERSION = 2
#: Share of each task among the documents of a batch.
MIX = {"nano-commonsense": 0.15, "nano-math": 0.35, "nano-facts": 0.13, "nano-reading": 0.35, "nano-code": 0.02}
#: Different documents of a task; more than that many are met again. Few for the facts: a pool near the size of the
#: split would hold rare and famous lands alike.
POOLS = dict.fromkeys(MIX, 60_000) | {"nano-facts": 4_000}
MICRO_BATCHES = 2
WARM_UP = 0.05
VOCABULARY = 1024


def documents(task_name: str, n: int) -> list[tuple[str, str, str]]:
    """``n`` documents of a task's pretrain split, each as (header, body, completion)."""
    task = get_task(task_name)
    rendered = [task.render(example.record) for example in task.generate_split("pretrain", n, SEED, 0.5)]
    return [(doc.header, doc.body, doc.completion) for doc in rendered]


def train_tokenizer(out: Path, n: int = 4_000) -> Path:
    """Byte-level BPE of 1024 tokens, digits apart, trained on ``n`` pretraining documents of each task.

    Every byte has a token, so ``decode(encode(text)) == text`` for any text. There is no padding token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    parts = (part for task in MIX for document in documents(task, n) for part in document)
    tokenizer.train_from_iterator(parts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        bos_token=EOS_TOKEN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)
    return out


def build_model(shape: Shape) -> torch.nn.Module:
    """A GPT-NeoX of ``shape`` with fresh weights; the caller seeds torch."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
        initializer_range=math.sqrt(2 / (5 * shape.width)),
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model: torch.nn.Module = GPTNeoXForCausalLM(config)
    return model


def tokenize_corpus(steps: int, batch: int) -> dict[str, list[list[int]]]:
    """Token ids of the documents that ``steps`` batches need, by task; parts tokenized apart, EOS at the end."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    corpus = {}
    for task in MIX:
        needed = min(POOLS[task], math.ceil(steps * batch * MIX[task]))
        docs = documents(task, needed)
        flat = tokenizer([part for doc in docs for part in doc], add_special_tokens=False)["input_ids"]
        corpus[task] = [flat[i] + flat[i + 1] + flat[i + 2] + [tokenizer.eos_token_id] for i in range(0, len(flat), 3)]
    return corpus


def batches(corpus: dict[str, list[list[int]]], steps: int, batch: int) -> Iterator[list[list[int]]]:
    """One list of ``batch`` documents a step: tasks drawn by share, each task's pool in keyed order, over and over."""
    names = list(MIX)
    shares = np.array([MIX[name] for name in names])
    used = dict.fromkeys(names, 0)
    orders = {name: permutation(len(corpus[name]), "pretrain", SEED, name, 0) for name in names}
    for step in range(steps):
        drawn = generator("pretrain", SEED, "tasks", step).choice(len(names), size=batch, p=shares / shares.sum())
        documents_of_step = []
        for index in drawn:
            name = names[index]
            epoch, place = divmod(used[name], len(corpus[name]))
            if place == 0 and epoch:
                orders[name] = permutation(len(corpus[name]), "pretrain", SEED, name, epoch)
            documents_of_step.append(corpus[name][orders[name][place]])
            used[name] += 1
        yield documents_of_step


def micro_batches(documents_of_step: list[list[int]], n: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(input ids, labels), each of shape (documents, longest): neighbours in length together, so that little is
    padding. Documents are padded on the right, where causal attention never looks; labels there are -100."""
    ordered = sorted(documents_of_step, key=len)
    size = math.ceil(len(ordered) / n)
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        ids = torch.zeros(len(part), len(part[-1]), dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, document in enumerate(part):
            ids[row, : len(document)] = labels[row, : len(document)] = torch.tensor(document)
        yield ids, labels


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the steps, then a cosine down to a tenth of the peak."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, docs: list[list[int]]) -> tuple[float, int]:
    """One update; returns (mean loss a token, number of tokens predicted)."""
    n_tokens = sum(len(document) - 1 for document in docs)
    total = 0.0
    for ids, labels in micro_batches(docs, MICRO_BATCHES):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum"
        )
        (loss / n_tokens).backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / n_tokens, n_tokens


def pretrain(name: str, out: Path | str, *, threads: int | None = None, steps: int | None = None) -> dict[str, Any]:
    """Pretrains ``name`` and writes a folder for ``from_pretrained`` to ``out``.

    Args:
        name: a rung of :data:`synthmix.models.nano.LADDER`.
        out: folder; gets model (float16 safetensors), tokenizer, ``log.jsonl``, ``README.md``, ``checksums.json``.
        threads: CPU threads, by default the recipe's; others round differently.
        steps: fewer steps than the recipe's, for tests.

    Returns:
        steps, tokens, seconds, final loss, parameters and the SHA-256 of the weights.
    """
    shape, out = shape_of(name), Path(out)
    steps = shape.steps if steps is None else steps
    out.mkdir(parents=True, exist_ok=True)
    threads = threads or shape.threads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_model(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    caller_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result = _train(model, optimizer, name, steps, out / "log.jsonl")
    finally:
        torch.set_num_threads(caller_threads)
    _save(model, out)
    result |= {
        "name": name,
        "threads": threads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": sha256_of(out / "model.safetensors"),
    }
    (out / "README.md").write_text(_card(result, shape))
    write_checksums(out)
    return result


def _train(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, name: str, steps: int, log: Path
) -> dict[str, Any]:
    from rich.progress import Progress

    shape = LADDER[name]
    corpus = tokenize_corpus(steps, shape.batch)
    start, tokens, losses = time.perf_counter(), 0, []
    model.train()
    with Progress(*_columns(), disable=not sys.stderr.isatty()) as progress, log.open("w") as lines:
        bar = progress.add_task(f"pretraining {name}", total=steps, loss=float("nan"), rate=0.0)
        for step, docs in enumerate(batches(corpus, steps, shape.batch)):
            rate = learning_rate(step, steps, shape.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, n = train_step(model, optimizer, docs)
            tokens += n
            losses.append(loss)
            seconds = time.perf_counter() - start
            progress.update(bar, advance=1, loss=loss, rate=tokens / seconds)
            if step % 20 == 0 or step == steps - 1:
                row = {"step": step, "loss": round(loss, 4), "lr": rate, "tokens": tokens, "seconds": round(seconds, 1)}
                lines.write(json.dumps(row) + "\n")
                lines.flush()
    recent = losses[-50:]
    return {"steps": steps, "tokens": tokens, "seconds": round(seconds, 1), "loss": round(sum(recent) / len(recent), 4)}


def _columns() -> list[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}, {task.fields[rate]:,.0f} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]


def _save(model: torch.nn.Module, out: Path) -> None:
    """Weights in float16 (half the download; the rounding is far below the noise of training), but a config that says
    float32, which is what ``from_pretrained`` then loads."""
    model.half().save_pretrained(out)  # type: ignore[operator]
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for path in sorted(TOKENIZER.glob("*.json")):
        if path.name.startswith(("tokenizer", "special_tokens")):
            shutil.copyfile(path, out / path.name)


def _card(result: dict[str, Any], shape: Shape) -> str:
    rows = "\n".join(f"| {task} | {share:.0%} |" for task, share in MIX.items())
    threads = f"{result['threads']} CPU thread{'s' if result['threads'] > 1 else ''}"
    return f"""---
library_name: transformers
license: apache-2.0
---
# {result["name"]}

A GPT-NeoX of {result["parameters"]:,} parameters ({shape.layers} layers of {shape.width}, {shape.heads} heads,
{VOCABULARY} tokens), pretrained from nothing on the `pretrain` split of the five nano tasks. Made for studying the
fine-tuning protocol on a laptop; it knows nothing of the real world.

    python -m synthmix.models.pretrain {result["name"]} --out DIR

{result["steps"]} steps of {shape.batch} documents, {result["tokens"]:,} tokens, AdamW, peak learning rate
{shape.learning_rate:g}, float32, {threads}, seed {SEED}; {result["seconds"]:.0f} s. Mean loss of the last 50 steps:
{result["loss"]} nats a token. `log.jsonl` has the course of it.

| task | share of documents |
|---|---|
{rows}

SHA-256 of `model.safetensors`: `{result["sha256"]}`
"""


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m synthmix.models.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=[*LADDER, "tokenizer"], help="model to pretrain, or the tokenizer")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the recipe's; others round differently)")
    given = parser.parse_args(arguments)
    if given.name == "tokenizer":
        print(train_tokenizer(given.out))
    else:
        print(json.dumps(pretrain(given.name, given.out, threads=given.threads), indent=1))


if __name__ == "__main__":
    main()
