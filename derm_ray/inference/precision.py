"""Number formats and memory layout."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from derm_ray.errors import ConfigError, unknown_name

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)

PRECISIONS = ("auto", "fp32", "bf16")


def hardware_has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware (CUDA, AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32`` or ``bf16``; ``auto`` is bf16 where the hardware has it.

    Raises:
        ConfigError: the name is unknown.
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    if precision != "auto":
        return precision
    return "bf16" if hardware_has_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward pass runs."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def default_device() -> torch.device:
    """Return the first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(network: AnyNetwork, device: torch.device) -> AnyNetwork:
    """Move a network to a device, its weights in channels-last order, in place."""
    network.to(device)
    network.to(memory_format=torch.channels_last)
    return network
