"""Each class gives its function's value, however the items arrive: in batches, on two ranks, in half precision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import Metric

from synthmix import metrics
from synthmix.metrics.pass_at_k import pass_at_k

PAIRS: dict[str, tuple[Callable[[], Metric], Callable[..., float]]] = {
    "ece": (metrics.ExpectedCalibrationError, metrics.expected_calibration_error),
    "mce": (
        lambda: metrics.ExpectedCalibrationError(n_bins=7, norm="max"),
        lambda a, b: metrics.expected_calibration_error(a, b, 7, "max"),
    ),
    "gap": (metrics.OverconfidenceGap, metrics.overconfidence_gap),
    "brier": (metrics.BrierScore, metrics.brier_score),
}
REFERENCE = ["one fish two fish", "red fish blue fish", "this one has a little star"]
TEXTS: dict[str, tuple[Callable[[], Metric], Callable[[list[str]], float]]] = {
    "self_bleu": (metrics.SelfBLEU, metrics.self_bleu),
    "self_bleu_2": (
        lambda: metrics.SelfBLEU(2, "none", "whitespace"),
        lambda texts: metrics.self_bleu(texts, 2, "none", "whitespace"),
    ),
    "distinct": (lambda: metrics.DistinctN(2), lambda texts: metrics.distinct_n(texts, 2)),
    "unique": (metrics.UniqueFraction, metrics.unique_fraction),
    "entropy": (metrics.NgramEntropy, metrics.ngram_entropy),
    "tail": (lambda: metrics.TailMass(REFERENCE), lambda texts: metrics.tail_mass(texts, REFERENCE)),
}
# With an empty text, one that occurs twice, characters of several bytes, and half a character.
WRITTEN = ["one fish", "", "red fish and blue fish", "été — 日本語", "one fish", "this one has a car", "\ud83d odd"]


def items(n: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    confidence = torch.from_numpy(rng.random(n))
    confidence[:3] = torch.tensor([0.0, 1.0, 0.3])
    return confidence, torch.from_numpy(rng.random(n))


@pytest.mark.parametrize("name", PAIRS)
@given(cuts=st.lists(st.integers(1, 99), max_size=4))
def test_pairs_in_batches(name: str, cuts: list[int]) -> None:
    make, function = PAIRS[name]
    metric = make()
    confidence, correct = items()
    borders = sorted({0, 100, *cuts})
    for a, b in zip(borders[:-1], borders[1:], strict=True):
        metric.update(confidence[a:b], correct[a:b])
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(function(confidence.numpy(), correct.numpy()), abs=1e-12)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_texts_in_batches(name: str, size: int) -> None:
    make, function = TEXTS[name]
    metric = make()
    for start in range(0, len(WRITTEN), size):
        metric.update(WRITTEN[start : start + size])
    assert metric.texts == WRITTEN
    assert metric.compute().item() == pytest.approx(function(WRITTEN), abs=1e-12)


def test_reset_and_forward() -> None:
    metric = metrics.SelfBLEU()
    first = metric(["a b c d e", "a b c d e"])
    assert first.item() == pytest.approx(1.0)
    metric.update("x y z")
    assert metric.compute().item() == pytest.approx(2 / 3)
    metric.reset()
    assert metric.texts == []


def test_one_string_is_one_text() -> None:
    metric = metrics.UniqueFraction()
    metric.update("abc")
    assert metric.texts == ["abc"]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("make", [make for make, _ in {**PAIRS, **TEXTS}.values() if make is not TEXTS["tail"][0]])
def test_compute_without_items_is_an_error(make: Callable[[], Metric]) -> None:
    with pytest.raises(ValueError, match="at least"):
        make().compute()


def test_half_precision_is_counted_in_double() -> None:
    metric = metrics.OverconfidenceGap()
    for _ in range(3000):
        metric.update(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([False]))
    assert metric.compute().item() == 1.0


def test_pass_at_k() -> None:
    metric = metrics.PassAtK(k=5)
    metric.update(torch.tensor([10, 10]), torch.tensor([3, 0]))
    metric.update(torch.tensor([20]), torch.tensor([20]))
    assert metric.compute().item() == pytest.approx((pass_at_k(10, 3, 5) + 0 + 1) / 3)
    with pytest.raises(ValueError, match="`k`"):
        metric.update(torch.tensor([4]), torch.tensor([4]))


def test_options_are_checked_when_the_metric_is_made() -> None:
    with pytest.raises(ValueError, match="n_bins"):
        metrics.ExpectedCalibrationError(n_bins=0)
    with pytest.raises(ValueError, match="norm"):
        metrics.ExpectedCalibrationError(norm="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`k`"):
        metrics.PassAtK(k=0)


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    confidence, correct = items()
    # Ranks hold different numbers of items, as at the end of an epoch.
    mine = slice(0, 37) if rank == 0 else slice(37, None)
    texts = WRITTEN[:3] if rank == 0 else WRITTEN[3:]
    result = {}
    for name, (make, _) in PAIRS.items():
        metric = make()
        metric.update(confidence[mine], correct[mine])
        result[name] = metric.compute().item()
    for name, (make, _) in TEXTS.items():
        metric = make()
        metric.update(texts)
        result[name] = metric.compute().item()
        lonely = make()
        if rank == 0:
            lonely.update(WRITTEN)
        result[f"{name}, rank 1 without texts"] = lonely.compute().item()
        assert lonely.texts == (WRITTEN if rank == 0 else [])
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_ranks_give_the_value_of_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    confidence, correct = items()
    expected = {name: function(confidence.numpy(), correct.numpy()) for name, (_, function) in PAIRS.items()}
    for name, (_, function) in TEXTS.items():
        expected[name] = expected[f"{name}, rank 1 without texts"] = function(WRITTEN)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, abs=1e-12)


def test_functions_do_not_import_torch() -> None:
    code = "import sys, synthmix.metrics as m; m.self_bleu(['a', 'b']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="SelfBLUE"):
        metrics.SelfBLUE  # noqa: B018
    assert all(hasattr(metrics, name) for name in metrics.__all__)
