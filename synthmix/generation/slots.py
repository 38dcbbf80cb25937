"""A key-value cache of slots: each sequence owns a row, written from its left edge, so nothing is padded on the left.

A row's next token goes to the row's own column; rows join by having their prompt written into a free row, and leave by
having another row moved over them. No row waits for a longer one.

Attention reads all columns that there are, those beyond a row's length masked, and the number of columns follows the
longest row in steps of :data:`CHUNK`. So keys and values are read from end to end: a gap of a few hundred bytes after
each head, as columns kept in reserve would leave, breaks the processor's prefetching and makes attention 2 to 3 times
slower (measured on CPU, heads of 32).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

#: The number of columns is a multiple of this; every so many steps the cache is copied to a wider layout.
CHUNK = 16


class SlotCache(Cache):
    """Keys and values of each layer, ``(rows, kv_heads, columns, head_dim)``, allocated when first seen.

    The model sees an empty cache without layers (its length is 0), which is what a prompt needs; the decoding step
    comes with its own positions and mask.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.rows, self.columns = rows, 0
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        # Memory that a buffer leaves when it is laid out anew, for the next one: no page is ever faulted in twice.
        self._spare: Tensor | None = None
        self._prompt: tuple[int, Tensor] | None = None
        self._step: tuple[Tensor, Tensor] | None = None

    def write_prompts(self, first_row: int, source: Tensor) -> None:
        """The next forward is over prompts; row ``first_row + i`` gets the keys and values of prompt ``source[i]``."""
        self._prompt, self._step = (first_row, source), None

    def write_step(self, positions: Tensor) -> None:
        """The next forward is over one token in each of the first ``len(positions)`` rows.

        Args:
            positions: int64, ``(n,)``: the column that each row's token is written to.
        """
        rows = torch.arange(len(positions), device=positions.device)
        self._prompt, self._step = None, (rows, positions)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Stores ``(B, kv_heads, T, head_dim)`` states; returns those that attention looks at."""
        if layer_idx not in self._buffers:
            self._buffers[layer_idx] = (self._allocate(key_states), self._allocate(value_states))
        keys, values = self._buffers[layer_idx]
        if self._prompt is not None:
            first, source = self._prompt
            rows, length = slice(first, first + len(source)), key_states.shape[2]
            keys[rows, :, :length] = key_states[source]
            values[rows, :, :length] = value_states[source]
            return key_states, value_states
        assert self._step is not None
        index, positions = self._step
        keys[index, :, positions] = key_states[:, :, 0]
        values[index, :, positions] = value_states[:, :, 0]
        return keys[: len(index)], values[: len(index)]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copies rows ``sources`` over rows ``targets`` (int64, no row in both)."""
        for pair in self._buffers.values():
            for buffer in pair:
                buffer[targets] = buffer[sources]

    def copy_of(self, row: int, width: int) -> dict[int, tuple[Tensor, Tensor]]:
        """The first ``width`` columns of one row, for :meth:`paste`."""
        return {
            layer: (keys[row, :, :width].clone(), values[row, :, :width].clone())
            for layer, (keys, values) in self._buffers.items()
        }

    def paste(self, copy: dict[int, tuple[Tensor, Tensor]], rows: slice) -> None:
        """Writes what :meth:`copy_of` returned to the left edge of every row of ``rows``."""
        for layer, pair in copy.items():
            for buffer, states in zip(self._buffers[layer], pair, strict=True):
                buffer[rows, :, : states.shape[1]] = states

    def fit(self, width: int, rows: int) -> None:
        """Makes the layout wide enough for ``width`` columns, and not much wider; keeps the first ``rows`` rows."""
        columns = -(-width // CHUNK) * CHUNK
        if width <= self.columns <= columns + 2 * CHUNK:
            return
        self.columns = columns
        for layer, (keys, values) in self._buffers.items():
            self._buffers[layer] = (self._relaid(keys, rows), self._relaid(values, rows))

    def _allocate(self, states: Tensor) -> Tensor:
        # Zeros, not empty memory: a masked column still enters attention as 0 * value, and 0 * NaN is NaN.
        return self._view(states).zero_()

    def _view(self, like: Tensor) -> Tensor:
        """The current layout on spare memory, or on new memory with room to grow (not touched until it is used)."""
        shape = (self.rows, like.shape[1], self.columns, like.shape[3])
        size = math.prod(shape)
        if self._spare is None or self._spare.numel() < size or self._spare.dtype != like.dtype:
            self._spare = like.new_empty(2 * size)
        memory, self._spare = self._spare, None
        return memory[:size].view(shape)

    def _relaid(self, old: Tensor, rows: int) -> Tensor:
        new = self._view(old)
        width = min(self.columns, old.shape[2])
        new[:rows, :, :width] = old[:rows, :, :width]
        new[:rows, :, width:] = 0.0
        new[rows:] = 0.0
        whole = old.untyped_storage().nbytes() // old.element_size()
        self._spare = old.as_strided((whole,), (1,), 0)
        return new
