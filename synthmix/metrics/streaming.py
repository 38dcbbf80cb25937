"""The metrics as :class:`torchmetrics.Metric`: fed batch by batch, and summed or gathered over ranks.

Each class keeps just what its pure function needs and calls that function, so both give the same value. They live apart
from the functions because importing torchmetrics takes seconds, which the parts that only need numbers should not pay.
``compute`` before any item raises the ValueError of the function.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from synthmix.metrics import calibration
from synthmix.metrics import diversity as functions
from synthmix.metrics.diversity import Smoothing
from synthmix.metrics.ngrams import TokenizerName
from synthmix.metrics.pass_at_k import pass_at_k


def _numpy(values: Tensor) -> np.ndarray:
    # float64 first: bfloat16 has no NumPy counterpart.
    return values.detach().to("cpu", torch.float64).numpy()


class _SumMetric(Metric):
    """Base of metrics whose state is sums, which ranks add up."""

    is_differentiable = False
    full_state_update = False

    def _add_sum(self, name: str, size: int | None = None, dtype: torch.dtype = torch.float64) -> None:
        default = torch.zeros((), dtype=dtype) if size is None else torch.zeros(size, dtype=dtype)
        self.add_state(name, default, dist_reduce_fx="sum")

    def _increase(self, name: str, value: Any) -> None:
        state = getattr(self, name)
        setattr(self, name, state + torch.as_tensor(value, dtype=state.dtype, device=state.device))


class ExpectedCalibrationError(_SumMetric):
    r"""Expected calibration error over bins of equal width, the last one closed.

    .. math:: \text{ECE} = \sum_m \frac{|B_m|}{N} \left| \text{acc}(B_m) - \text{conf}(B_m) \right|

    ``update(confidence, correct)``: two tensors ``(B,)`` in [0, 1]; ``correct`` may be fractional. ``compute()``: a
    float64 scalar. The state is three sums a bin, whatever the number of items.
    See :func:`synthmix.metrics.calibration.expected_calibration_error`.

    >>> metric = ExpectedCalibrationError(n_bins=2)
    >>> metric.update(torch.tensor([0.25, 0.25, 0.55]), torch.tensor([0, 0, 1]))
    >>> metric.update(torch.tensor([0.75, 0.75]), torch.tensor([1, 1]))
    >>> round(metric.compute().item(), 4)
    0.29
    """

    higher_is_better = False
    counts: Tensor
    confidence_sum: Tensor
    correct_sum: Tensor

    def __init__(self, n_bins: int = 10, norm: calibration.Norm = "l1", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n_bins < 1:
            raise ValueError(f"Expected argument `n_bins` to be at least 1 but got {n_bins}")
        if norm not in ("l1", "max"):
            raise ValueError(f"Expected argument `norm` to be 'l1' or 'max' but got {norm!r}")
        self.n_bins = n_bins
        self.norm: calibration.Norm = norm
        self._add_sum("counts", n_bins, torch.int64)
        self._add_sum("confidence_sum", n_bins)
        self._add_sum("correct_sum", n_bins)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds B items."""
        pair = calibration.check_pair(_numpy(confidence), _numpy(correct))
        counts, confidence_sum, correct_sum = calibration.bin_sums(*pair, self.n_bins)
        self._increase("counts", counts)
        self._increase("confidence_sum", confidence_sum)
        self._increase("correct_sum", correct_sum)

    def bins(self) -> calibration.ReliabilityBins:
        """The reliability diagram of this rank's items so far."""
        return calibration.bins_from_sums(
            self.counts.cpu().numpy(), self.confidence_sum.cpu().numpy(), self.correct_sum.cpu().numpy()
        )

    def compute(self) -> Tensor:
        """The calibration error of all items, a float64 scalar."""
        return torch.tensor(self.bins().error(self.norm), dtype=torch.float64, device=self.device)


class _MeanMetric(_SumMetric):
    """Base of metrics that are the mean of one value an item."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_sum("total")
        self._add_sum("count", dtype=torch.int64)

    def _add_values(self, values: np.ndarray) -> None:
        self._increase("total", values.sum())
        self._increase("count", len(values))

    def compute(self) -> Tensor:
        """The mean over all items, a float64 scalar."""
        if int(self.count) == 0:
            raise ValueError(f"{type(self).__name__} is undefined without items: got 0, expected at least 1")
        return self.total / self.count


class OverconfidenceGap(_MeanMetric):
    """Mean confidence minus mean score: ``sum(confidence - correct) / N``.

    ``update(confidence, correct)``: two tensors ``(B,)`` in [0, 1]. ``compute()``: a float64 scalar in [-1, 1].

    >>> metric = OverconfidenceGap()
    >>> metric.update(torch.tensor([0.9, 0.7]), torch.tensor([1, 0]))
    >>> round(metric.compute().item(), 4)
    0.3
    """

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds B items."""
        given, score = calibration.check_pair(_numpy(confidence), _numpy(correct))
        self._add_values(given - score)


class BrierScore(_MeanMetric):
    """Mean squared difference: ``sum((confidence - correct)^2) / N``.

    ``update(confidence, correct)``: two tensors ``(B,)`` in [0, 1]. ``compute()``: a float64 scalar in [0, 1].

    >>> metric = BrierScore()
    >>> metric.update(torch.tensor([0.9, 0.7]), torch.tensor([1, 0]))
    >>> round(metric.compute().item(), 4)
    0.25
    """

    higher_is_better = False

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds B items."""
        given, score = calibration.check_pair(_numpy(confidence), _numpy(correct))
        self._add_values((given - score) ** 2)


class PassAtK(_MeanMetric):
    """Mean over problems of the unbiased pass@k; see :func:`synthmix.metrics.pass_at_k.pass_at_k`.

    ``update(n, c)``: two integer tensors ``(B,)``, the samples of each problem and those that pass. ``compute()``: a
    float64 scalar in [0, 1].

    >>> metric = PassAtK(k=1)
    >>> metric.update(torch.tensor([10, 10]), torch.tensor([3, 0]))
    >>> round(metric.compute().item(), 4)
    0.15
    """

    higher_is_better = True

    def __init__(self, k: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"Expected argument `k` to be at least 1 but got {k}")
        self.k = k

    def update(self, n: Tensor, c: Tensor) -> None:
        """Adds B problems."""
        pairs = zip(n.tolist(), c.tolist(), strict=True)
        self._add_values(np.array([pass_at_k(samples, passed, self.k) for samples, passed in pairs], np.float64))


class _TextMetric(Metric):
    """Base of metrics over all texts together.

    Texts are kept as UTF-8 bytes and lengths, because only tensors are gathered over ranks. ``update`` takes a string
    or a sequence of strings; the order of ranks does not matter to any of these metrics.
    """

    is_differentiable = False
    full_state_update = False
    utf8: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, tokenizer: TokenizerName = "word", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokenizer: TokenizerName = tokenizer
        self.add_state("utf8", [], dist_reduce_fx="cat")
        self.add_state("lengths", [], dist_reduce_fx="cat")

    def update(self, texts: str | Sequence[str]) -> None:
        """Adds texts."""
        # surrogatepass: a byte-level tokenizer can leave halves of characters behind, and they count as text.
        encoded = [text.encode("utf-8", "surrogatepass") for text in ([texts] if isinstance(texts, str) else texts)]
        data = np.frombuffer(b"".join(encoded), np.uint8).copy()
        self.utf8.append(torch.from_numpy(data).to(self.device))
        self.lengths.append(torch.tensor([len(text) for text in encoded], dtype=torch.int64, device=self.device))

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # torchmetrics gives a rank without texts empty float tensors, which cannot be gathered with the others' bytes.
        if not len(self.lengths):
            _TextMetric.update(self, [])
        super()._sync_dist(*args, **kwargs)

    @property
    def texts(self) -> list[str]:
        """The texts so far (of all ranks while synchronised)."""
        if not len(self.lengths):
            return []
        data = dim_zero_cat(self.utf8).cpu().numpy().tobytes()
        ends = torch.cumsum(dim_zero_cat(self.lengths), 0).tolist()
        return [data[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    @abstractmethod
    def _value(self, texts: list[str]) -> float: ...

    def compute(self) -> Tensor:
        """The value for all texts, a float64 scalar."""
        return torch.tensor(self._value(self.texts), dtype=torch.float64, device=self.device)


class SelfBLEU(_TextMetric):
    r"""Mean BLEU of each text against all the others; ``1 - SelfBLEU`` is the diversity of arXiv 2510.05133.

    .. math:: \text{self-BLEU} = \frac{1}{N} \sum_i \text{BLEU}(t_i, \{t_j : j \ne i\})

    ``update(texts)``: strings. ``compute()``: a float64 scalar in [0, 1]; ValueError below two texts.
    See :func:`synthmix.metrics.diversity.self_bleu`.

    >>> metric = SelfBLEU()
    >>> metric.update(["the cat sat on the mat", "the cat lay on the mat"])
    >>> metric.update("a dog ran")
    >>> round(metric.compute().item(), 4)
    0.1694
    """

    higher_is_better = False

    def __init__(
        self,
        max_n: int = 4,
        smoothing: Smoothing = "method1",
        tokenizer: TokenizerName = "word",
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.max_n = max_n
        self.smoothing: Smoothing = smoothing

    def _value(self, texts: list[str]) -> float:
        return functions.self_bleu(texts, self.max_n, self.smoothing, self.tokenizer)


class DistinctN(_TextMetric):
    """Different n-grams / all n-grams; see :func:`synthmix.metrics.diversity.distinct_n`.

    ``update(texts)``: strings. ``compute()``: a float64 scalar in [0, 1].

    >>> metric = DistinctN(n=1)
    >>> metric.update(["a b", "a b"])
    >>> metric.compute().item()
    0.5
    """

    higher_is_better = True

    def __init__(self, n: int = 2, tokenizer: TokenizerName = "word", **kwargs: Any) -> None:
        super().__init__(tokenizer, **kwargs)
        self.n = n

    def _value(self, texts: list[str]) -> float:
        return functions.distinct_n(texts, self.n, self.tokenizer)


class UniqueFraction(_TextMetric):
    """Different texts / texts; see :func:`synthmix.metrics.diversity.unique_fraction`.

    ``update(texts)``: strings. ``compute()``: a float64 scalar in (0, 1].

    >>> metric = UniqueFraction()
    >>> metric.update(["a", "b", "b", "c"])
    >>> metric.compute().item()
    0.75
    """

    higher_is_better = True

    def _value(self, texts: list[str]) -> float:
        return functions.unique_fraction(texts)


class NgramEntropy(_TextMetric):
    """Entropy of the n-grams in bits, ``-sum p log2 p``; see :func:`synthmix.metrics.diversity.ngram_entropy`.

    ``update(texts)``: strings. ``compute()``: a float64 scalar, at least 0.

    >>> metric = NgramEntropy()
    >>> metric.update(["a b", "c d"])
    >>> metric.compute().item()
    2.0
    """

    higher_is_better = True

    def __init__(self, n: int = 1, tokenizer: TokenizerName = "word", **kwargs: Any) -> None:
        super().__init__(tokenizer, **kwargs)
        self.n = n

    def _value(self, texts: list[str]) -> float:
        return functions.ngram_entropy(texts, self.n, self.tokenizer)


class TailMass(_TextMetric):
    """Share of the reference's rare n-grams that the texts still hold; see
    :func:`synthmix.metrics.diversity.tail_mass`.

    ``update(texts)``: strings, the pool. ``compute()``: a float64 scalar in [0, 1].

    >>> metric = TailMass(reference=["one fish", "two fish", "red fish"])
    >>> metric.update("one red fish")
    >>> round(metric.compute().item(), 4)
    0.6667
    """

    higher_is_better = True

    def __init__(
        self, reference: Sequence[str], n: int = 1, rare: int = 1, tokenizer: TokenizerName = "word", **kwargs: Any
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.reference = list(reference)
        self.n = n
        self.rare = rare

    def _value(self, texts: list[str]) -> float:
        return functions.tail_mass(texts, self.reference, self.n, self.rare, self.tokenizer)
