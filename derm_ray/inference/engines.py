"""Engines: how a network's forward pass is executed."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from derm_ray.bundle import Bundle
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.inference.precision import autocast, default_device, normalise, resolve_precision, to_device
from derm_ray.vocabulary import PredictionKind

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]

ENGINES = ("auto", "torch", "torch-bf16")


class Engine(Protocol):
    """What the predictor asks of an execution backend."""

    name: str

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        """Return (B, classes) probabilities for uint8 images (B, size, size, 3), per prediction kind."""
        ...


def resolve_engine(name: str, device: torch.device | None = None) -> str:
    """Return the engine that a name stands for on this machine; ``auto`` is bf16 where the hardware has it.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in ENGINES:
        raise ConfigError(unknown_name("engine", name, ENGINES))
    if name != "auto":
        return name
    return {"fp32": "torch", "bf16": "torch-bf16"}[resolve_precision("auto", device or default_device())]


class TorchEngine:
    """Eager PyTorch in channels-last order: ``torch`` (fp32) or ``torch-bf16`` (autocast)."""

    def __init__(self, bundle: Bundle, name: str, device: torch.device | None = None) -> None:
        self.name = name
        self._device = device or default_device()
        self._precision = {"torch": "fp32", "torch-bf16": "bf16"}[name]
        self._spec = bundle.preprocessing
        self._network = to_device(bundle.build(), self._device)

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        """See :class:`Engine`."""
        with torch.inference_mode(), autocast(self._precision, self._device):
            logits = self._network(self._tensor(clinical), self._tensor(dermoscopy))
        return {kind: p.cpu().numpy() for kind, p in logits.probabilities().items()}

    def _tensor(self, images: Images | None) -> torch.Tensor | None:
        if images is None:
            return None
        return normalise(torch.from_numpy(images).to(self._device), self._spec.mean, self._spec.std)


def make_engine(bundle: Bundle, name: str = "auto", device: torch.device | None = None) -> Engine:
    """Return an engine by name; see :func:`resolve_engine`."""
    return TorchEngine(bundle, resolve_engine(name, device), device)
