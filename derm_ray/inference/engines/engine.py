"""The interface of inference engines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from derm_ray.bundle import Bundle
from derm_ray.data.patient import Vectors
from derm_ray.domain import PredictionKind

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class Engine(Protocol):
    """An execution backend of the predictor."""

    name: str

    def run(
        self, clinical: Images | None, dermoscopy: Images | None, patient: Vectors | None = None
    ) -> Mapping[PredictionKind, Probabilities]:
        """Return (B, classes) probabilities for uint8 images (B, size, size, 3), per prediction kind.

        ``patient`` is encoded patient data (B, F), for models that use it; without it, all is missing.
        """
        ...


@dataclass(frozen=True)
class EngineKind:
    """How engines of one name are made; see :data:`derm_ray.inference.engines.ENGINES`.

    Attributes:
        make: (bundle, device, detail) -> an engine.
        resolve: (bundle, device, detail) -> the detail that scores record after the name and an ``@``, such as a
            digest; raises a ``ConfigError`` or ``BundleError`` where the engine cannot run. ``None``: it has no detail.
        candidate: (bundle, device) -> an engine for ``auto`` to measure, or ``None`` where it cannot run. ``None``:
            ``auto`` does not consider it.
        differs: whether the detail depends on the machine, so that it is resolved where the engine will run.
    """

    make: Callable[[Bundle, torch.device, str], Engine]
    resolve: Callable[[Bundle, torch.device, str], str] | None = None
    candidate: Callable[[Bundle, torch.device], Engine | None] | None = None
    differs: bool = False
