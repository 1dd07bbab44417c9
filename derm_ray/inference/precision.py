"""Number formats and memory layout."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)

PRECISIONS = ("auto", "fp32", "bf16")


def hardware_has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware (CUDA, AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``; ``auto`` is bf16 where the hardware has it."""
    if precision != "auto":
        return precision
    return "bf16" if hardware_has_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision != "fp32")


def default_device() -> torch.device:
    """Return the first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(network: AnyNetwork, device: torch.device) -> AnyNetwork:
    """Move a network to a device, its weights in channels-last order, in place."""
    return network.to(device).to(memory_format=torch.channels_last)


def network_input(images: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return uint8 images, or a stem's activations, (B, H, W, C) as the network takes them: (B, C, H, W)."""
    tensor = torch.from_numpy(images).to(device)
    return (tensor.view(torch.bfloat16) if images.dtype == np.uint16 else tensor).permute(0, 3, 1, 2)
