"""What a model takes of a machine, before anything is loaded, and what to change where that is too much."""

from synthmix.models.memory.dimensions import Dimensions, dimensions_of
from synthmix.models.memory.estimate import ERROR, GIB, Need, inference_need, training_need
from synthmix.models.memory.fits import Fit, check_fits, describe_fit, examine, sequences_that_fit

__all__ = [
    "ERROR",
    "GIB",
    "Dimensions",
    "Fit",
    "Need",
    "check_fits",
    "describe_fit",
    "dimensions_of",
    "examine",
    "inference_need",
    "sequences_that_fit",
    "training_need",
]
