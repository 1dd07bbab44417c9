"""What a model's traffic is compared with: how its training data were spread, in bins; sealed in the bundle."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Quantity(StrEnum):
    """What is watched for drift: the leading diagnosis, its probability, and the image's own figures.

    See :class:`derm_ray.data.statistics.ImageStatistics` for the last three.
    """

    DIAGNOSIS = "diagnosis"
    CONFIDENCE = "confidence"
    BRIGHTNESS = "brightness"
    SHARPNESS = "sharpness"
    RESOLUTION = "resolution"


OTHER = "other"
"""The bin of all diagnoses that have none of their own."""


@dataclass(frozen=True)
class Distribution:
    """How one quantity was spread.

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

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Distribution":
        """Read a distribution back."""
        return cls(
            Quantity(values["quantity"]),
            str(values["modality"]),
            int(values["samples"]),
            tuple(map(str, values["bins"])),
            tuple(map(float, values["edges"])),
            tuple(map(float, values["shares"])),
        )


Reference = tuple[Distribution, ...]
"""One distribution of each quantity and modality at most; empty where nothing is known."""
