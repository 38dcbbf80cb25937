"""The fused loss against plain transformers, on every family it claims."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from synthmix.config.schema import HardwareConfig
from synthmix.data.batching import IGNORE, flatten, pad
from synthmix.data.encoding import Encoded
from synthmix.models.kernels import PADDING_FREE, apply_speed
from synthmix.models.loss import _sum_of_losses_, causal_lm_loss, is_head_only, linear_cross_entropy

SMALL = {"vocab_size": 67, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GEMMA = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt_neox": GPTNeoXConfig(**SMALL, intermediate_size=32),
    "gpt_neox tied": GPTNeoXConfig(**SMALL, intermediate_size=32, tie_word_embeddings=True),
    "llama": LlamaConfig(**SMALL, intermediate_size=32),
    "llama tied": LlamaConfig(**SMALL, intermediate_size=32, tie_word_embeddings=True),
    "opt": OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, dropout=0.0),
    "gemma": GemmaConfig(**GEMMA),
    "gemma3_text": Gemma3TextConfig(**GEMMA, sliding_window=4),
    "qwen3": Qwen3Config(**SMALL, intermediate_size=32, num_key_value_heads=1, head_dim=8),
    "mistral": MistralConfig(**SMALL, intermediate_size=32, num_key_value_heads=1, sliding_window=4),
    "olmo2": Olmo2Config(**SMALL, intermediate_size=32),
    "smollm3": SmolLM3Config(**SMALL, intermediate_size=32, num_key_value_heads=1, pad_token_id=0),
    "qwen2": Qwen2Config(**SMALL, intermediate_size=32, num_key_value_heads=2),
    # Not head-only: logits capped, or a family that nobody has checked.
    "gemma2 capped": Gemma2Config(**GEMMA, final_logit_softcapping=30.0),
    "gpt2": GPT2Config(vocab_size=67, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
}
DOCS = [Encoded([5, 0, 9, 2, 2, 7, 1], 3), Encoded([8, 3, 4], 1), Encoded([4], 0), Encoded([11, 12, 13, 14, 15], 5)]


def tiny(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).train()


def reference(model: PreTrainedModel, docs: list[Encoded], first: int | None) -> torch.Tensor:
    """Sum of token losses, one unpadded document at a time, by the model's own forward."""
    total = torch.zeros(())
    for doc in docs:
        ids = torch.tensor([doc.ids])
        logits = model(input_ids=ids).logits[0, :-1].float()
        start = (doc.completion_start if first is None else first) - 1
        total = total + F.cross_entropy(logits[max(0, start) :], ids[0, max(1, start + 1) :], reduction="sum")
    return total


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("loss", ["document", "completion"])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_equal_plain_transformers(name: str, loss: str, padding_free: bool) -> None:
    """Of documents in padded rows, and end to end in one row, where none may see another."""
    model = tiny(name)
    expected = reference(model, DOCS, 1 if loss == "document" else None)
    expected.backward()
    wanted = gradients(model)
    if padding_free and model.config.model_type not in PADDING_FREE:
        pytest.skip("refused; see test_kernels.py")
    apply_speed(model, HardwareConfig(padding_free=padding_free))
    found = causal_lm_loss(model, **(flatten if padding_free else pad)(DOCS, loss))
    found.backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    got = gradients(model)
    assert got.keys() == wanted.keys()
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(got[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)


def test_every_padding_free_family_is_among_the_models_tried() -> None:
    assert {config.model_type for config in CONFIGS.values()} >= PADDING_FREE


def test_which_families_take_the_short_path() -> None:
    assert {name for name in CONFIGS if is_head_only(tiny(name))} == CONFIGS.keys() - {"gemma2 capped", "gpt2"}


def test_a_hooked_head_is_called_as_a_module() -> None:
    model, seen = tiny("llama"), []
    model.get_output_embeddings().register_forward_hook(lambda *args: seen.append(1))
    plain = causal_lm_loss(tiny("llama"), **pad(DOCS, "document"))
    torch.testing.assert_close(causal_lm_loss(model, **pad(DOCS, "document")), plain)
    assert seen


def test_no_labels_still_reach_every_parameter() -> None:
    model = tiny("gpt_neox")
    loss = causal_lm_loss(model, **pad([], "document"))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@given(st.integers(1, 9), st.integers(1, 5), st.integers(2, 7), st.integers(1, 9), st.booleans())
def test_linear_cross_entropy_equals_autograd(n: int, width: int, vocabulary: int, rows: int, biased: bool) -> None:
    torch.manual_seed(n)
    inputs = [torch.randn(n, width), torch.randn(vocabulary, width), torch.randn(vocabulary)]
    inputs = [tensor.double().requires_grad_() for tensor in inputs[: 3 if biased else 2]]
    targets = torch.randint(vocabulary, (n,))
    bias = inputs[2] if biased else None
    expected = 0.3 * F.cross_entropy(F.linear(inputs[0], inputs[1], bias), targets, reduction="sum")
    found = 0.3 * linear_cross_entropy(inputs[0], inputs[1], targets, bias, rows=rows)
    torch.testing.assert_close(found, expected)
    for got, wanted in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(got, wanted)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((4, 3), (5, 3)))
    targets = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, rows=3), (hidden, weight))


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4, 0.0]], requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert hidden.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_too_unlikely_to_be_told(dtype: torch.dtype) -> None:
    """Losses about the 69 nats below which a probability is taken as it is, in slices with and without such a label."""
    losses = torch.tensor([1.0, 5.0, 68.0, 70.0, 86.0, 89.0, 104.0, 2.0, 3.0])
    hidden = losses[:, None].to(dtype).requires_grad_()
    weight = torch.tensor([[1.0], [0.0]], dtype=dtype)
    bias = torch.tensor([0.5, 0.5])
    targets = torch.ones(len(losses), dtype=torch.int64)
    for rows in (1, 2, 4, 32):
        found = linear_cross_entropy(hidden, weight, targets, bias, rows=rows)
        assert found.item() == pytest.approx(
            F.softplus(losses).sum().item(), rel=1e-6 if dtype == torch.float32 else 3e-3
        )
        (gradient,) = torch.autograd.grad(found, hidden)
        torch.testing.assert_close(gradient[:, 0].float(), torch.sigmoid(losses), atol=4e-3, rtol=0)
    assert linear_cross_entropy(hidden * float("nan"), weight, targets).isnan()


def test_an_accelerator_s_sum_of_losses_equals_a_cpu_s() -> None:
    """A meta tensor has no values, so a subclass says that it lies elsewhere."""

    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda")

    torch.manual_seed(0)
    logits, label = torch.randn(7, 50) * 3, torch.randint(50, (7, 1))
    ours, theirs = logits.clone(), logits.clone()
    there = _sum_of_losses_(theirs.as_subclass(Elsewhere), logits.clone(), label)
    torch.testing.assert_close(_sum_of_losses_(ours, logits, label), there.as_subclass(torch.Tensor))
    assert torch.equal(ours, theirs)
    assert there.item() == pytest.approx(F.cross_entropy(logits, label[:, 0], reduction="sum").item(), rel=1e-6)


def test_half_precision_sums_in_single() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(4000, 16), torch.randn(300, 16)
    targets = torch.randint(300, (4000,))
    exact = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    halves = [t.bfloat16().requires_grad_() for t in (hidden, weight)]
    loss = linear_cross_entropy(*halves, targets, rows=64)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    assert [t.grad.dtype for t in halves] == [torch.bfloat16] * 2


def test_autocast_equals_autocast_transformers() -> None:
    model = tiny("llama tied")
    with torch.autocast("cpu", torch.bfloat16):
        expected = reference(model, DOCS, 1)
        expected.backward()
        wanted = gradients(model)
        found = causal_lm_loss(model, **pad(DOCS, "document"))
    found.backward()
    got = gradients(model)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=5e-3)
    for name, gradient in wanted.items():
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name], gradient, atol=0.05 * gradient.abs().max().item(), rtol=0.1)


def test_frozen_head_gets_no_gradient() -> None:
    hidden, weight = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2)
    linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 3])).backward()
    assert weight.grad is None
    assert hidden.grad.any()


def test_the_first_token_of_a_row_is_no_label_as_in_transformers() -> None:
    model, ids = tiny("gpt_neox"), torch.tensor([[5, 6, 7], [8, 9, 10]])
    expected = model(input_ids=ids, labels=ids).loss * 4
    torch.testing.assert_close(causal_lm_loss(model, ids, ids), expected)


def test_padding_to_the_longest_changes_nothing() -> None:
    batch = pad(DOCS, "document")
    wide = F.pad(batch["input_ids"], (0, 5)), F.pad(batch["labels"], (0, 5), value=IGNORE)
    for name in CONFIGS:
        model = tiny(name)
        torch.testing.assert_close(causal_lm_loss(model, *wide), causal_lm_loss(model, **batch))
