"""Slices of the logits: a power of two rows, no more than fits, whatever the vocabulary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synthmix.models.slices import slice_rows, softmax_rows


@given(vocabulary=st.integers(1, 300_000), device=st.sampled_from(["cpu", "cuda", "gpu"]))
def test_a_slice_is_a_power_of_two_that_fits(vocabulary: int, device: str) -> None:
    rows, most = slice_rows(vocabulary, device), 2**25 if device == "cpu" else 2**27
    assert rows & (rows - 1) == 0
    assert rows == 32 or rows * vocabulary <= most < 2 * rows * vocabulary


def test_an_accelerator_takes_a_slice_at_once_and_a_cpu_what_its_cache_holds() -> None:
    assert softmax_rows(2048, "cuda") == 2048
    assert softmax_rows(512, "cpu") == 32
    assert softmax_rows(5, "cpu") == 5
