"""Fits among ranks as tests start them: sharded_fits.py under torchrun, on models of a few thousand weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

SMALL = {"vocab_size": 67, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def neox(**changes: int) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL | changes))


def tied_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=True))


def start(folder: Path, jobs: list[dict[str, Any]], processes: int, **environment: str) -> None:
    """Runs ``jobs`` on so many ranks; a job's folder is one in ``folder``."""
    for job in jobs:
        job |= {"folder": str(folder / job["name"]), "model": str(folder / job.get("model", "neox"))}
        job.setdefault("options", {})
        Path(job["folder"]).mkdir(exist_ok=True)
    plan = folder / f"plan{processes}.json"
    plan.write_text(json.dumps(jobs))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(Path(__file__).with_name("sharded_fits.py"))]
    own = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    # memory that is freed is given back, so that what a fit holds can be seen
    own |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run([*command, str(plan)], env=own | environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def job(phase: str, strategy: str, name: str, **more: Any) -> dict[str, Any]:
    return {"phase": phase, "strategy": strategy, "name": f"{name}-{strategy}", **more}


def told(folder: Path, phase: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{phase}.json").read_text())
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights/model.safetensors")
