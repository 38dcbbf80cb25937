"""The shipped nano model: it writes documents that parse."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix.models.loading import load_model, load_tokenizer
from synthmix.models.nano import ensure_nano


@pytest.fixture(scope="session")
def nano() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """nano-0.9m and its tokenizer."""
    folder = ensure_nano("nano-0.9m")
    return load_model(folder), load_tokenizer(folder)
