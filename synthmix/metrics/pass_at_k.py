"""pass@k: the chance that at least one of k samples solves a problem (Chen et al. 2021, "Evaluating large language
models trained on code", equation 1)."""

from __future__ import annotations

import numpy as np


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""Unbiased estimate of pass@k for one problem, from ``n`` samples of which ``c`` pass.

    .. math:: \text{pass@}k = 1 - \binom{n-c}{k} / \binom{n}{k} = 1 - \prod_{i=n-c+1}^{n} \left(1 - k / i\right)

    The product form keeps every factor in [0, 1], so nothing overflows for any n.

    Args:
        n: samples drawn for the problem, at least 1.
        c: samples that pass every test, between 0 and ``n``.
        k: samples that one may draw, between 1 and ``n``.

    Raises:
        ValueError: if a count is outside its range.

    >>> round(pass_at_k(10, 3, 1), 7), round(pass_at_k(10, 3, 5), 7)
    (0.3, 0.9166667)
    """
    if not 1 <= k <= n:
        raise ValueError(f"Expected argument `k` to be between 1 and n={n} but got {k}")
    if not 0 <= c <= n:
        raise ValueError(f"Expected argument `c` to be between 0 and n={n} but got {c}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
