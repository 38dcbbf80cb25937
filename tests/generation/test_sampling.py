"""Keyed nucleus sampling against the exact distribution, the library's own filter, and itself in other company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from synthmix.errors import UserError
from synthmix.generation.sampling import TIERS, Sampling, draw, gumbel, most_probable, nucleus, uniform

NUCLEUS = Sampling(temperature=0.8, top_p=0.9)


def keys_of(n: int, start: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(start)
    return torch.randint(0, 2**63 - 1, (n,), generator=generator)


def steps_of(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.long)


def warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """transformers' temperature, then top-p; filtered tokens are -inf."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    return TopPLogitsWarper(sampling.top_p)(None, scores)


def splitmix64(x: int) -> int:
    mask = 2**64 - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)


# -- the noise ---------------------------------------------------------------------------------------------------------


def test_uniform_is_splitmix64_as_written_in_plain_integers() -> None:
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    assert splitmix64(golden) == 0xE220A8397B1DCDAF  # first published output of the stream seeded with 0
    keys, step, ids = keys_of(3), torch.tensor([0, 5, 700]), torch.tensor([[0, 1, 50_000]] * 3)
    got = uniform(keys, step, ids)
    for row in range(3):
        seed = splitmix64((splitmix64((int(keys[row]) + golden) & mask) + (int(step[row]) + 1) * golden) & mask)
        bits = [splitmix64((seed + (int(t) + 1) * golden) & mask) >> 1 for t in ids[row]]
        assert got[row].tolist() == [float(np.float32(b) * np.float32(2.0**-63)) for b in bits]


def test_uniform_is_uniform_and_inside_the_open_interval() -> None:
    u = uniform(keys_of(400), 3, torch.arange(500).expand(400, 500)).numpy().ravel()
    assert 0.0 < u.min() and u.max() < 1.0
    assert kstest(u, "uniform").pvalue > 0.01
    assert np.isfinite(gumbel(keys_of(400), 3, torch.arange(500).expand(400, 500)).numpy()).all()


@pytest.mark.parametrize("varying", ["keys", "steps", "tokens"])
def test_uniform_is_independent_across_consecutive_keys_steps_and_tokens(varying: str) -> None:
    n = 200_000
    zeros, one = torch.zeros(n, dtype=torch.long), torch.arange(n)
    keys, steps, tokens = {
        "keys": (one, zeros, zeros), "steps": (zeros, one, zeros), "tokens": (zeros, zeros, one)
    }[varying]  # fmt: skip
    u = uniform(keys, steps, tokens[:, None])[:, 0].double().numpy()
    assert kstest(u, "uniform").pvalue > 0.01
    for lag in (1, 2, 7, 64):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 4 / np.sqrt(n)
    pairs = np.histogram2d(u[:-1], u[1:], bins=16)[0].ravel()
    assert chisquare(pairs).pvalue > 0.001


# -- the distribution --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [NUCLEUS, Sampling(1.0, 1.0), Sampling(1.7, 0.5)])
def test_200k_draws_follow_the_exact_distribution(sampling: Sampling) -> None:
    n, chunk = 240_000, 24_000
    logits = torch.randn(48, generator=torch.Generator().manual_seed(3)) * 2
    exact = warped(logits[None], sampling).double().softmax(-1)[0].numpy()
    keys = keys_of(n)
    tokens = torch.cat(
        [draw(logits.expand(chunk, -1), sampling, keys[i : i + chunk], steps_of(chunk))[0] for i in range(0, n, chunk)]
    )
    counts = np.bincount(tokens.numpy(), minlength=48)
    assert (counts[exact == 0] == 0).all()
    kept = exact > 0
    assert kept.sum() >= 3
    assert chisquare(counts[kept], exact[kept] * n).pvalue > 0.01


def test_draws_of_one_key_over_its_steps_follow_the_distribution_too() -> None:
    n = 50_000
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    tokens, _ = draw(logits.expand(n, -1), Sampling(1.0, 1.0), torch.full((n,), 77), torch.arange(n))
    counts = np.bincount(tokens.numpy(), minlength=5)
    assert chisquare(counts, logits.double().softmax(-1).numpy() * n).pvalue > 0.01


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.sampled_from([2, 17, 300, 3000]),
    spread=st.floats(0.1, 8.0),
    temperature=st.floats(0.2, 2.0),
    top_p=st.floats(0.05, 0.99),
)
def test_nucleus_is_the_set_that_transformers_keeps(
    seed: int, vocabulary: int, spread: float, temperature: float, top_p: float
) -> None:
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    theirs = torch.isfinite(warped(logits, Sampling(temperature, top_p)))
    probs, ids = (logits / temperature).softmax(-1).sort(dim=-1, descending=True)
    keep, _ = nucleus(probs, top_p)
    ours = torch.zeros_like(theirs).scatter(1, ids, keep)
    # They keep an arbitrary part of the tokens exactly as probable as the last one, we keep all.
    last = probs.masked_fill(~keep, 2.0).amin(-1, keepdim=True)
    tied = torch.zeros_like(theirs).scatter(1, ids, probs == last) & ours
    tied &= tied.sum(-1, keepdim=True) > 1
    # Both sum in float32, so a token whose edge lies within rounding of top_p may fall on either side.
    edge = (probs.double().cumsum(-1) - top_p).abs().amin(-1) < 1e-5
    assert ((ours == theirs) | tied)[~edge].all()


def test_tokens_as_probable_as_the_last_of_the_nucleus_are_all_in_it() -> None:
    probs = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    keep, _ = nucleus(probs, 0.5)
    assert keep.tolist() == [[True, True, True, True]]
    keep, complete = nucleus(probs[:, :2], 0.5)
    assert not complete, "an equal token may lie beyond the first two"


def test_a_peaked_row_has_a_nucleus_of_one_token() -> None:
    logits = torch.full((100, 5000), -50.0)
    logits[:, 4321] = 10.0
    tokens, logprobs = draw(logits, NUCLEUS, keys_of(100), steps_of(100))
    assert (tokens == 4321).all() and torch.allclose(logprobs, torch.zeros(100), atol=1e-6)


# -- the ways to the same draw -----------------------------------------------------------------------------------------


def test_a_flat_distribution_falls_back_to_the_sort_and_draws_the_same() -> None:
    n, vocabulary = 64, 50_000
    logits = torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(0)) * 0.2
    probs = (logits / 0.8).softmax(-1)
    assert not nucleus(probs.topk(TIERS[-1]).values, 0.9)[1].any(), "meant to be flat enough for the fallback"
    fast, _ = draw(logits, NUCLEUS, keys_of(n), steps_of(n))
    full, _ = draw(logits, NUCLEUS, keys_of(n), steps_of(n), tiers=())
    assert fast.tolist() == full.tolist()
    assert len(set(fast.tolist())) > n // 2
    inside = torch.isfinite(warped(logits, NUCLEUS)).gather(1, fast[:, None])
    assert inside.all()


@pytest.mark.parametrize("vocabulary", [40, 4096, 50_257])
@pytest.mark.parametrize("k", [1, 20, 40])
def test_most_probable_is_topk(vocabulary: int, k: int) -> None:
    probs = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(k)).softmax(-1)
    probs[:, -1] = 0.9  # the columns that the groups leave over
    values, ids = most_probable(probs, k)
    assert torch.equal(values, probs.topk(k).values) and torch.equal(probs.gather(1, ids), values)
    assert all(len(set(row)) == k for row in ids.tolist())


def test_more_rows_than_are_handled_at_once_draw_as_by_themselves() -> None:
    logits = torch.randn(60, 50_000, generator=torch.Generator().manual_seed(4)) * 4
    keys = keys_of(60)
    tokens, logprobs = draw(logits, NUCLEUS, keys, steps_of(60))
    for i in range(0, 60, 10):
        alone = draw(logits[i : i + 10], NUCLEUS, keys[i : i + 10], steps_of(10))
        assert tokens[i : i + 10].tolist() == alone[0].tolist()
        assert torch.allclose(logprobs[i : i + 10], alone[1], atol=1e-5)


def test_rows_that_need_different_tiers_draw_as_with_the_full_sort() -> None:
    spreads = torch.tensor([0.0, 0.2, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0]).repeat(8)[:, None]
    logits = torch.randn(64, 20_000, generator=torch.Generator().manual_seed(1)) * spreads
    complete = nucleus((logits / 0.8).softmax(-1).topk(TIERS[0]).values, 0.9)[1]
    assert complete.any() and not complete.all()
    tiered, _ = draw(logits, NUCLEUS, keys_of(64), steps_of(64))
    full, _ = draw(logits, NUCLEUS, keys_of(64), steps_of(64), tiers=())
    assert tiered.tolist() == full.tolist()


@pytest.mark.parametrize("sampling", [NUCLEUS, Sampling(1.0, 1.0), Sampling(greedy=True)])
def test_a_draw_does_not_depend_on_its_company(sampling: Sampling) -> None:
    n = 48
    logits = torch.randn(n, 3000, generator=torch.Generator().manual_seed(2)) * 2
    keys, steps = keys_of(n), torch.arange(n) % 7
    together, logprobs = draw(logits, sampling, keys, steps)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(9))
    shuffled, _ = draw(logits[order], sampling, keys[order], steps[order])
    assert shuffled.tolist() == together[order].tolist()
    for row in range(0, n, 5):
        alone, logprob = draw(logits[row : row + 1], sampling, keys[row : row + 1], steps[row : row + 1])
        assert alone.item() == together[row].item()
        assert logprob.item() == pytest.approx(logprobs[row].item(), abs=1e-5)


def test_keys_and_steps_change_the_draw() -> None:
    logits = torch.zeros(32, 1000)
    by_key, _ = draw(logits, Sampling(1.0, 1.0), keys_of(32), steps_of(32))
    by_step, _ = draw(logits, Sampling(1.0, 1.0), keys_of(1).expand(32), torch.arange(32))
    assert len(set(by_key.tolist())) > 28 and len(set(by_step.tolist())) > 28


# -- edges -------------------------------------------------------------------------------------------------------------


def test_logprob_is_that_of_the_unfiltered_model_at_temperature_one() -> None:
    logits = torch.randn(20, 700, generator=torch.Generator().manual_seed(5)) * 3
    for sampling in (NUCLEUS, Sampling(2.0, 1.0), Sampling(greedy=True)):
        tokens, logprobs = draw(logits, sampling, keys_of(20), steps_of(20))
        exact = logits.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        assert torch.allclose(logprobs.double(), exact, atol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(greedy=True), Sampling(0.0, 0.9), Sampling(1e-4, 0.9), Sampling(1e-4)])
def test_greedy_and_vanishing_temperatures_take_the_most_probable_token(sampling: Sampling) -> None:
    logits = torch.randn(50, 2000, generator=torch.Generator().manual_seed(6)) * 5
    tokens, _ = draw(logits, sampling, keys_of(50), steps_of(50))
    assert tokens.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("settings_", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": np.nan}])
def test_settings_out_of_range_say_what_was_expected(settings_: dict[str, float]) -> None:
    name, value = next(iter(settings_.items()))
    with pytest.raises(UserError, match=rf"{name} is {value}; expected"):
        Sampling(**settings_)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_of_a_diverged_model_are_an_error(bad: float) -> None:
    logits = torch.zeros(3, 100)
    logits[1, 7] = bad
    with pytest.raises(UserError, match="not finite"):
        draw(logits, NUCLEUS, keys_of(3), steps_of(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares two devices")
def test_uniform_has_the_same_values_on_both_devices() -> None:
    keys, ids = keys_of(64), torch.arange(2000).expand(64, 2000)
    assert torch.equal(uniform(keys, 5, ids), uniform(keys.cuda(), 5, ids.cuda()).cpu())
