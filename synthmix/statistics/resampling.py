"""Resampled studies: seeds and items drawn again, with a key, so that a resample is the same wherever it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthmix import keys

Array = NDArray[np.float64]
RESAMPLES = 1000
#: Integers drawn at a time: bounds the memory of a bootstrap over a large test set.
_CHUNK = 4_000_000


def checked(scores: Sequence[Array], shared_items: bool) -> list[Array]:
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    if not rows or min(map(len, rows)) == 0:
        raise ValueError(f"expected at least one item in every seed but got {[len(row) for row in rows]}")
    if shared_items and len({len(row) for row in rows}) > 1:
        raise ValueError(f"shared_items needs the same items in every seed but got {[len(row) for row in rows]}")
    return rows


def resample(
    blocks: Sequence[Array],
    key: tuple[Any, ...],
    shared_items: bool,
    resamples: int,
    reduce: Callable[[Array], Array] = lambda means: means,
) -> Array:
    """Statistics of resampled studies, ``(resamples, k)``.

    Args:
        blocks: a seed each, ``(k, n)``: k numbers an item, whose means over items are reduced, then averaged over seeds.
        reduce: from means ``(..., k)`` to statistics ``(..., j)``.
    """
    rng = keys.generator("bootstrap", *key)
    seeds, k = len(blocks), len(blocks[0])
    if shared_items or seeds == 1:
        stacked = np.concatenate(blocks)
        means = _item_means(stacked, rng, resamples).reshape(resamples, seeds, k)
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        return np.einsum("rs,rsj->rj", weights, reduce(means)) / seeds
    # Items apart in each seed: a seed that is drawn twice in one resample draws its items twice.
    means = np.stack([_item_means(b, rng, resamples * seeds).reshape(resamples, seeds, k) for b in blocks], axis=2)
    chosen = rng.integers(seeds, size=(resamples, seeds, 1, 1))
    return reduce(np.take_along_axis(means, chosen, axis=2)[:, :, 0]).mean(axis=1)


def _item_means(values: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Means over resampled items: values ``(k, n)`` to ``(resamples, k)``; one draw of items serves all k."""
    n = values.shape[1]
    return np.concatenate([counts @ values.T / n for counts in _item_counts(n, rng, resamples)])


def _item_counts(n: int, rng: np.random.Generator, resamples: int) -> Iterator[Array]:
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n, size=(rows, n), dtype=np.int64) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
