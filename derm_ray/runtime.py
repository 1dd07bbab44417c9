"""Joining a Ray cluster, or starting a local Ray for one command."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

logger = logging.getLogger(__name__)

_LOCAL_ENVIRONMENT = {
    # Workers are polled, and reports taken, this often; Ray's default of 2 s throttles short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How long survivors of a dead worker may hang in a collective before they are stopped.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def machine_cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Run a block connected to Ray; what this starts, it shuts down.

    Args:
        address: a cluster's address; ``None`` takes ``RAY_ADDRESS``, and starts a local Ray where that is unset.
            A process that is already connected stays as it is.
        num_cpus: logical CPUs of a local Ray; ``None`` is the machine's.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **quiet)
    else:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def is_local_ray() -> bool:
    """Tell whether the connected Ray consists of this machine alone."""
    return len([node for node in ray.nodes() if node["Alive"]]) == 1
