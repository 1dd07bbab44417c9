"""What this machine offers, and what would make a run fail or crawl."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch

from derm_ray import runtime
from derm_ray.inference.precision import default_device, hardware_has_bf16

RAY_VERSION = "2.60."
SHARED_MEMORY = "/dev/shm"  # noqa: S108
MIN_SHARED_MEMORY = 1 << 30
MIN_DISK = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``mend`` is empty where all is well."""

    subject: str
    found: str
    mend: str = ""


def examine() -> Iterator[Finding]:
    """Yield what was found on this machine."""
    yield Finding("python", platform.python_version())
    for package in ("torch", "torchvision", "pyarrow"):
        yield Finding(package, version(package))
    ray = version("ray")
    yield Finding("ray", ray, "" if ray.startswith(RAY_VERSION) else f"install ray {RAY_VERSION}*")
    yield Finding("CPUs", str(runtime.machine_cpus()))
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "none: training and scoring run on CPU"
    yield Finding("GPU", name)
    bf16 = hardware_has_bf16(device)
    yield Finding(
        "bf16",
        f"{'in hardware' if bf16 else 'not in hardware: fp32 is used, two to three times slower'} ({device.type})",
    )
    if os.path.isdir(SHARED_MEMORY):
        free = shutil.disk_usage(SHARED_MEMORY).free
        yield Finding("shared memory", _gib(free), "" if free >= MIN_SHARED_MEMORY else _SMALL_SHM)
    free = shutil.disk_usage(os.getcwd()).free
    yield Finding("disk here", _gib(free), "" if free >= MIN_DISK else "free some, checkpoints need 0.2 GiB each")


_SMALL_SHM = "Ray's object store lives there; give the container --shm-size=2g"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB free"
