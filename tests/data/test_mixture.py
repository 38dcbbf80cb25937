"""Mixtures: exact, nested, paired, reproducible."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmix.config import MODES
from synthmix.data.mixture import Mixture, counts, mix
from synthmix.errors import ConfigError, DataError

N = st.integers(1, 120)
SHARE = st.floats(0, 1, allow_nan=False)
SEED = st.integers(0, 2**31)
HOLDS = st.sampled_from(["dataset", "batch"])


def make(mode: str, p: float, n: int, seed: int, iteration: int = 1, holds: str = "dataset", spare: int = 7) -> Mixture:
    external = [f"real-{i}" for i in range(n + spare)]
    need = max(counts(mode, p, n, iteration).synthetic, default=0)
    pools = [[f"pool{t}:{i}" for i in range(need + spare)] for t in range(iteration)]
    return mix(mode, p, external, pools, n, seed, holds)


@given(N, SHARE, SEED, HOLDS)
def test_replace_realises_exactly_the_rounded_share(n: int, p: float, seed: int, holds: str) -> None:
    mixture = make("replace", p, n, seed, holds=holds)
    assert len(mixture.synthetic) == round(p * n)
    assert len(mixture) == n == len(mixture.external) + len(mixture.synthetic)


@given(N, st.floats(0, 0.95), SEED)
def test_augment_keeps_all_external_and_reaches_the_share(n: int, p: float, seed: int) -> None:
    mixture = make("augment", p, n, seed)
    assert len(mixture.external) == n
    assert len(mixture.synthetic) == round(p * n / (1 - p))
    assert abs(len(mixture.synthetic) - p * len(mixture)) <= 0.5 + 1e-9


@given(N, st.floats(0, 0.9), SEED, st.integers(1, 4))
def test_accumulate_adds_the_same_number_from_every_pool(n: int, p: float, seed: int, t: int) -> None:
    mixture = make("accumulate", p, n, seed, iteration=t)
    share = round(p * n / (1 - p))
    assert len(mixture.external) == n
    by_pool = [sum(name.startswith(f"pool{k}:") for name in mixture.synthetic) for k in range(t)]
    assert by_pool == [share] * t


@given(N, st.floats(0, 0.9), SEED)
def test_accumulate_keeps_what_earlier_iterations_used(n: int, p: float, seed: int) -> None:
    first, second = make("accumulate", p, n, seed, 1), make("accumulate", p, n, seed, 2)
    assert set(first.synthetic) <= set(second.synthetic)


@given(N, SEED, st.integers(1, 3))
def test_recursive_is_all_synthetic_from_the_newest_pool(n: int, seed: int, t: int) -> None:
    mixture = make("recursive", 1.0, n, seed, iteration=t)
    assert not mixture.external
    assert len(mixture.synthetic) == n
    assert all(name.startswith(f"pool{t - 1}:") for name in mixture.synthetic)


@given(N, st.sampled_from(MODES), st.floats(0, 0.9), SEED, HOLDS)
def test_no_id_twice_and_every_slot_once_an_epoch(n: int, mode: str, p: float, seed: int, holds: str) -> None:
    mixture = make(mode, p, n, seed, holds=holds)
    ids = mixture.ids()
    assert len(set(ids)) == len(ids)
    for epoch in range(2):
        assert sorted(mixture.epoch_order(epoch)) == list(range(len(mixture)))


@given(N, SHARE, SHARE, SEED)
def test_smaller_shares_are_inside_larger_ones(n: int, p: float, q: float, seed: int) -> None:
    low, high = (make("replace", share, n, seed) for share in sorted((p, q)))
    assert set(low.synthetic) <= set(high.synthetic)
    assert set(high.external) <= set(low.external)


@given(N, SHARE, SHARE, SEED, st.integers(0, 3))
def test_paired_conditions_differ_only_in_the_replaced_slots(n: int, p: float, q: float, seed: int, epoch: int) -> None:
    low, high = (make("replace", share, n, seed) for share in sorted((p, q)))
    assert np.array_equal(low.epoch_order(epoch), high.epoch_order(epoch))
    for a, b, was, now in zip(low.ids(), high.ids(), low.is_synthetic, high.is_synthetic, strict=True):
        assert a == b or (not was and now)


@given(N, st.sampled_from(MODES), st.floats(0, 0.9), SEED, st.integers(0, 3))
def test_external_examples_come_in_the_same_order_in_every_mode(
    n: int, mode: str, p: float, seed: int, epoch: int
) -> None:
    control, mixture = make("replace", 0.0, n, seed), make(mode, p, n, seed)

    def order(m: Mixture) -> list[str]:
        ids = m.ids()
        return [ids[i] for i in m.epoch_order(epoch) if ids[i].startswith("real")]

    kept = set(mixture.external)
    assert [name for name in order(control) if name in kept] == order(mixture)


@given(st.integers(32, 200), SHARE, SEED, st.integers(0, 2))
def test_per_batch_share_differs_by_at_most_one(n: int, p: float, seed: int, epoch: int) -> None:
    mixture = make("replace", p, n, seed, holds="batch")
    marks = mixture.is_synthetic[mixture.epoch_order(epoch)]
    share = len(mixture.synthetic) / n
    for start in range(0, n, 32):
        batch = marks[start : start + 32]
        assert abs(batch.sum() - share * len(batch)) <= 1 + 1e-9


@given(N, st.sampled_from(MODES), st.floats(0, 0.9), SEED, HOLDS)
def test_the_same_call_gives_the_same_mixture(n: int, mode: str, p: float, seed: int, holds: str) -> None:
    first, again = make(mode, p, n, seed, holds=holds), make(mode, p, n, seed, holds=holds)
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert first.ids() == again.ids()
    assert np.array_equal(first.epoch_order(2), again.epoch_order(2))


def test_seeds_epochs_and_independent_draws_differ() -> None:
    one, two = make("replace", 0.5, 100, 1), make("replace", 0.5, 100, 2)
    assert set(one.external) != set(two.external)
    assert not np.array_equal(one.epoch_order(0), one.epoch_order(1))
    external, pool = [f"r{i}" for i in range(100)], [f"s{i}" for i in range(100)]
    low, high = (mix("replace", p, external, [pool], 100, 0, nested=False) for p in (0.2, 0.4))
    assert not set(low.synthetic) <= set(high.synthetic)


def test_known_mixture_stays_as_it_is() -> None:
    """A golden value: a change here changes what every stored cell means (raise CODE_VERSION with it)."""
    mixture = make("replace", 0.3, 10, 0, spare=2)
    assert mixture.ids() == GOLDEN
    assert mixture.epoch_order(0).tolist() == GOLDEN_ORDER


GOLDEN = ["pool0:1", "real-10", "real-7", "pool0:0", "real-1", "pool0:2", "real-6", "real-8", "real-5", "real-9"]
GOLDEN_ORDER = [9, 2, 7, 3, 8, 6, 1, 4, 0, 5]


@pytest.mark.parametrize("mode", ["augment", "accumulate"])
def test_all_synthetic_is_refused_where_external_data_stays(mode: str) -> None:
    with pytest.raises(ConfigError, match=f"1 with mode {mode}"):
        counts(mode, 1.0, 10, 1)


def test_unknown_mode_names_a_near_match() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'replace'"):
        counts("replce", 0.5, 10, 1)


def test_a_pool_smaller_than_its_share_is_refused() -> None:
    with pytest.raises(DataError, match="holds 3 examples, but a share of 0.5 needs 5"):
        mix("replace", 0.5, [str(i) for i in range(10)], [["a", "b", "c"]], 10, 0)


def test_more_examples_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="data.train_examples = 11, but the training set has 10"):
        mix("replace", 0.0, [str(i) for i in range(10)], [], 11, 0)


@pytest.mark.parametrize("mode", ["replace", "augment", "accumulate"])
def test_an_independent_draw_does_not_depend_on_how_long_its_pool_has_become(mode: str) -> None:
    external = [f"e{i}" for i in range(100)]
    pool = [f"s{i}" for i in range(400)]
    short, long = (mix(mode, 0.2, external, [pool[:n]], 100, 0, nested=False) for n in (100, 400))
    assert short.ids() == long.ids() and short.synthetic != tuple(pool[: len(short.synthetic)])
    with pytest.raises(DataError, match="holds 99 examples, but a share of 0.2 needs 100"):
        mix(mode, 0.2, external, [pool[:99]], 100, 0, nested=False)
