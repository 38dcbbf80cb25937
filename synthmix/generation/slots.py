"""A key-value cache of slots: each sequence owns a row, written from its left edge, so nothing is padded on the left.

A row's next token goes to the row's own column; rows join by having their prompt written into a free row, and leave by
having another row moved over them. No tensor is concatenated, and no row waits for a longer one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

#: Columns beyond the longest row: few, for attention streams through memory and gaps between heads break the stream.
SLACK = 8


class SlotCache(Cache):
    """Keys and values of each layer, ``(rows, heads, columns, head_dim)``, allocated when first seen.

    The model sees an empty cache without layers (its length is 0), which is what a prompt needs; the decoding step
    comes with its own positions and mask.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.rows, self.columns = rows, columns
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._prompt: tuple[int, Tensor] | None = None
        self._step: tuple[Tensor, Tensor, int] | None = None

    def write_prompts(self, first_row: int, source: Tensor) -> None:
        """The next forward is over prompts; row ``first_row + i`` gets the keys and values of prompt ``source[i]``."""
        self._prompt, self._step = (first_row, source), None

    def write_step(self, positions: Tensor, width: int) -> None:
        """The next forward is over one token in each of the first ``len(positions)`` rows.

        Args:
            positions: int64, ``(n,)``: the column that each row's token is written to.
            width: number of columns that attention looks at.
        """
        self.reserve(width)
        rows = torch.arange(len(positions), device=positions.device)
        self._prompt, self._step = None, (rows, positions, width)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Stores ``(B, heads, T, head_dim)`` states; returns those that attention looks at."""
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
        index, positions, width = self._step
        keys[index, :, positions] = key_states[:, :, 0]
        values[index, :, positions] = value_states[:, :, 0]
        return keys[: len(index), :, :width], values[: len(index), :, :width]

    def move(self, sources: Tensor, targets: Tensor, width: int) -> None:
        """Copies the first ``width`` columns of rows ``sources`` over rows ``targets`` (int64, no row in both)."""
        for pair in self._buffers.values():
            for buffer in pair:
                buffer[targets, :, :width] = buffer[sources, :, :width]

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

    def reserve(self, columns: int) -> None:
        """Makes room for at least ``columns`` columns, with some to spare."""
        if columns <= self.columns:
            return
        self.columns = columns + SLACK
        for layer, pair in self._buffers.items():
            self._buffers[layer] = (self._grown(pair[0]), self._grown(pair[1]))

    def _allocate(self, states: Tensor) -> Tensor:
        # Zeros, not empty memory: a masked column still enters attention as 0 * value, and 0 * NaN is NaN.
        return states.new_zeros(self.rows, states.shape[1], self.columns, states.shape[3])

    def _grown(self, buffer: Tensor) -> Tensor:
        grown = self._allocate(buffer)
        grown[:, :, : buffer.shape[2]] = buffer
        return grown
