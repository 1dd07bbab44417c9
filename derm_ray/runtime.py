"""Joining a Ray cluster, or starting a local Ray for one command."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from derm_ray.errors import ConfigError, WorkError

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Workers are polled, and reports taken, this often; Ray's default of 2 s throttles short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How long survivors of a dead worker may hang in a collective before they are stopped.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def machine_cpus() -> int:
    """Return the CPUs this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray.

    Attributes:
        started_here: this process started a Ray on this machine alone; it cannot grow.
    """

    started_here: bool

    def cpus_each(self, share_of_machine: int) -> int:
        """Return the CPUs of one worker: its share of the machine on a Ray of our own, 1 on a cluster."""
        return share_of_machine if self.started_here else 1

    def require(self, *, cpus: int, gpus: int = 0) -> None:
        """Check that Ray holds these resources; say what is waited for where a cluster may still grow.

        Raises:
            ConfigError: this machine's own Ray does not have them.
        """
        there = ray.cluster_resources()
        wanted = {"CPU": cpus, "GPU": gpus}
        short = [f"{n} {kind}s, it has {there.get(kind, 0):g}" for kind, n in wanted.items() if there.get(kind, 0) < n]
        if not short:
            return
        if self.started_here:
            raise ConfigError(
                f"this machine is too small: {'; '.join(short)}. "
                "Use fewer workers or --no-gpu, or a cluster (--address)."
            )
        logger.warning("the cluster is too small for this run (%s); waiting for it to grow.", "; ".join(short))


@contextmanager
def ray_session(
    address: str | None = None, *, num_cpus: int | None = None, local: bool = False
) -> Iterator[RaySession]:
    """Run a block connected to Ray; what this starts, it shuts down.

    Args:
        address: a cluster's address; ``None`` takes ``RAY_ADDRESS``, and starts a local Ray where that is unset.
            A process that is already connected stays as it is.
        num_cpus: logical CPUs of a local Ray; ``None`` is the machine's.
        local: start a local Ray whatever ``RAY_ADDRESS`` says.

    Raises:
        ConfigError: the cluster cannot be joined.
        WorkError: no local Ray could be started.
    """
    if ray.is_initialized():
        yield RaySession(started_here=False)
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    cluster = None if local else address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster is None:
        try:
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises the bare class where its processes do not come up in time
            ray.shutdown()
            raise WorkError(
                f"no Ray could be started on this machine: {(str(error).splitlines() or [type(error).__name__])[0]} "
                "Another Ray or a heavy load may be in its way: try again when that has ended, or give --address."
            ) from error
    else:
        try:
            ray.init(address=cluster, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"cannot join the Ray at {cluster!r}: {str(error).strip().splitlines()[0]} Give --address or "
                "RAY_ADDRESS as `auto` on a node of the cluster, or as HEAD:6379; from outside, use `derm-ray submit`."
            ) from error
    try:
        yield RaySession(started_here=cluster is None)
    finally:
        ray.shutdown()
