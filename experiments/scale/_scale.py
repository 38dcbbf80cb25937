"""What the parts that train or write share: model shapes, weights, text, and fits in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import Options
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from synthmix import keys
from synthmix.config import ModelConfig, load_model
from synthmix.data.encoding import Encoded, encode_documents
from synthmix.models.loading import load_tokenizer, without_bars

HERE = Path(__file__).parent
#: Small models that stand in for a size of the Pythia suite at toy size: layers, width, heads, vocabulary.
TOYS = {"410m": (2, 32, 4, 512), "1.4b": (3, 48, 4, 512)}
LEARNING_RATE = 1e-4
#: Random weights make nearly flat distributions, of which a nucleus is most of the vocabulary; scaled to this standard
#: deviation of the logits they have some 4.4 nats of entropy (experiments/benchmarks/generation.py).
LOGIT_STD = 4.0


# -- shapes and weights -----------------------------------------------------------------------------------------------


@lru_cache
def described(size: str, toy: bool) -> ModelConfig:
    """configs/model/pythia-SIZE.yaml; at toy size, a small model in its place.

    Raises:
        ConfigError: there is no such file.
    """
    if not toy:
        return load_model(f"pythia-{size}")
    layers, width, heads, vocabulary = TOYS.get(size, TOYS["1.4b"])
    model = ModelConfig(name=f"toy-{size}", id="", parameters=0, architecture="gpt_neox", vocabulary=vocabulary)
    model = replace(model, layers=layers, width=width, heads=heads)
    with torch.device("meta"):
        return replace(model, parameters=sum(p.numel() for p in GPTNeoXForCausalLM(_neox(model)).parameters()))


def _neox(model: ModelConfig) -> GPTNeoXConfig:
    assert model.layers and model.width and model.heads and model.vocabulary and model.architecture == "gpt_neox"
    return GPTNeoXConfig(
        vocab_size=model.vocabulary, hidden_size=model.width, num_hidden_layers=model.layers,
        num_attention_heads=model.heads, intermediate_size=model.mlp_width or 4 * model.width,
        max_position_embeddings=model.context, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip


def weights(size: str, options: Options, sharp: bool = False) -> Path:
    """A model folder with random initial weights, made once; what is stored is bf16, so every precision starts alike.

    ``sharp`` scales the output head to :data:`LOGIT_STD`, for generation.
    """
    folder = options.work / f"weights-{size}{'-sharp' if sharp else ''}"
    if not (folder / "whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        words = [size, str(folder), *(["--toy"] if options.toy else []), *(["--sharp"] if sharp else [])]
        # a process of its own gives the GPU's memory back
        command = [sys.executable, str(HERE / "_scale.py"), *words, "--device", options.accelerator]
        subprocess.run(command, check=True)
        (folder / "whole").touch()
    return folder


def make_weights() -> None:
    """The command line of :func:`weights`: SIZE FOLDER [--toy] [--sharp] --device cpu|gpu."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--sharp", action="store_true")
    parser.add_argument("--device")
    given = parser.parse_args()
    device = "cuda" if given.device == "gpu" else "cpu"
    config = _neox(described(given.size, given.toy))
    torch.manual_seed(0)
    with torch.device(device):
        model = GPTNeoXForCausalLM(config).to(torch.bfloat16)
    if given.sharp:
        with torch.inference_mode():
            ids = torch.randint(0, config.vocab_size, (4, 32), device=device)
            head: Any = model.get_output_embeddings()
            head.weight.mul_(LOGIT_STD / float(model(ids).logits.float().std()))
    with without_bars():
        model.save_pretrained(given.folder)
    _byte_tokenizer(config.vocab_size).save_pretrained(given.folder)


def _byte_tokenizer(vocabulary: int) -> Any:
    """Bytes, and names that no text has for the other ids: the texts here are made of ids. Nothing ends one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"id{i}" for i in range(len(letters), vocabulary))]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


# -- text -------------------------------------------------------------------------------------------------------------


def recorded_lengths(which: str, n: int) -> list[int]:
    """``n`` lengths drawn from those of GSM8K's ``documents``, ``prompts`` or ``answers`` (lengths.json)."""
    counts = json.loads((HERE / "lengths.json").read_text(encoding="utf-8"))[which]
    drawn = keys.generator("scale", which).choice([*counts], n, p=np.array([*counts.values()]) / sum(counts.values()))
    return [int(length) for length in drawn]


def longest() -> int:
    """Tokens of GSM8K's longest document."""
    return max(map(int, json.loads((HERE / "lengths.json").read_text(encoding="utf-8"))["documents"]))


def zipf_ids(n: int, vocabulary: int, *name: str) -> list[int]:
    """``n`` ids, some far more frequent than others, so that there is something to learn: p(r) ~ 1 / (r + 10)."""
    share = 1 / (np.arange(vocabulary - 2) + 10.0)
    return (2 + keys.generator("scale", *name).choice(len(share), n, p=share / share.sum())).tolist()


def documents(n: int, vocabulary: int, options: Options) -> tuple[list[Encoded], str]:
    """``n`` training documents, and what they are: GSM8K's own, where both the data and a tokenizer were given, else
    random ids in documents as long as GSM8K's."""
    root = options.data or os.environ.get("SYNTHMIX_DATA")
    if options.tokenizer and root and not options.toy:
        return _real_documents(n, root, options.tokenizer), "GSM8K's training documents"
    lengths = recorded_lengths("documents", n)
    if options.toy:
        lengths = [max(2, length // 8) for length in lengths]
    ids = zipf_ids(sum(lengths), vocabulary, "documents")
    ends = np.cumsum(lengths)
    found = [Encoded(ids[end - length : end], 1) for end, length in zip(ends, lengths, strict=True)]
    return found, "random ids in lengths drawn from GSM8K's" + (" (an eighth of them)" if options.toy else "")


def _real_documents(n: int, root: str, tokenizer: str) -> list[Encoded]:
    from synthmix.config.schema import DataConfig
    from synthmix.data.records import load_split
    from synthmix.tasks.gsm8k import GSM8K

    task = GSM8K()
    examples = load_split(task, "train", DataConfig(root=root, validation_examples=0))
    chosen = [examples[i % len(examples)] for i in range(n)]
    return encode_documents(load_tokenizer(tokenizer), [task.render(example.record) for example in chosen])


# -- fits in processes of their own -----------------------------------------------------------------------------------


def run_fit(spec: dict[str, Any], options: Options) -> dict[str, Any]:
    """What ``fit.py SPEC OUT`` wrote, run as one process a device; ``{"error": ...}`` if it failed or took too long.

    A process of its own measures its own peak of memory, and takes nothing with it when memory runs out.
    """
    folder = options.work / f"worker-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"folder": str(folder / "fit"), **spec}), encoding="utf-8")
    devices = spec["hardware"]["devices"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"] if devices > 1 else []
    command = [sys.executable, *launcher, str(HERE / "fit.py"), str(folder / "spec.json"), str(folder / "out.json")]
    try:
        status = _wait(command, folder / "log.txt", max(30.0, options.left), devices)
        return _outcome(folder, status)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(command: list[str], log: Path, seconds: float, processes: int) -> int | None:
    """The exit status; None if it had to be ended."""
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", **os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """torchrun's ranks are sessions of their own, which it ends itself, some with SIGKILL after half a minute."""
    process.terminate()
    try:
        process.wait(45)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _outcome(folder: Path, status: int | None) -> dict[str, Any]:
    errors = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("out.json.error*"))]
    if errors:  # of several ranks, the one that had no memory rather than those that missed it
        return {"error": min(errors, key=lambda words: not words.startswith("OutOfMemory"))}
    if status == 0 and (folder / "out.json").is_file():
        found: dict[str, Any] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
        return found
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    # nobody here kills a fit before its time is over; the second is torchrun's word for a rank
    if status == -signal.SIGKILL or (status and f"(exitcode: {-signal.SIGKILL:d})" in log):
        return {"error": "OutOfMemory: killed, as the system does where the host's memory is gone"}
    last = log.splitlines()[-15:]
    return {"error": "\n".join([f"ended with status {status}" if status is not None else "took too long", *last])}


if __name__ == "__main__":
    make_weights()
