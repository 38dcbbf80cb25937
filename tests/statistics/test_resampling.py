"""Resampled studies: known variances, keys, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from synthmix import keys
from synthmix.statistics import resampling
from synthmix.statistics.resampling import checked, resample


def table(name: object, seeds: int, n: int) -> np.ndarray:
    """Scores ``(seeds, n)`` whose items and seeds both differ."""
    rng = keys.generator("table", name)
    return rng.normal(size=(seeds, n)) + rng.normal(size=n) + 0.3 * rng.normal(size=(seeds, 1))


def draws(values: np.ndarray, shared: bool, resamples: int = 20_000) -> np.ndarray:
    return resample([row[None] for row in values], ("k",), shared, resamples)[:, 0]


def test_one_seed_has_the_variance_of_a_resampled_mean() -> None:
    values = table("one", 1, 60)
    assert draws(values, True).var() == pytest.approx(values.var() / 60, rel=0.05)
    assert draws(values, True).mean() == pytest.approx(values.mean(), abs=0.01)


def test_shared_items_have_the_variance_of_the_pigeonhole_bootstrap() -> None:
    """Owen (2007): seeds and items drawn apart, of a table: variance of rows, of columns, and of the rest over both."""
    values = table("shared", 4, 50)
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns + values.mean()
    expected = rows.var() / 4 + columns.var() / 50 + rest.var() / 200
    assert draws(values, True).var() == pytest.approx(expected, rel=0.05)


def test_items_apart_have_the_variance_of_a_two_stage_bootstrap() -> None:
    values = table("apart", 4, 50)
    expected = values.mean(axis=1).var() / 4 + values.var(axis=1).mean() / 50 / 4
    assert draws(values, False).var() == pytest.approx(expected, rel=0.05)


def test_one_draw_of_items_serves_all_numbers_of_an_item() -> None:
    values = table("both", 3, 40)
    blocks = [np.stack([row, 2 * row + 1]) for row in values]
    for shared in (True, False):
        found = resample(blocks, ("k",), shared, 200)
        assert found[:, 1] == pytest.approx(2 * found[:, 0] + 1)


def test_means_are_reduced_before_they_are_averaged_over_seeds() -> None:
    values = np.array([[1.0] * 10, [-1.0] * 10])
    for shared in (True, False):
        absolute = resample([row[None] for row in values], ("k",), shared, 50, np.abs)
        assert np.all(absolute == 1) and np.any(draws(values, shared, 50) != 1)


def test_resamples_are_a_function_of_the_key_and_not_of_the_memory_they_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = table("chunks", 3, 40)
    whole = draws(values, True, 300)
    monkeypatch.setattr(resampling, "_CHUNK", 400)
    assert draws(values, True, 300) == pytest.approx(whole, abs=1e-12)
    assert not np.allclose(resample([row[None] for row in values], ("other",), True, 300)[:, 0], whole)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"same items in every seed but got \[3, 4\]"):
        checked([np.ones(3), np.ones(4)], shared_items=True)
    for nothing in ([], [np.ones(0)], [np.ones(2), np.ones(0)]):
        with pytest.raises(ValueError, match="at least one item"):
            checked(nothing, shared_items=False)
    assert [len(row) for row in checked([np.ones(3), np.ones(4)], shared_items=False)] == [3, 4]
