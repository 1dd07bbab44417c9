"""PyTorch, eager or compiled."""

import logging
import shutil
from collections.abc import Mapping

import torch

from derm_ray.bundle import Bundle
from derm_ray.data.patient import Vectors
from derm_ray.domain import PredictionKind
from derm_ray.errors import ConfigError
from derm_ray.inference.engines.engine import EngineKind, Images, Probabilities
from derm_ray.inference.precision import autocast, hardware_has_bf16, network_input, resolve_precision, to_device
from derm_ray.models.networks import PairLogits

logger = logging.getLogger(__name__)

CPU_PAIRS, GPU_PAIRS = 4, 32


def require_compiler(device: torch.device) -> None:
    """Raise a ``ConfigError`` if programs for the CPU cannot be compiled, without a C++ compiler."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ConfigError(
            "engine compiled needs a C++ compiler on every machine of the run. Install one (Debian: apt-get "
            "install g++), or use --engine torch."
        )


class TorchEngine:
    """Eager PyTorch in channels-last order, in ``fp32`` or ``bf16`` (autocast).

    On CPUs a few pairs at a time: no slower than many, with less memory.
    """

    def __init__(self, bundle: Bundle, precision: str, device: torch.device) -> None:
        self.name = {"fp32": "torch", "bf16": "torch-bf16"}[precision]
        self._device = device
        self._precision = precision
        self._network = to_device(bundle.build(), self._device)
        self._pairs: int | None = CPU_PAIRS if self._device.type == "cpu" else None

    def run(
        self, clinical: Images | None, dermoscopy: Images | None, patient: Vectors | None = None
    ) -> Mapping[PredictionKind, Probabilities]:
        """See :class:`derm_ray.inference.engines.engine.Engine`."""
        with torch.inference_mode(), autocast(self._precision, self._device):
            given = [network_input(i, self._device) if i is not None else None for i in (clinical, dermoscopy)]
            if patient is not None:
                given.append(torch.from_numpy(patient).to(self._device))
            logits = self._forward(*given)
        return {kind: p.cpu().numpy() for kind, p in logits.probabilities().items()}

    def _forward(self, *inputs: torch.Tensor | None) -> PairLogits:
        given = len(next(tensor for tensor in inputs if tensor is not None))
        step = self._pairs or given
        parts = [self._part(slice(start, start + step), inputs) for start in range(0, given, step)]
        columns = zip(*parts, strict=True)
        return PairLogits(*(None if column[0] is None else torch.cat(column)[:given] for column in columns))

    def _part(self, part: slice, inputs: tuple[torch.Tensor | None, ...]) -> PairLogits:
        logits: PairLogits = self._network(*(None if tensor is None else tensor[part] for tensor in inputs))
        return logits


class CompiledEngine(TorchEngine):
    """PyTorch compiled for this processor or GPU, weights frozen into the program.

    A program serves one number of pairs: on CPUs, which gain nothing from more, one pair after the other; on GPUs the
    batch is filled up, and where memory does not suffice a smaller program takes over for good. The first pass with
    both images, and with either alone, compiles, for about a minute on two cores: it pays in long runs.

    Raises:
        ConfigError: see :func:`require_compiler`.
    """

    def __init__(self, bundle: Bundle, precision: str, device: torch.device) -> None:
        require_compiler(device)
        super().__init__(bundle, precision, device)
        self.name = f"compiled@{precision}"
        self._pairs: int = GPU_PAIRS if device.type == "cuda" else 1
        self._program = torch.compile(self._network, dynamic=False, options={"freezing": True})

    def _forward(self, *inputs: torch.Tensor | None) -> PairLogits:
        while True:
            try:
                return super()._forward(*inputs)
            except torch.OutOfMemoryError:
                if self._pairs == 1:
                    raise
                self._pairs //= 2
                logger.warning("out of memory; compiling for %d pairs at once", self._pairs)

    def _part(self, part: slice, inputs: tuple[torch.Tensor | None, ...]) -> PairLogits:
        logits: PairLogits = self._program(*(self._filled(tensor, part) for tensor in inputs))
        return logits

    def _filled(self, tensor: torch.Tensor | None, part: slice) -> torch.Tensor | None:
        """Return a part of the inputs, padded with the last one to the size of the program."""
        if tensor is None:
            return None
        given = tensor[part]
        lacking = part.stop - part.start - len(given)
        return torch.cat((given, given[-1:].expand(lacking, *given.shape[1:]))) if lacking else given


def _bf16(bundle: Bundle, device: torch.device) -> TorchEngine | None:
    return TorchEngine(bundle, "bf16", device) if hardware_has_bf16(device) else None


def _precision(_bundle: Bundle, device: torch.device, pinned: str) -> str:
    require_compiler(device)
    if pinned not in ("", "fp32", "bf16"):
        raise ConfigError(f"engine compiled@{pinned}: write compiled, compiled@fp32 or compiled@bf16.")
    return pinned or resolve_precision("auto", device)


TORCH = EngineKind(
    lambda bundle, device, _: TorchEngine(bundle, "fp32", device),
    candidate=lambda bundle, device: TorchEngine(bundle, "fp32", device),
)
TORCH_BF16 = EngineKind(lambda bundle, device, _: TorchEngine(bundle, "bf16", device), candidate=_bf16)
COMPILED = EngineKind(
    lambda bundle, device, precision: CompiledEngine(bundle, precision, device), resolve=_precision, differs=True
)
