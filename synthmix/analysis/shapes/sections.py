"""The report's sections on shapes: over the synthetic share, over model size, over iterations."""

from synthmix.analysis.shapes.curves import curve_section
from synthmix.analysis.shapes.decay import decay_section
from synthmix.analysis.shapes.scale import scale_section

__all__ = ["curve_section", "decay_section", "scale_section"]
