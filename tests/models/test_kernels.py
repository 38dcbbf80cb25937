"""What makes training faster changes nothing: padding-free attention, compiled blocks, liger's loss.

That documents end to end have the loss and the gradients of documents alone is in test_loss.py, for every family.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedModel,
)

from synthmix.config.schema import HardwareConfig, TrainingConfig
from synthmix.data.batching import flatten, pad
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.errors import ConfigError
from synthmix.models.kernels import NAME, _flash, _half_precision, apply_speed, as_mask, blocks
from synthmix.models.loss import causal_lm_loss
from synthmix.models.training import fit

DOCS = [Encoded([5, 0, 9, 2, 2, 7, 1], 3), Encoded([8, 3, 4], 1), Encoded([11], 0), Encoded([11, 12, 13, 14, 15], 5)]
SMALL = {"vocab_size": 67, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
# Weights large enough for attention to matter.
LARGE = {**SMALL, "initializer_range": 0.5}
CONFIGS = {
    "gpt_neox": GPTNeoXConfig(**LARGE, intermediate_size=32),
    "llama": LlamaConfig(**LARGE, intermediate_size=32),
    "opt": OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, dropout=0.0, init_std=0.5),
    "mistral": MistralConfig(**LARGE, intermediate_size=32, num_key_value_heads=1, sliding_window=4),
    "gpt2": GPT2Config(vocab_size=67, n_embd=16, n_layer=2, n_head=2),
}


def tiny(name: str, **speed: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).train()
    apply_speed(model, HardwareConfig(**speed))
    return model


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", ["gpt_neox", "opt"])
def test_the_comparison_sees_documents_that_see_each_other(name: str) -> None:
    inputs = flatten(DOCS, "document")
    apart = causal_lm_loss(tiny(name, padding_free=True), **inputs)
    inputs["borders"] = inputs["borders"][[0, -1]]
    together = causal_lm_loss(tiny(name, padding_free=True), **inputs)
    assert abs(apart.item() - together.item()) > 1


def test_longest_is_looked_for_where_it_is_not_given() -> None:
    assert as_mask(torch.tensor([0, 7, 10], dtype=torch.int32))["max_length_q"] == 7


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "opt", "mistral"])
def test_a_prepared_model_takes_padded_rows_and_writes_as_before(name: str) -> None:
    model, plain = tiny(name, padding_free=True), tiny(name)
    batch = pad(DOCS, "document")
    torch.testing.assert_close(causal_lm_loss(model, **batch), causal_lm_loss(plain, **batch))
    ids = torch.tensor([[0, 0, 5, 9, 2], [3, 4, 5, 6, 7]])
    options = {"attention_mask": (ids > 0).long(), "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.eval().generate(ids, **options), plain.eval().generate(ids, **options))


def test_recomputed_activations_keep_to_the_borders() -> None:
    model, again = tiny("llama", padding_free=True), tiny("llama", padding_free=True)
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for each in (model, again):
        causal_lm_loss(each, **flatten(DOCS, "document")).backward()
    wanted = gradients(model)
    for parameter, gradient in gradients(again).items():
        torch.testing.assert_close(gradient, wanted[parameter], msg=parameter)


def test_autocast_keeps_to_the_borders() -> None:
    model = tiny("gpt_neox", padding_free=True)
    with torch.autocast("cpu", torch.bfloat16):
        apart = sum(causal_lm_loss(model, **flatten([doc], "document")) for doc in DOCS)
        found = causal_lm_loss(model, **flatten(DOCS, "document"))
    assert found.item() == pytest.approx(apart.item(), rel=2e-3)


def test_nothing_to_do_end_to_end_still_reaches_every_parameter() -> None:
    model = tiny("gpt_neox", padding_free=True)
    loss = causal_lm_loss(model, **flatten([], "document"))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(("kv_heads", "window"), [(4, None), (2, None), (4, 8)])
def test_the_call_of_flash_attention_fits_torchs_operator(kv_heads: int, window: int | None) -> None:
    """Its arguments, shapes and gradients, as far as torch knows them without a GPU (the meta device)."""
    options = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    query, key, value = (torch.empty(30, heads, 16, **options) for heads in (4, kv_heads, kv_heads))
    out = _flash(query, key, value, torch.empty(4, dtype=torch.int32, device="meta"), 64, 0.5, window)
    assert (out.shape, out.dtype) == ((30, 4, 16), torch.bfloat16)
    out.sum().backward()
    assert [x.grad.shape for x in (query, key, value)] == [x.shape for x in (query, key, value)]


def test_flash_attention_is_for_half_precision() -> None:
    single = torch.empty(1)
    assert _half_precision(single) is None
    assert _half_precision(single.bfloat16()) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):  # rotary positions leave queries in fp32
        assert _half_precision(single) == torch.bfloat16


def test_what_cannot_be_had_is_refused() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["gpt2"])
    with pytest.raises(
        ConfigError, match=r"padding_free = true: not checked for gpt2; expected one of .*gpt_neox"
    ) as error:
        apply_speed(model, HardwareConfig(name="laptop", padding_free=True, loss_kernel="liger"))
    assert "loss_kernel = liger: its kernels need a GPU (Triton); expected sliced" in str(error.value)
    assert "hardware profile laptop" in str(error.value)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_liger_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs liger-kernel; pip install 'synthmix\[liger\]'"):
        apply_speed(tiny("llama"), HardwareConfig(accelerator="gpu", loss_kernel="liger"))


LIGER = """
import torch
from synthmix.models.loss import liger_cross_entropy, linear_cross_entropy
torch.manual_seed(0)
for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
    hidden, weight = (torch.randn(n, 16, dtype=dtype).requires_grad_() for n in (13, 67))
    targets = torch.randint(67, (13,))
    losses = [0.3 * loss(hidden, weight, targets) for loss in (liger_cross_entropy, linear_cross_entropy)]
    torch.testing.assert_close(*losses)
    for pair in zip(*(torch.autograd.grad(loss, (hidden, weight)) for loss in losses)):
        torch.testing.assert_close(*pair, atol=tolerance, rtol=tolerance)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton")),
    reason="needs liger-kernel and triton",
)
def test_ligers_kernels_in_tritons_interpreter_equal_ours() -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", LIGER], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_blocks_are_the_layers() -> None:
    model = tiny("opt")
    assert blocks(model) == list(model.model.decoder.layers)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True])
def test_compiled_blocks_equal_plain_ones_and_lengths_do_not_recompile(fresh_compiler: None, free: bool) -> None:
    from torch._dynamo.utils import counters

    rng = np.random.default_rng(0)
    plain, model = tiny("gpt_neox", padding_free=free), tiny("gpt_neox", padding_free=free, compile=True)
    assert list(model.state_dict()) == list(plain.state_dict())
    seen = []
    for longest in (9, 14, 23, 31, 40):
        docs = [Encoded(rng.integers(0, 67, n).tolist(), 0) for n in range(longest - 3, longest)]
        batch = (flatten if free else pad)(docs, "document")
        losses = [causal_lm_loss(each, **batch) for each in (plain, model)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses)
        wanted = gradients(plain)
        for name, gradient in gradients(model).items():
            largest = wanted[name].abs().max()  # sums in another order differ by the size of their terms
            assert (gradient - wanted[name]).abs().max() <= 2e-5 * largest, name
        seen.append(counters["stats"]["unique_graphs"])
    assert seen[-1] == seen[1] > 0  # two blocks of five lengths


def trained(folder: Path, docs: list[Encoded], hardware: HardwareConfig) -> tuple[float, PreTrainedModel]:
    """Final loss and weights of a fit of 6 steps in two epochs, whose last batches are short."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["gpt_neox"])
    data = MixtureDataModule(
        docs, lambda epoch: np.arange(len(docs)), 8, hardware.micro_batch, padding_free=hardware.padding_free
    )
    result = fit(model, data, TrainingConfig(epochs=2), hardware, folder, 1e-2)
    assert result.tokens == 2 * sum(len(doc.ids) for doc in docs)
    return result.final_loss, model


def test_a_fit_without_padding_equals_one_with(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    docs = [Encoded(rng.integers(0, 67, n).tolist(), 0) for n in rng.integers(2, 20, 17)]
    wanted, plain = trained(tmp_path / "padded", docs, HardwareConfig(micro_batch=8))
    found, model = trained(tmp_path / "free", docs, HardwareConfig(micro_batch=3, padding_free=True))
    assert model.config._attn_implementation == NAME
    assert found == pytest.approx(wanted, rel=1e-5)
    for name, weight in model.state_dict().items():
        if not name.endswith("query_key_value.bias"):  # AdamW scales the noise that is the gradient of a key's bias
            torch.testing.assert_close(weight, plain.state_dict()[name], atol=1e-4, rtol=1e-3, msg=name)
