"""The decode loop against the plain forward, ``model.generate``, and itself in other batches."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from synthmix.errors import DataError, UserError
from synthmix.generation.engine import Completion, Generator, Request
from synthmix.generation.sampling import Sampling, draw
from synthmix.generation.text import StopFinder, TextReader

VOCABULARY = 97
SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
NUCLEUS, GREEDY = Sampling(0.8, 0.9), Sampling(greedy=True)


def neox(**changes: Any) -> PreTrainedModel:
    config = GPTNeoXConfig(**{**SMALL, "intermediate_size": 64, "max_position_embeddings": 128, **changes})
    return GPTNeoXForCausalLM(config)


def llama(**changes: Any) -> PreTrainedModel:
    shape = {"intermediate_size": 64, "max_position_embeddings": 128, "num_key_value_heads": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **shape, **changes}))


def opt() -> PreTrainedModel:
    return OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=64, max_position_embeddings=128, word_embed_proj_dim=32))


def gemma() -> PreTrainedModel:
    config = Gemma3TextConfig(
        **{**SMALL, "num_hidden_layers": 3}, intermediate_size=64, num_key_value_heads=1, head_dim=8,
        sliding_window=5, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=128, final_logit_softcapping=20.0,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "neox": neox,
    "neox-eager": lambda: neox(attn_implementation="eager"),
    "llama": llama,
    "opt": opt,
    "gemma3": gemma,
}


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # peaked enough for greedy choices to be far apart, with EOS (0) now and then
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.dim() < 2 else 4.0)
    return model


@pytest.fixture(
    scope="module",
    params=[name if name in ("neox", "llama") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


def characters() -> PreTrainedTokenizerFast:
    """One token a character: ids 1..95 are printable ASCII, 0 is EOS, 96 a newline."""
    vocabulary = {"<eos>": 0, **{chr(31 + i): i for i in range(1, 96)}, "\n": 96}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def requests_of(n: int, seed: int = 0, longest: int = 24, new: int = 20) -> list[Request]:
    rnd = random.Random(seed)
    prompts = [[rnd.randrange(1, VOCABULARY) for _ in range(rnd.randint(1, longest))] for _ in range(n)]
    return [Request(f"r{i}", prompt, rnd.getrandbits(63), rnd.randint(1, new)) for i, prompt in enumerate(prompts)]


def run(model: PreTrainedModel, requests: list[Request], sampling: Sampling, batch_size: int = 7, **kw: Any) -> dict:
    done = list(Generator(model, characters(), batch_size).generate(requests, sampling, **kw))
    assert sorted(c.id for c in done) == sorted(r.id for r in requests)
    return {c.id: c for c in done}


@torch.no_grad()
def one_by_one(model: PreTrainedModel, request: Request, sampling: Sampling) -> tuple[list[int], list[float]]:
    """The definition: a full forward for every token, of one sequence, without cache, mask or padding."""
    ids, logprobs = list(request.prompt_ids), []
    key = torch.tensor([request.key])
    for step in range(request.max_new_tokens):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
        token, logprob = draw(logits, sampling, key, torch.tensor([step]))
        ids.append(int(token))
        logprobs.append(float(logprob))
        if ids[-1] == 0:
            break
    return ids[len(request.prompt_ids) :], logprobs


# -- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, NUCLEUS], ids=["greedy", "nucleus"])
def test_equals_a_plain_forward_token_by_token(model: PreTrainedModel, sampling: Sampling) -> None:
    requests = requests_of(24)
    done = run(model, requests, sampling)
    for request in requests:
        ids, logprobs = one_by_one(model, request, sampling)
        completion = done[request.id]
        ended = [0] if completion.stop_reason == "eos" else []
        assert completion.token_ids + ended == ids
        last = [] if completion.eos_logprob is None else [completion.eos_logprob]
        assert completion.logprobs + last == pytest.approx(logprobs, abs=1e-4)
        assert (completion.stop_reason == "eos") == (ids[-1] == 0)


def test_equals_greedy_generate(model: PreTrainedModel) -> None:
    requests = requests_of(12, seed=1)
    done = run(model, requests, GREEDY)
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.max_new_tokens,
            eos_token_id=0, pad_token_id=0,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        ended = [0] if done[request.id].stop_reason == "eos" else []
        assert done[request.id].token_ids + ended == out


def without_logprobs(done: dict[str, Completion]) -> dict[str, tuple]:
    return {i: (c.token_ids, c.stop_reason, c.text) for i, c in done.items()}


def test_does_not_depend_on_batch_size_order_or_split(model: PreTrainedModel) -> None:
    requests = requests_of(70, seed=2)
    reference = run(model, requests, NUCLEUS, batch_size=64)
    assert len({tuple(c.token_ids) for c in reference.values()}) > 30
    assert len({c.stop_reason for c in reference.values()}) == 2
    for batch_size in (1, 7):
        assert without_logprobs(run(model, requests, NUCLEUS, batch_size)) == without_logprobs(reference)
    shuffled = random.Random(5).sample(requests, len(requests))
    assert without_logprobs(run(model, shuffled, NUCLEUS)) == without_logprobs(reference)
    halves = run(model, requests[0::2], NUCLEUS) | run(model, requests[1::2], NUCLEUS)
    assert without_logprobs(halves) == without_logprobs(reference)
    for i, completion in run(model, requests, NUCLEUS, batch_size=3).items():
        assert completion.logprobs == pytest.approx(reference[i].logprobs, abs=1e-4)


def test_one_prompt_for_all_is_read_once_and_written_as_if_alone(model: PreTrainedModel) -> None:
    rnd = random.Random(3)
    requests = [Request(f"r{i}", [5, 9, 2, 40], rnd.getrandbits(63), rnd.randint(1, 20)) for i in range(40)]
    together = run(model, requests, NUCLEUS, batch_size=16)
    assert len({tuple(c.token_ids) for c in together.values()}) > 20
    for request in requests[::6]:
        alone = run(model, [request], NUCLEUS)[request.id]
        assert alone.token_ids == together[request.id].token_ids


def test_a_shared_prompt_costs_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("neox")
    generator = Generator(model, characters(), 4)
    widths: list[int] = []
    hidden = generator.backbone.hidden

    def counted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(ids.shape[1])
        return hidden(ids, *rest)

    monkeypatch.setattr(generator.backbone, "hidden", counted)
    requests = [Request(str(i), [5, 9, 2, 40], i, 6) for i in range(20)]
    assert len(list(generator.generate(requests, NUCLEUS))) == 20
    assert widths.count(4) == 1 and set(widths) == {1, 4}


def test_rows_leave_at_once_and_others_join() -> None:
    model = build("neox")
    generator = Generator(model, characters(), batch_size=8)
    generator.eos = frozenset()
    lengths = [40] + [4] * 70
    requests = [Request(str(i), [3, 1 + i], i, n) for i, n in enumerate(lengths)]
    order = [c.id for c in generator.generate(requests, NUCLEUS)]
    # The long one is not waited for: the seven other slots serve (40 / 4) * 7 = 70 short ones meanwhile.
    assert order.index("0") >= 55


# -- bfloat16 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["neox", "llama", "gemma3"])
def test_bfloat16_draws_by_key_with_nearly_the_same_logprobs(name: str) -> None:
    torch.manual_seed(0)
    exact = MODELS[name]().eval()
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    requests = requests_of(24, seed=6)
    done = run(rounded, requests, NUCLEUS, batch_size=8)
    assert without_logprobs(run(rounded, requests, NUCLEUS, batch_size=8)) == without_logprobs(done)
    others = [dataclasses.replace(request, key=request.key + 1) for request in requests]
    same = sum(done[i].token_ids == c.token_ids for i, c in run(rounded, others, NUCLEUS, batch_size=8).items())
    assert same < len(requests) / 4
    for request in requests:
        written = done[request.id]
        with torch.no_grad():
            ids = torch.tensor([request.prompt_ids + written.token_ids])
            logprobs = exact(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(-1, torch.tensor(written.token_ids)[:, None])[:, 0].tolist()
        assert written.logprobs == pytest.approx(expected, abs=0.05)  # 8 bits of logits below 4 in size


# -- how it ends --------------------------------------------------------------------------------------------------


def spelling(text: str) -> PreTrainedModel:
    """A model that writes ``text`` over and over, whatever it is asked: it is sure of what follows each character."""
    tokenizer = characters()
    ids = [tokenizer.get_vocab()[c] for c in text]
    model = llama(hidden_size=VOCABULARY + 7, num_attention_heads=4, num_hidden_layers=1, num_key_value_heads=4)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY, VOCABULARY + 7))
        model.lm_head.weight.zero_()
        for a, b in zip(ids, ids[1:], strict=False):
            model.lm_head.weight[b, a] = 50.0
    return model.eval()


def write(text: str, start: str, stop: tuple[str, ...] = (), new: int = 60) -> Completion:
    prompt = [characters().get_vocab()[start]]
    return next(Generator(spelling(text), characters()).generate([Request("x", prompt, 1, new)], GREEDY, stop))


def test_stops_before_a_stop_string_that_spans_tokens() -> None:
    completion = write("abcdefgh", "a", stop=("ef", "zz"))
    assert (completion.text, completion.stop_reason) == ("bcd", "stop")
    assert "".join(chr(31 + i) for i in completion.token_ids) == "bcdef"
    assert len(completion.logprobs) == 5 and completion.eos_logprob is None


def test_a_stop_string_in_the_prompt_does_not_count() -> None:
    assert write("abcd", "a", stop=("ab",), new=3).text == "bcd"


def test_the_earliest_stop_string_cuts() -> None:
    assert write("abcdefgh", "a", stop=("gh", "de", "e")).text == "bc"


def test_ends_with_the_tokenizers_eos_and_keeps_its_logprob() -> None:
    model = spelling("abc")
    model.generation_config.eos_token_id = characters().get_vocab()["b"]  # a default that is not the tokenizer's
    with torch.no_grad():
        model.lm_head.weight[0, characters().get_vocab()["c"]] = 50.0
    prompt = [characters().get_vocab()["a"]]
    completion = next(Generator(model, characters()).generate([Request("x", prompt, 1, 9)], GREEDY))
    assert (completion.text, completion.stop_reason) == ("bc", "eos")
    assert completion.eos_logprob == pytest.approx(0.0, abs=1e-6) and len(completion.logprobs) == 2


@pytest.mark.parametrize(("length", "new", "expected"), [(120, 50, 8), (127, 50, 1), (128, 50, 0), (10, 0, 0)])
def test_stops_with_length_at_the_context_or_the_limit(length: int, new: int, expected: int) -> None:
    generator = Generator(build("neox"), characters())
    generator.eos = frozenset()
    completion = next(generator.generate([Request("x", [7] * length, 1, new)], NUCLEUS))
    assert (len(completion.token_ids), completion.stop_reason) == (expected, "length")


def test_no_requests_no_output() -> None:
    assert list(Generator(build("neox"), characters()).generate([], NUCLEUS)) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([7] * 129, "129 tokens; the model's context is 128"), ([], "empty"), ([3, VOCABULARY], r"outside 0\.\.96")],
)
def test_a_prompt_that_cannot_be_read_names_its_request(prompt: list[int], message: str) -> None:
    requests = [Request("fine", [1], 1, 1), Request("gsm8k-7", prompt, 1, 5)]
    with pytest.raises(DataError, match=rf"'gsm8k-7'.*{message}"):
        list(Generator(build("neox"), characters()).generate(requests, NUCLEUS))


def test_an_interrupted_run_leaves_model_and_generator_as_they_were() -> None:
    model = build("llama")
    generator = Generator(model, characters(), 4)
    requests = requests_of(20, seed=4)
    reference = without_logprobs(run(model, requests, NUCLEUS))
    before = model.config._attn_implementation
    running = generator.generate(requests, NUCLEUS)
    next(running)
    assert not torch.is_inference_mode_enabled(), "the caller's own code must not run in inference mode"
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    assert model.config._attn_implementation == before
    assert without_logprobs({c.id: c for c in generator.generate(requests, NUCLEUS)}) == reference
    loss = model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
    loss.backward()


def test_a_head_with_scaling_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("neox")
    forward = type(model).forward

    def scaled(self: PreTrainedModel, **kw: Any) -> Any:
        output = forward(self, **kw)
        output.logits = output.logits * 3 + 1
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(UserError, match="GPTNeoXForCausalLM changes its logits"):
        Generator(model, characters())


# -- text ---------------------------------------------------------------------------------------------------------


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Decodes as SentencePiece does: the leading space of whatever is decoded is dropped."""
    words = ["<eos>", "▁the", "▁answer", "▁is", "▁4", "2", ".", "\n", "Q", ":"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def test_text_continues_the_prompt_with_its_leading_space() -> None:
    reader = TextReader(sentencepiece_like())
    assert reader.decode([3, 4, 5]) == "is 42"
    assert reader.text([1, 2], [3, 4, 5]) == " is 42"
    assert reader.text([0], [3]) == "is"
    assert reader.pieces()[3] == " is"
    finder = StopFinder(reader, (" 4", "\nQ:"))
    assert finder.enders == {4, 9}
    assert finder.found([1, 2], [3, 4]) and not finder.found([1, 2], [3, 5])
    assert finder.found([1], [3, 7, 8, 9]) and not finder.found([1], [7, 8])
    assert not StopFinder(reader, ()).enders


def test_stop_string_of_a_character_spread_over_byte_tokens_is_found() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    finder = StopFinder(TextReader(fast), ("é。",))
    ids = fast("ab é。")["input_ids"]
    found = [n for n in range(1, len(ids) + 1) if ids[n - 1] in finder.enders and finder.found([ids[0]], ids[:n])]
    assert found == [len(ids)]
