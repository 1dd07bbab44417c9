"""PyTorch, eager or compiled."""

import shutil
from collections.abc import Mapping

import torch

from derm_ray.bundle import Bundle
from derm_ray.errors import ConfigError
from derm_ray.inference.engines.engine import Images, Probabilities
from derm_ray.inference.precision import autocast, default_device, normalise, resolve_precision, to_device
from derm_ray.models.networks import PairLogits
from derm_ray.vocabulary import PredictionKind

GPU_PAIRS = 32


class TorchEngine:
    """Eager PyTorch in channels-last order.

    Args:
        bundle: the model.
        precision: ``fp32``, or ``bf16`` (autocast).
        device: ``None`` is the first GPU, or the CPU.
    """

    def __init__(self, bundle: Bundle, precision: str, device: torch.device | None = None) -> None:
        self.name = {"fp32": "torch", "bf16": "torch-bf16"}[precision]
        self._device = device or default_device()
        self._precision = precision
        self._spec = bundle.preprocessing
        self._network = to_device(bundle.build(), self._device)

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        """See :class:`derm_ray.inference.engines.engine.Engine`."""
        with torch.inference_mode(), autocast(self._precision, self._device):
            logits = self._forward(self._tensor(clinical), self._tensor(dermoscopy))
        return {kind: p.cpu().numpy() for kind, p in logits.probabilities().items()}

    def _forward(self, clinical: torch.Tensor | None, dermoscopy: torch.Tensor | None) -> PairLogits:
        logits: PairLogits = self._network(clinical, dermoscopy)
        return logits

    def _tensor(self, images: Images | None) -> torch.Tensor | None:
        if images is None:
            return None
        return normalise(torch.from_numpy(images).to(self._device), self._spec.mean, self._spec.std)


class CompiledEngine(TorchEngine):
    """PyTorch compiled for this processor or GPU, weights frozen into the program, in bf16 where there is hardware.

    A program serves one number of pairs: on CPUs, which gain nothing from more, one pair after the other; on GPUs the
    batch is filled up. The first pass with both images, and with either alone, compiles for up to a minute on two
    cores: it pays in long runs.

    Raises:
        ConfigError: it would run on the CPU, and there is no C++ compiler.
    """

    def __init__(self, bundle: Bundle, device: torch.device | None = None) -> None:
        chosen = device or default_device()
        if chosen.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise ConfigError(
                "engine compiled needs a C++ compiler on every machine of the run (Debian: apt-get install g++), or "
                "choose --engine torch."
            )
        super().__init__(bundle, resolve_precision("auto", chosen), chosen)
        self.name = "compiled"
        self._pairs = GPU_PAIRS if chosen.type == "cuda" else 1
        self._program = torch.compile(self._network, dynamic=False, options={"freezing": True})

    def _forward(self, clinical: torch.Tensor | None, dermoscopy: torch.Tensor | None) -> PairLogits:
        given = [tensor for tensor in (clinical, dermoscopy) if tensor is not None]
        parts = [self._part(clinical, dermoscopy, start) for start in range(0, len(given[0]), self._pairs)]
        columns = zip(*parts, strict=True)
        return PairLogits(*(None if c[0] is None else torch.cat(c)[: len(given[0])] for c in columns))

    def _part(self, clinical: torch.Tensor | None, dermoscopy: torch.Tensor | None, start: int) -> PairLogits:
        logits: PairLogits = self._program(self._filled(clinical, start), self._filled(dermoscopy, start))
        return logits

    def _filled(self, tensor: torch.Tensor | None, start: int) -> torch.Tensor | None:
        """Return the images from ``start`` on, as many as the program takes; what is missing is the last one again."""
        if tensor is None:
            return None
        part = tensor[start : start + self._pairs]
        lacking = self._pairs - len(part)
        return torch.cat((part, part[-1:].expand(lacking, *part.shape[1:]))) if lacking else part
