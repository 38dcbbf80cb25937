"""Batches that are the same on every machine.

A *batch* is what one optimizer step sees: ``batch_size`` consecutive examples of the epoch's order. For the hardware it
is sorted by length and split into *micro-batches*, the same number on every rank, so that padding is rare. The loss of
a micro-batch is divided by the label tokens of the whole batch (``loss_tokens``), which every micro-batch carries: the
gradient does not depend on the split.

Rows are padded on the right and no attention mask is made: in a causal model a token sees only tokens before it, so
real tokens never see padding, and without a mask attention takes its fast causal kernel. Padding is told from text by
length alone, never by comparing ids with a padding id, which may be the EOS (SmolLM2) or may not exist (GPT-NeoX).

A *padding-free* micro-batch has no padding at all: its documents lie end to end in one row, with positions that start
again at 0 and with the borders that :mod:`synthmix.models.kernels` keeps attention within.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from math import ceil
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from synthmix.data.encoding import Encoded

T = TypeVar("T")
Loss = Literal["document", "completion"]
#: Keys: inputs (arguments of the loss, see :func:`pad` and :func:`flatten`), ids (names of the examples in the rows),
#: loss_tokens and tokens (label and text tokens of the whole batch over all ranks), text_tokens (text tokens, not
#: padding, of these rows), last (True: the optimizer steps after this one).
MicroBatch = dict[str, Any]

IGNORE = -100


def micro_batches_per_step(batch_size: int, micro_batch: int, world_size: int) -> int:
    """K, the micro-batches that a rank accumulates for one step: enough that none exceeds ``micro_batch`` examples."""
    return ceil(batch_size / (micro_batch * world_size))


def label_start(example: Encoded, loss: Loss) -> int:
    """Index of the first token that is a label. The first token of a document has no predecessor to predict it."""
    return max(1, example.completion_start) if loss == "completion" else 1


def loss_tokens(example: Encoded, loss: Loss) -> int:
    """Number of tokens of ``example`` that the loss covers."""
    return max(0, len(example.ids) - label_start(example, loss))


def pad(examples: Sequence[Encoded], loss: Loss) -> dict[str, Any]:
    """``input_ids`` and ``labels`` (int64, shape (rows, longest); -100 outside the loss), and ``label_positions``.

    ``label_positions`` (int64, shape (labels,)) says where the labels are in the flattened rows: a device that had to
    look for them would make the host wait. No examples make one row without labels: a rank with nothing to do still
    takes the same steps as the others.
    """
    width = max((len(example.ids) for example in examples), default=2)
    ids = np.zeros((max(1, len(examples)), width), dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
    return _with_labels(ids, examples, range(0, ids.size, width), loss)


def flatten(examples: Sequence[Encoded], loss: Loss) -> dict[str, Any]:
    """The same with the documents end to end: ``input_ids`` and ``labels`` have shape (1, tokens).

    Further, ``position_ids`` (int64, shape (1, tokens)) within the documents; ``borders`` (int32, shape
    (documents + 1,)), where they begin and end; and ``longest``, rounded up to a multiple of 64 so that a compiled
    model meets few values of it.
    """
    ends = list(accumulate((len(example.ids) for example in examples), initial=0))
    ends = ends if examples else [0, 2]
    ids = np.zeros((1, ends[-1]), dtype=np.int64)
    positions = np.arange(ends[-1], dtype=np.int64)
    for start, end, example in zip(ends, ends[1:], examples, strict=False):
        ids[0, start:end] = example.ids
        positions[start:end] -= start
    longest = max(end - start for start, end in zip(ends, ends[1:], strict=False))
    return {
        **_with_labels(ids, examples, ends, loss),
        "position_ids": torch.from_numpy(positions[None]),
        "borders": torch.tensor(ends, dtype=torch.int32),
        "longest": ceil(longest / 64) * 64,
    }


def _with_labels(ids: np.ndarray, examples: Sequence[Encoded], starts: Sequence[int], loss: Loss) -> dict[str, Any]:
    """``ids`` and the labels of ``examples``, which start at ``starts`` in the flattened rows."""
    spans = [
        np.arange(start + label_start(example, loss), start + len(example.ids))
        for start, example in zip(starts, examples, strict=False)
    ]
    where = np.concatenate([*spans, np.empty(0, dtype=np.int64)])
    labels = np.full_like(ids, IGNORE)
    labels.flat[where] = ids.flat[where]
    found = {"input_ids": ids, "labels": labels, "label_positions": where}
    return {name: torch.from_numpy(array) for name, array in found.items()}


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the last is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        following = thread.submit(next, source, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


class BatchLoader:
    """Iterates over one rank's micro-batches of one epoch; resumable at any batch.

    Args:
        encoded: the training documents, by slot.
        epoch_order: epoch -> the slots in the order in which they are seen, int64 of shape (examples,).
        batch_size: examples an optimizer step sees, over all ranks.
        micro_batch: the most examples a rank takes at once.
        rank, world_size: this process among those that train together.
        loss: tokens that the loss covers.
        names: names of the slots, for messages; the slots' numbers by default.
        padding_free: documents end to end instead of in padded rows.
        prefetch: make the next batch in a thread while a device works on the last, in memory that it copies from
            without the host (pinned).
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        epoch_order: Callable[[int], np.ndarray],
        batch_size: int = 32,
        micro_batch: int = 32,
        rank: int = 0,
        world_size: int = 1,
        loss: Loss = "document",
        names: Sequence[str] | None = None,
        padding_free: bool = False,
        prefetch: bool = False,
    ) -> None:
        self.encoded, self.epoch_order = encoded, epoch_order
        self.padding_free, self.prefetch = padding_free, prefetch
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.loss: Loss = loss
        self.names = names
        self.micro_batches = micro_batches_per_step(batch_size, micro_batch, world_size)
        self.steps = ceil(len(encoded) / batch_size)
        self.epoch = 0
        # Micro-batches handed out in the epoch, and where the next iteration starts after a resume.
        self._position = 0
        self._resume: tuple[int, int] | None = None

    @property
    def sampler(self) -> BatchLoader:
        """Lightning calls ``set_epoch`` of a loader's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.micro_batches

    def __iter__(self) -> Iterator[MicroBatch]:
        # Lightning asks for the iterator before it sets the epoch; a generator's body runs at the first ``next``.
        order = np.asarray(self.epoch_order(self.epoch))
        epoch, start = self._resume or (self.epoch, 0)
        self._resume = None
        first, skip = divmod(start if epoch == self.epoch else 0, self.micro_batches)
        batches = map(
            self._split, (order[k * self.batch_size : (k + 1) * self.batch_size] for k in range(first, self.steps))
        )
        for step, batch in enumerate(ahead(batches) if self.prefetch else batches, first):
            for index in range(skip, self.micro_batches):
                self._position = step * self.micro_batches + index + 1
                yield batch[index]
            skip = 0

    def state_dict(self) -> dict[str, int]:
        """Where this epoch stands, in micro-batches handed out."""
        return {"epoch": self.epoch, "position": self._position, "micro_batches": self.micro_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration continues there. The number of micro-batches a step may have changed since."""
        position = state["position"] // state["micro_batches"] * self.micro_batches
        self._resume, self._position, self.epoch = (state["epoch"], position), position, state["epoch"]

    def _split(self, slots: np.ndarray) -> list[MicroBatch]:
        """This rank's micro-batches of the batch ``slots``.

        Padded rows stand beside neighbours in length, and ranks get neighbours, so none waits long. Without padding
        every micro-batch gets long and short documents alike: as many tokens as the others.
        """
        lengths = [len(self.encoded[slot].ids) for slot in slots]
        by_length, parts = slots[np.argsort(lengths, kind="stable")], self.micro_batches * self.world_size
        dealt = [by_length[k::parts] for k in range(parts)] if self.padding_free else np.array_split(by_length, parts)
        shares = dealt[self.rank :: self.world_size]
        total = {
            "loss_tokens": sum(loss_tokens(self.encoded[slot], self.loss) for slot in slots),
            "tokens": sum(lengths),
        }
        return [self._micro_batch(share, total | {"last": k == len(shares) - 1}) for k, share in enumerate(shares)]

    def _micro_batch(self, slots: np.ndarray, common: dict[str, Any]) -> MicroBatch:
        examples = [self.encoded[slot] for slot in slots]
        inputs = flatten(examples, self.loss) if self.padding_free else pad(examples, self.loss)
        if self.prefetch and torch.cuda.is_available():
            inputs = {name: x.pin_memory() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
        ids = [str(slot) if self.names is None else self.names[slot] for slot in slots]
        text_tokens = sum(len(example.ids) for example in examples)
        return {"inputs": inputs, "ids": ids, "text_tokens": text_tokens, **common}
