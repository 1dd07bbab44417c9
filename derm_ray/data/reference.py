"""Reference distributions for drift monitoring, stored in the bundle."""

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum


class Quantity(StrEnum):
    """Quantities monitored for drift: predicted diagnosis, confidence, and image statistics.

    See :class:`derm_ray.data.statistics.ImageStatistics` for the last three.
    """

    DIAGNOSIS = "diagnosis"
    CONFIDENCE = "confidence"
    BRIGHTNESS = "brightness"
    SHARPNESS = "sharpness"
    RESOLUTION = "resolution"


OTHER = "other"
"""Bin of all diagnoses without a bin of their own."""


@dataclass(frozen=True)
class Distribution:
    """Reference distribution of one quantity.

    Attributes:
        quantity: which.
        modality: ``clinical`` or ``dermoscopy``; of answers also ``both``: the images they rest on.
        samples: how many were counted.
        bins: names, in order: diagnoses, or ``1``, ``2``, ... from the lowest values to the highest.
        edges: between the bins of numbers, rising; a value on an edge belongs to the bin above. Empty for diagnoses.
        shares: of the samples in each bin, smoothed so that none is 0; they sum to 1.
    """

    quantity: Quantity
    modality: str
    samples: int
    bins: tuple[str, ...]
    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def bin_of(self, value: float | str) -> str:
        """Return the name of a value's bin."""
        if isinstance(value, str):
            return value if value in self.bins else OTHER
        return self.bins[bisect_right(self.edges, value)]


Reference = tuple[Distribution, ...]
"""At most one distribution per quantity and modality; may be empty."""
