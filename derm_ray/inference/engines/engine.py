"""The interface of inference engines."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from derm_ray.domain import PredictionKind

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class Engine(Protocol):
    """An execution backend of the predictor."""

    name: str

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        """Return (B, classes) probabilities for uint8 images (B, size, size, 3), per prediction kind."""
        ...
