"""Randomness by key instead of by sequence.

Whatever is random about one thing (an example, a slot of a mixture, an epoch's order) is a pure function of a key that
names it. So no result depends on batch sizes, ranks, the order of calls, or a resume.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def digest(*parts: Any, length: int = 16) -> str:
    """Hex digest of JSON-serialisable ``parts``: stable over processes, platforms and Python versions."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:length]


def key(*parts: Any) -> int:
    """A 63-bit integer that names ``parts`` (fits a signed 64-bit tensor)."""
    return int(digest(*parts, length=16), 16) >> 1


def generator(*parts: Any) -> np.random.Generator:
    """A NumPy generator of its own for ``parts`` (Philox, counter based)."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def permutation(n: int, *parts: Any) -> np.ndarray:
    """The permutation of ``range(n)`` that belongs to ``parts``; int64, shape ``(n,)``."""
    return generator(*parts).permutation(n)
