"""How much of the logits is there at a time; the loss cuts by it, and the memory estimate counts by it."""

from __future__ import annotations

# Logits in a slice, before rounding to a power of two rows: 512 of 50,304 on a CPU, where their products reach nine
# tenths of the machine's rate (667 rows: 5 % less, in bf16 15 %), more where launches cost.
_LOGITS = {"cpu": 2**25}
_LOGITS_ACCELERATOR = 2**27
# Few enough to stay in a CPU's cache between the passes over them.
_CACHED_ROWS = 32


def slice_rows(vocabulary: int, device: str) -> int:
    """Tokens whose logits are held at a time, on a device of this type (``cpu``, ``cuda``, ``gpu``, ...)."""
    most = _LOGITS.get(device, _LOGITS_ACCELERATOR) // max(1, vocabulary)
    return int(2 ** (max(32, most).bit_length() - 1))


def softmax_rows(rows: int, device: str) -> int:
    """Tokens of a slice of ``rows`` whose softmax is taken at a time, in fp32."""
    return min(rows, _CACHED_ROWS) if device == "cpu" else rows
