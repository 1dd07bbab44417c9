"""This machine: versions, devices, memory and disk space."""

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import psutil
import torch
from packaging.requirements import Requirement

from derm_ray import ray_internals, runtime
from derm_ray.errors import ConfigError
from derm_ray.inference.precision import default_device, hardware_has_bf16
from derm_ray.local_ray import FIX, session_folder
from derm_ray.operations.doctor.finding import Finding

SHARED_MEMORY = "/dev/shm"  # noqa: S108
MIN_SHARED_MEMORY = 1 << 30
MIN_DISK = 5 << 30
MIN_MEMORY = 4 << 30
MIN_FILES = 65_536
"""Ray's own advice for nodes with many workers."""


def machine() -> Iterator[Finding]:
    """Yield what was found on this machine."""
    yield Finding("python", platform.python_version())
    yield from packages()
    yield Finding("CPUs", str(runtime.machine_cpus()))
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "none: training and scoring run on CPU"
    yield Finding("GPU", name)
    bf16 = hardware_has_bf16(device)
    yield Finding(
        "bf16",
        f"{'in hardware' if bf16 else 'not in hardware: fp32 is used, two to three times slower'} ({device.type})",
    )
    yield check_free("memory", free_memory(), MIN_MEMORY, "close other programs, or use fewer workers")
    if os.path.isdir(SHARED_MEMORY):
        fix = "Ray's object store uses it; give the container --shm-size=2g"
        yield check_free("shared memory", shutil.disk_usage(SHARED_MEMORY).free, MIN_SHARED_MEMORY, fix)
    yield check_free(
        "disk here", shutil.disk_usage(os.getcwd()).free, MIN_DISK, "free some: a checkpoint takes 0.2 GiB"
    )
    yield from session()
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = files != resource.RLIM_INFINITY and files < MIN_FILES
    more = most == resource.RLIM_INFINITY or most >= MIN_FILES
    fix = f"ulimit -n {MIN_FILES} before Ray starts" if few and more else ""
    yield Finding("open files", "unlimited" if files == resource.RLIM_INFINITY else f"{files:,}", fix)


def packages(name: str = "derm-ray") -> Iterator[Finding]:
    """Yield the required packages that are missing or of a wrong version, then a line on the others.

    Args:
        name: of the distribution.
    """
    fitting = {}
    for line in requires(name) or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Finding(wanted.name, "missing", f"pip install '{wanted}'")
            continue
        if wanted.specifier.contains(found, prereleases=True):
            fitting[wanted.name] = found
        else:
            yield Finding(wanted.name, found, f"pip install '{wanted}'")
    named = [
        f"{package} {fitting[package]}" for package in ("ray", "torch", "torchvision", "pyarrow") if package in fitting
    ]
    yield Finding("packages", ", ".join([*named, f"{len(fitting) - len(named)} more, as required"]))


def session() -> Iterator[Finding]:
    """Yield the state of the folder of Ray's session."""
    try:
        folder, note = session_folder()
    except ConfigError as error:
        yield Finding("Ray's session", "has no folder", str(error))
        return
    if note:
        yield Finding("Ray's session", f"in {folder}, since {note}", FIX)
    fix = "Ray spills objects and writes logs there; free some, or set RAY_TMPDIR to a larger disk"
    yield check_free(f"disk {folder}", shutil.disk_usage(folder).free, MIN_DISK, fix)


def free_memory() -> int:
    """Return the bytes of memory that are free on this machine, or by its container's limit where that is less."""
    return int(min(psutil.virtual_memory().available, ray_internals.available_memory()))


def check_free(subject: str, free: int, least: int, fix: str) -> Finding:
    """Report how many bytes are free, and the fix where that is too little."""
    return Finding(subject, f"{free / (1 << 30):.1f} GiB free", "" if free >= least else fix)
