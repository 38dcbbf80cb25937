"""Exact mixtures of real and synthetic examples.

A mixture is a pure function of (mode, proportion, N, seed, iteration): counts are exact, and nothing is drawn at
random while training. N *slots* are filled with external examples in a keyed order; ``replace`` gives the first
round(p N) slots of another keyed order to synthetic examples. So over p the external examples are nested, the synthetic
ones are nested, and under ``replace`` every slot that two conditions fill alike comes at the same place of every epoch:
paired conditions differ in nothing else. Where a mixture is longer (``augment``, ``accumulate``) or spread over batches,
what two conditions share still comes in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthmix import keys
from synthmix.config import MODES
from synthmix.errors import ConfigError, DataError, unknown


@dataclass(frozen=True)
class Counts:
    """How many examples a mixture holds: external, and synthetic from each pool (oldest first)."""

    external: int
    synthetic: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.external + sum(self.synthetic)

    @property
    def proportion(self) -> float:
        """The realised synthetic share."""
        return sum(self.synthetic) / self.total if self.total else 0.0


@dataclass(frozen=True)
class Mixture:
    """One training set, slot by slot.

    ``slots[i]`` is the index of slot i's example in ``external`` (``is_synthetic[i]`` false) or ``synthetic`` (true).
    """

    mode: str
    proportion: float
    holds: str
    seed: int
    external: tuple[str, ...]
    synthetic: tuple[str, ...]
    slots: np.ndarray
    is_synthetic: np.ndarray

    def __len__(self) -> int:
        return len(self.slots)

    def ids(self) -> list[str]:
        """The example id of each slot."""
        return [
            (self.synthetic if synthetic else self.external)[index]
            for index, synthetic in zip(self.slots.tolist(), self.is_synthetic.tolist(), strict=True)
        ]

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Slot indices in the order of an epoch; int64, shape ``(len(self),)``.

        Each slot draws a keyed priority, so two mixtures of one seed put the slots they share in the same order. With
        ``holds == 'batch'`` every stretch of examples holds its share: any prefix of length j has round(j p) synthetic
        ones, so batches differ by at most one.
        """
        priority = keys.generator("order", self.seed, epoch).random(len(self))
        order = np.argsort(priority, kind="stable")
        if self.holds == "dataset":
            return order
        return _stratified(order, self.is_synthetic[order])

    def to_dict(self) -> dict[str, object]:
        """What ``mixture.json`` holds: settings, counts and every id in slot order of its source."""
        return {
            "mode": self.mode,
            "proportion": self.proportion,
            "holds": self.holds,
            "seed": self.seed,
            "counts": {
                "external": len(self.external),
                "synthetic": len(self.synthetic),
                "total": len(self),
                "proportion_realised": len(self.synthetic) / len(self) if len(self) else 0.0,
            },
            "external": list(self.external),
            "synthetic": list(self.synthetic),
        }


def counts(mode: str, proportion: float, n: int, iteration: int) -> Counts:
    """Exact sizes of a mixture over N = ``n`` external examples.

    - ``replace``: N in all, round(p N) of them synthetic, from the newest pool.
    - ``augment``: all N external, and m = round(p N / (1 - p)) synthetic from the newest pool, so that their share of
      the whole is p.
    - ``accumulate``: all N external, and m from *each* pool so far (Gerstgrasser et al. 2024, arXiv 2404.01413): the
      share is p at iteration 1 and t p / (1 - p + t p) at iteration t.
    - ``recursive``: N synthetic, no external.

    Iteration 0 is the baseline: external alone, in every mode.
    """
    if iteration == 0:
        return Counts(n, ())
    if mode not in MODES:
        raise ConfigError([f"modes: {unknown('mode', mode, MODES)}"])
    if mode == "recursive":
        return Counts(0, (n,))
    if mode == "replace":
        synthetic = round(proportion * n)
        return Counts(n - synthetic, (synthetic,))
    if proportion >= 1:
        raise ConfigError(
            [f"proportions: {proportion:g} with mode {mode}, which keeps all external data; expected < 1"]
        )
    added = round(proportion * n / (1 - proportion))
    return Counts(n, (added,) * (iteration if mode == "accumulate" else 1))


def mix(
    mode: str,
    proportion: float,
    external_ids: Sequence[str],
    pools: Sequence[Sequence[str]],
    n: int,
    seed: int,
    holds: str = "dataset",
    nested: bool = True,
) -> Mixture:
    """The mixture for one cell.

    Args:
        mode: one of ``MODES``.
        proportion: synthetic share p.
        external_ids: ids of all external training examples; N = ``n`` of them take part.
        pools: ids of the synthetic pools, oldest iteration first; the number of pools is the iteration (0: baseline).
        n: N, the size of the external training set.
        seed: the cell's seed; nothing else is random.
        holds: whether the share holds over the ``dataset`` or in every ``batch``.
        nested: false draws slots and synthetic examples anew for every proportion, out of the first
            ``max(N, share)`` of a pool: however long a pool has become, the draw is the same.

    Raises:
        DataError: fewer external examples than N, or a pool with fewer examples than its share.
    """
    if n > len(external_ids):
        raise DataError(f"data.train_examples = {n}, but the training set has {len(external_ids)} examples")
    size = counts(mode, proportion, n, iteration=len(pools))
    drawn = keys.permutation(len(external_ids), "external", seed)[:n]
    synthetic = _draw_synthetic(pools, size, seed, proportion, None if nested else n)
    slots, is_synthetic = _fill(size, n, seed, None if nested else proportion)
    kept = drawn[slots[~is_synthetic]]
    slots = slots.copy()
    slots[~is_synthetic] = np.arange(len(kept))
    mixture = Mixture(
        mode, proportion, holds, seed, tuple(external_ids[i] for i in kept), tuple(synthetic), slots, is_synthetic
    )
    _verify(mixture, size)
    return mixture


def _draw_synthetic(
    pools: Sequence[Sequence[str]], size: Counts, seed: int, proportion: float, universe: int | None
) -> list[str]:
    """From each pool its share: a prefix, so that a smaller proportion takes part of what a larger one takes; or, with
    ``universe``, a draw out of so many."""
    taken: list[str] = []
    newest_first = list(zip(reversed(pools), reversed(size.synthetic), strict=False))
    for pool, wanted in reversed(newest_first):
        drawn_from = wanted if universe is None or not wanted else max(universe, wanted)
        if drawn_from > len(pool):
            raise DataError(
                f"the synthetic pool holds {len(pool)} examples, but a share of {proportion:g} needs {drawn_from}; "
                "raise generation.max_tries or lower the proportion"
            )
        order = range(wanted) if universe is None else keys.permutation(drawn_from, "pool", seed, proportion)[:wanted]
        taken += [pool[i] for i in order]
    return taken


def _fill(size: Counts, n: int, seed: int, salt: float | None) -> tuple[np.ndarray, np.ndarray]:
    """(index into its source, synthetic or not) for every slot."""
    synthetic = sum(size.synthetic)
    slots = np.arange(size.total, dtype=np.int64)
    is_synthetic = np.zeros(size.total, dtype=bool)
    if size.external == n:  # nothing is replaced: synthetic examples follow the external ones
        is_synthetic[n:] = True
        slots[n:] -= n
    else:
        replaced = keys.permutation(n, "slots", seed, *([] if salt is None else [salt]))[:synthetic]
        is_synthetic[replaced] = True
        slots[replaced] = np.arange(synthetic)
    return slots, is_synthetic


def _stratified(order: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    external_part, synthetic_part = order[~synthetic], order[synthetic]
    share = len(synthetic_part) / len(order) if len(order) else 0.0
    due = np.floor(np.arange(len(order) + 1) * share + 0.5).astype(np.int64)
    due[-1] = len(synthetic_part)
    place = np.diff(due) > 0
    merged = np.empty_like(order)
    merged[place], merged[~place] = synthetic_part, external_part
    return merged


def _verify(mixture: Mixture, size: Counts) -> None:
    """Our own invariants: realised counts as planned, and no example twice."""
    assert len(mixture) == size.total and int(mixture.is_synthetic.sum()) == sum(size.synthetic)
    assert len(mixture.external) == size.external and len(mixture.synthetic) == sum(size.synthetic)
    assert len(set(mixture.external)) == len(mixture.external), "an external example twice"
    assert len(set(mixture.synthetic)) == len(mixture.synthetic), "a synthetic example twice"
