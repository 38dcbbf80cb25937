"""Fixtures of all tests. Real benchmark records are found through $SYNTHMIX_DATA; without it those tests are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when torch is loaded: waiting threads that spin starve the other test processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real benchmark data."""
    root = os.environ.get("SYNTHMIX_DATA")
    if not root:
        pytest.skip("SYNTHMIX_DATA is not set")
    return Path(root)
