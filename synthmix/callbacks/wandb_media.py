"""What a cell's W&B run shows beside numbers: some of the texts it wrote, and its reliability diagrams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from synthmix.config import CONFIDENCES
from synthmix.metrics import ReliabilityBins, reliability_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

#: Texts of a pool that are shown, in the order in which they were written.
SHOWN = 20
#: Confidence columns of the item table; the first is the one behind the headline ECE.
ESTIMATORS = ("confidence", *(f"confidence_{name}" for name in CONFIDENCES))
#: Okabe and Ito's blue and vermilion, which colour-blind readers can tell apart.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
#: A diagram with what lies between it and the next, the margin at the left and below, the gap: inches.
_PANEL, _MARGIN, _GAP = 2.4, 0.5, 0.3

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def read_samples(path: Path, n: int = SHOWN) -> pd.DataFrame:
    """The first ``n`` attempts of a pool, kept or not; a torn last line is passed over.

    Columns: ``index, text, kept, reason`` (why it is malformed or was dropped; empty where neither), ``stop, tokens,
    logprob_mean`` (nats a token). No rows where the file is missing.
    """
    rows = []
    for sample in _first_lines(path, n):
        reason = sample.get("why") or sample.get("dropped") or ""
        rows.append(
            {name: sample.get(name) for name in ("index", "text", "kept")}
            | {"reason": reason}
            | {name: sample.get(name) for name in ("stop", "tokens", "logprob_mean")}
        )
    return pd.DataFrame(rows)


def _first_lines(path: Path, n: int) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for _, line in zip(range(n), lines, strict=False):
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def draw_reliability(path: Path, n_bins: int) -> dict[str, Image]:
    """A picture for each split of an item table: a reliability diagram for each confidence estimator that it has.

    Empty where the table is missing. Items without a confidence under an estimator are left out of its diagram; the
    number of items stands above each.
    """
    if not path.is_file():
        return {}
    present = set(pq.read_schema(path).names)
    items = pd.read_parquet(path, columns=[c for c in ("split", "score", *ESTIMATORS) if c in present])
    pictures = {}
    for split, rows in items.groupby("split", sort=False):
        diagrams = {}
        for estimator in ESTIMATORS:
            known = rows[rows[estimator].notna()] if estimator in rows else rows.iloc[:0]
            if len(known):
                diagrams[estimator] = reliability_bins(known[estimator], known["score"], n_bins)
        if diagrams:
            pictures[str(split)] = _draw(diagrams)
    return pictures


def _draw(diagrams: dict[str, ReliabilityBins]) -> Image:
    # Not pyplot: it keeps figures for the life of the process, and its backend belongs to whoever runs this. Margins in
    # inches rather than a layout engine, which would draw everything twice.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL.Image import fromarray

    width, height = _PANEL * len(diagrams) + _MARGIN, _PANEL + _MARGIN
    figure = Figure(figsize=(width, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for place, (estimator, bins) in enumerate(diagrams.items()):
        left, side = _MARGIN + _PANEL * place, _PANEL - _GAP
        axis = figure.add_axes((left / width, _MARGIN / height, side / width, side / height))
        _diagram(axis, estimator, bins)
        axis.set_ylabel("" if place else "mean score of the bin", fontsize=8)
        axis.tick_params(labelsize=7, labelleft=not place)
    canvas.draw()
    return fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _diagram(axis: Axes, estimator: str, bins: ReliabilityBins) -> None:
    """Score against confidence, a point a bin; its area is the bin's share of the items, its stem the gap."""
    filled = bins.counts > 0
    confidence, accuracy = bins.confidence[filled], bins.accuracy[filled]
    share = bins.counts[filled] / bins.counts.sum()
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
    axis.vlines(confidence, confidence, accuracy, color=_VERMILION, linewidth=1.2)
    axis.scatter(confidence, accuracy, s=12 + 240 * share, color=_BLUE, alpha=0.85, linewidths=0)
    name = "headline" if estimator == "confidence" else estimator.removeprefix("confidence_")
    axis.set_title(f"{name}: ECE {bins.error():.3f}, n = {bins.counts.sum()}", fontsize=8)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=_TICKS, yticks=_TICKS)
    axis.set_xlabel("confidence", fontsize=8)
