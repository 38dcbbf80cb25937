"""Batches: every example once, the same batch on all hardware, padding told by length."""

from __future__ import annotations

import threading
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthmix.data.batching import IGNORE, BatchLoader, MicroBatch, ahead, loss_tokens, pad
from synthmix.data.datamodule import MixtureDataModule
from synthmix.data.encoding import Encoded
from synthmix.errors import UserError
from synthmix.keys import permutation


def corpus(n: int, vocabulary: int = 50, seed: int = 0) -> list[Encoded]:
    """Documents of 2 to 20 tokens; 0, the id that fills padding, is an ordinary token in them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 21, n)
    return [Encoded(rng.integers(0, vocabulary, k).tolist(), int(rng.integers(0, k))) for k in lengths]


def order(n: int):
    return lambda epoch: permutation(n, "order", epoch)


def end_to_end(micro: MicroBatch, docs: list[Encoded], loss: str) -> list[int]:
    """The slots in a padding-free micro-batch, after checking it against the documents."""
    inputs, slots = micro["inputs"], [int(slot) for slot in micro["ids"]]
    assert inputs["borders"].dtype == torch.int32
    assert inputs["longest"] % 64 == 0
    if not slots:
        assert (inputs["input_ids"].shape, inputs["borders"].tolist(), len(inputs["label_positions"])) == (
            (1, 2),
            [0, 2],
            0,
        )
        return []
    lengths = [len(docs[slot].ids) for slot in slots]
    assert inputs["borders"].diff().tolist() == lengths
    assert inputs["longest"] >= max(lengths)
    assert inputs["input_ids"].tolist() == [[token for slot in slots for token in docs[slot].ids]]
    assert inputs["position_ids"].tolist() == [[k for n in lengths for k in range(n)]]
    alone = [pad([docs[slot]], loss)["labels"][0].tolist() for slot in slots]
    assert inputs["labels"].tolist() == [sum(alone, [])]
    assert micro["text_tokens"] == sum(lengths)
    return slots


def rows(micro: MicroBatch, docs: list[Encoded]) -> list[int]:
    """The slots in a micro-batch, after checking its rows against the documents."""
    inputs = micro["inputs"]
    for row, slot in enumerate(map(int, micro["ids"])):
        ids = docs[slot].ids
        assert inputs["input_ids"][row, : len(ids)].tolist() == ids
        assert (inputs["labels"][row, len(ids) :] == IGNORE).all()
    assert micro["text_tokens"] == sum(len(docs[int(slot)].ids) for slot in micro["ids"])
    return [int(slot) for slot in micro["ids"]]


sizes = st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))


@given(sizes, st.sampled_from(["document", "completion"]), st.booleans())
def test_every_rank_sees_its_part_of_the_same_batches(size: tuple[int, int, int, int], loss: str, free: bool) -> None:
    n, batch_size, micro_batch, world = size
    docs = corpus(n)
    loaders = [
        BatchLoader(docs, order(n), batch_size, micro_batch, rank, world, loss, padding_free=free)
        for rank in range(world)
    ]
    epochs = [list(loader) for loader in loaders]
    assert {len(epoch) for epoch in epochs} == {len(loader) for loader in loaders} == {len(loaders[0])}
    k = loaders[0].micro_batches
    for step in range(loaders[0].steps):
        slots = order(n)(0)[step * batch_size : (step + 1) * batch_size]
        micros = [micro for epoch in epochs for micro in epoch[step * k : (step + 1) * k]]
        found = [end_to_end(micro, docs, loss) if free else rows(micro, docs) for micro in micros]
        assert sorted(slot for part in found for slot in part) == sorted(slots)
        assert all(len(micro["ids"]) <= micro_batch for micro in micros)
        places = [(micro["inputs"]["labels"].flatten() != IGNORE).nonzero()[:, 0].tolist() for micro in micros]
        assert places == [micro["inputs"]["label_positions"].tolist() for micro in micros]
        labels = sum(map(len, places))
        assert {micro["loss_tokens"] for micro in micros} == {labels}
        assert labels == sum(loss_tokens(docs[slot], loss) for slot in slots)
        assert {micro["tokens"] for micro in micros} == {sum(len(docs[slot].ids) for slot in slots)}
        assert [micro["last"] for micro in epochs[0][step * k : (step + 1) * k]] == [False] * (k - 1) + [True]


def test_completion_loss_covers_the_completion_and_nothing_else() -> None:
    labels = pad([Encoded([5, 6, 7, 8], 2), Encoded([9, 9], 0)], "completion")["labels"]
    assert labels.tolist() == [[IGNORE, IGNORE, 7, 8], [IGNORE, 9, IGNORE, IGNORE]]


def test_padding_id_inside_a_document_stays_a_label() -> None:
    labels = pad([Encoded([0, 0, 0], 0), Encoded([1, 2, 3, 4], 0)], "document")["labels"]
    assert labels[0].tolist() == [IGNORE, 0, 0, IGNORE]


def test_nothing_to_do_makes_one_row_without_labels() -> None:
    batch = pad([], "document")
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 2)
    assert (batch["labels"] == IGNORE).all()


def test_sorting_saves_padding() -> None:
    docs = corpus(320)
    widths = {
        micro_batch: sum(m["inputs"]["input_ids"].numel() for m in BatchLoader(docs, order(320), 32, micro_batch))
        for micro_batch in (32, 8)
    }
    assert widths[8] < 0.8 * widths[32]


@given(st.integers(1, 60), st.integers(0, 2))
def test_resuming_gives_the_rest_of_the_epoch(taken: int, epoch: int) -> None:
    docs = corpus(30)
    whole = BatchLoader(docs, order(30), 8, 3)
    whole.set_epoch(epoch)
    expected = list(whole)
    taken = min(taken, len(expected)) // whole.micro_batches * whole.micro_batches
    list(islice(whole, taken))
    resumed = BatchLoader(docs, order(30), 8, 3)
    resumed.load_state_dict(whole.state_dict() | {"position": taken})
    iterator = iter(resumed)
    resumed.set_epoch(epoch)
    rest = list(iterator)
    assert [m["ids"] for m in rest] == [m["ids"] for m in expected[taken:]]
    resumed.set_epoch(epoch + 1)
    assert len(list(resumed)) == len(resumed)


def test_state_counts_what_was_handed_out() -> None:
    loader = BatchLoader(corpus(30), order(30), 8, 4)
    list(islice(loader, 5))
    assert loader.state_dict() == {"epoch": 0, "position": 5, "micro_batches": 2}


def test_resuming_with_other_micro_batches_continues_at_the_same_batch() -> None:
    docs = corpus(32)
    old = BatchLoader(docs, order(32), 8, 4)
    list(islice(old, 4))
    new = BatchLoader(docs, order(32), 8, 2)
    new.load_state_dict(old.state_dict())
    assert sorted(i for m in new for i in m["ids"]) == sorted(str(slot) for slot in order(32)(0)[16:])


@given(st.integers(0, 12), st.integers(0, 12))
def test_prefetching_changes_neither_the_batches_nor_the_count(taken: int, later: int) -> None:
    docs = corpus(30)
    plain, threaded = (BatchLoader(docs, order(30), 8, 3, prefetch=on) for on in (False, True))
    first = [list(islice(loader, taken)) for loader in (plain, threaded)]
    assert [m["ids"] for m in first[0]] == [m["ids"] for m in first[1]]
    assert plain.state_dict() == threaded.state_dict()
    resumed = BatchLoader(docs, order(30), 8, 3, prefetch=True)
    resumed.load_state_dict(threaded.state_dict())
    start = taken // plain.micro_batches * plain.micro_batches
    assert [m["ids"] for m in islice(resumed, later)] == [m["ids"] for m in list(plain)[start : start + later]]


def test_prefetching_hands_on_an_error_where_it_happens() -> None:
    def items():
        yield from (1, 2)
        raise ValueError("third")

    found = ahead(items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(found)


def test_a_thread_makes_the_next_batch_while_one_is_in_use() -> None:
    made, second = [], threading.Event()

    def items():
        for item in range(4):
            made.append(threading.current_thread().name)
            if item == 1:
                second.set()
            yield item

    found = ahead(items())
    assert next(found) == 0
    assert second.wait(10)  # made without being asked for
    found.close()
    assert len(made) <= 3
    assert all(name.startswith("batches") for name in made)


def test_padding_free_micro_batches_have_like_numbers_of_tokens() -> None:
    docs = corpus(256)
    loader = BatchLoader(docs, order(256), 32, 8, padding_free=True)
    for step in range(loader.steps):
        tokens = [m["text_tokens"] for m in list(loader)[step * 4 : step * 4 + 4]]
        assert max(tokens) - min(tokens) <= 18  # one document's


def test_epochs_differ_and_do_not_depend_on_the_past() -> None:
    loader = BatchLoader(corpus(30), order(30), 8, 8)
    first = [m["ids"] for m in loader]
    loader.set_epoch(2)
    third = [m["ids"] for m in loader]
    fresh = BatchLoader(corpus(30), order(30), 8, 8)
    fresh.set_epoch(2)
    assert third == [m["ids"] for m in fresh] != first


def test_names_replace_slot_numbers() -> None:
    loader = BatchLoader(corpus(3), order(3), 4, 4, names=["x", "y", "z"])
    assert sorted(next(iter(loader))["ids"]) == ["x", "y", "z"]


def test_datamodule_makes_the_loader_of_one_process() -> None:
    docs = corpus(33)
    datamodule = MixtureDataModule(docs, order(33), batch_size=8, micro_batch=4, loss="completion")
    loader = datamodule.train_dataloader()
    assert (datamodule.steps_per_epoch, datamodule.accumulation(1), datamodule.accumulation(2)) == (5, 2, 1)
    assert len(loader) == 10
    first, again = (next(iter(found))["inputs"] for found in (loader, datamodule.loader()))
    assert torch.equal(first["labels"], again["labels"])


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        MixtureDataModule([], order(0))
