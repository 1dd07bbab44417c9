"""Joining a Ray cluster, or starting a local Ray for one command."""

import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import ray
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError, RayTaskError

from derm_ray import ray_internals
from derm_ray.cluster_auth import refuse_credentials, refuse_open_ray
from derm_ray.errors import ConfigError, DermRayError, WorkError
from derm_ray.local_ray import QUIET, local_ray, own_handlers

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Workers are polled, and reports taken, this often; Ray's default of 2 s throttles short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How long a training worker may leave polls unanswered, as a stopped process does; Ray's default is 10 minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "45",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Of calls whose answers nobody fetches, which are Ray's own, such as Ray Data's metrics after a node was lost.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # Read by Serve's HTTP proxy, before it listens.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "derm_ray.serving.proxy.harden",
    # From proxy to replica, for less than actor calls cost. Replicas listen for it either way.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
}
# How long the autoscaler is waited for: to report at all, and to say that it cannot add what is asked for.
_AUTOSCALER_S = 20.0
_MOST_ASKED = 1000
_CONNECT_S = 10.0

T = TypeVar("T")


def machine_cpus() -> int:
    """Return the CPUs this process may use: those it may run on, and no more than its container's quota."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mine, int(ray_internals.container_cpus())))


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

    def require(self, *, cpus: float, gpus: float = 0, worker_cpus: float = 1, worker_gpus: float = 0) -> None:
        """Check that Ray can hold these resources; say what is waited for where a cluster grows.

        Args:
            cpus, gpus: of all workers together.
            worker_cpus, worker_gpus: of the largest worker, which has to fit on one node.

        Raises:
            ConfigError: this machine's own Ray does not have them, or the cluster can never have them.
        """
        there = ray.cluster_resources()
        wanted = {"CPU": cpus, "GPU": gpus}
        short = [
            f"{n:g} {kind}s, it has {there.get(kind, 0):g}" for kind, n in wanted.items() if there.get(kind, 0) < n
        ]
        worker = {"CPU": worker_cpus, "GPU": max(worker_gpus, min(gpus, 1))}
        if not short and not _fits_a_node(worker):
            short = [f"one worker takes {worker['CPU']:g} CPUs and {worker['GPU']:g} GPUs, more than any node has"]
        if not short:
            self._warn_of_others(wanted)
            return
        if self.started_here:
            raise ConfigError(
                f"this machine is too small: {'; '.join(short)}. "
                "Use fewer workers or replicas, no GPUs, or a cluster (--address)."
            )
        on_gpus = math.ceil(max(0, gpus - there.get("GPU", 0)) / (worker["GPU"] or 1))
        on_cpus = math.ceil(max(0, cpus - there.get("CPU", 0) - on_gpus * worker_cpus) / worker_cpus)
        if not _can_grow([worker] * on_gpus + [{"CPU": worker_cpus}] * on_cpus or [worker]):
            raise ConfigError(
                f"the cluster is too small and does not grow: {'; '.join(short)}. "
                "Use fewer or smaller workers or replicas, no GPUs, or a larger cluster."
            )
        logger.warning("the cluster is too small for this run (%s); waiting for it to grow.", "; ".join(short))

    def _warn_of_others(self, wanted: dict[str, float]) -> None:
        """Log what others use now, so that a wait is no surprise."""
        free = {} if self.started_here else ray.available_resources()
        held = [f"{n:g} {kind}s, {free.get(kind, 0):g} are free" for kind, n in wanted.items() if free.get(kind, 0) < n]
        if free and held:
            logger.warning(
                "others use the cluster (this run needs %s); waiting for them where necessary.", "; ".join(held)
            )


def has_several_nodes() -> bool:
    """Return whether a Ray is joined in which work may run on another machine."""
    return bool(ray.is_initialized()) and sum(node["Alive"] for node in ray.nodes()) > 1


def run_remote(
    function: Callable[..., T],
    *args: object,
    num_cpus: float = 1,
    num_gpus: float = 0,
    timeout_s: float | None = None,
    fix: str = "try again when it has",
) -> T:
    """Call a function in one task of the Ray that is joined.

    Args:
        function: importable on the workers.
        args: its arguments.
        num_cpus, num_gpus: of the task.
        timeout_s: how long its answer is waited for.
        fix: what to do where that is too short.

    Returns:
        What it returns.

    Raises:
        DermRayError: as the function raised it.
        WorkError: the task failed otherwise, or gave no answer in time.
    """
    task = ray.remote(function).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0).remote(*args)
    try:
        result: T = ray.get(task, timeout=timeout_s)
    except GetTimeoutError:
        ray.cancel(task, force=True)
        raise WorkError(
            f"no node had {num_cpus:g} CPUs and {num_gpus:g} GPUs free for a task within {timeout_s:g} s: {fix}."
        ) from None
    except RayTaskError as error:
        if isinstance(error.cause, DermRayError):
            raise error.cause from None
        raise WorkError(f"a task on the cluster failed: {str(error).strip().splitlines()[-1]}") from error
    except RayError as error:
        raise WorkError(f"a task on the cluster was lost: {str(error).strip().splitlines()[0]}") from error
    return result


def _fits_a_node(worker: dict[str, float]) -> bool:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(kind, 0) >= n for kind, n in worker.items()) for node in nodes)


def _can_grow(workers: list[dict[str, float]]) -> bool:
    """Ask the cluster's autoscaler whether it can add nodes for these workers."""
    if ray_internals.autoscaler_is_v2():
        return _autoscaler_accepts(workers)
    deadline = time.monotonic() + _AUTOSCALER_S
    while time.monotonic() < deadline:
        if types := ray_internals.autoscaler_node_types():
            # Ray's monitor of a cluster without an autoscaler names every node's type after the node itself.
            return any(kind != f"node_{node}" for node, kind in types.items())
        time.sleep(0.5)
    return False


def _autoscaler_accepts(workers: list[dict[str, float]]) -> bool:
    """Ask version 2 of the autoscaler for these workers; it reports at once what no node it may add can hold."""
    bundles = [{kind: n for kind, n in worker.items() if n} for worker in workers[:_MOST_ASKED]]
    group = ray.util.placement_group(bundles)
    try:
        deadline = time.monotonic() + _AUTOSCALER_S
        while time.monotonic() < deadline and not group.wait(1):
            if any(request.startswith(group.id.hex()) for request in ray_internals.infeasible_requests()):
                return False
    finally:
        ray.util.remove_placement_group(group)
    return True


def cluster_address(address: str | None = None) -> str | None:
    """Return the cluster that a command joins: what is given, or ``RAY_ADDRESS``; ``None`` for a Ray of its own."""
    return address or os.environ.get("RAY_ADDRESS") or None


def _check_address(cluster: str) -> None:
    """Refuse what cannot be joined, an open Ray, and where nobody listens: Ray itself would ask for many minutes."""
    if cluster.startswith("ray://"):
        raise ConfigError(
            f"{cluster}: Ray's client is not supported. On a node of the cluster give `auto` or HEAD:6379; from "
            "outside, use `derm-ray submit`."
        )
    host, separator, port = cluster.rpartition(":")
    if not separator or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot join the Ray at {cluster!r}: {error}. Give --address or RAY_ADDRESS as `auto` on a node of the "
            "cluster, or as HEAD:6379; from outside, use `derm-ray submit`."
        ) from error
    refuse_open_ray(cluster)


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
        ConfigError: the cluster cannot be joined, anybody can use it from another machine (see
            :mod:`derm_ray.cluster_auth`), or it would show a credential of this command line.
        WorkError: no local Ray could be started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield RaySession(started_here=False)
        return
    cluster = None if local else cluster_address(address)
    with local_ray(num_cpus) if cluster is None else _joined(cluster):
        refuse_open_ray(ray.get_runtime_context().gcs_address)  # `auto`, and one of our own, are known only now
        yield RaySession(started_here=cluster is None)


@contextmanager
def _joined(cluster: str) -> Iterator[None]:
    refuse_credentials(sys.argv[1:])
    _check_address(cluster)
    try:
        with own_handlers():
            ray.init(address=cluster, **QUIET)
    except AuthenticationError as error:
        raise ConfigError(
            f"cannot join the Ray at {cluster!r}: it requires a token. Set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's."
        ) from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        if lines and lines[0].startswith("Version mismatch"):
            raise ConfigError(
                f"cannot join the Ray at {cluster!r}: {' '.join(lines)}. Use one image, or one environment, for "
                "all nodes and for the machine that submits."
            ) from error
        raise ConfigError(
            f"cannot join the Ray at {cluster!r}: {(lines or [type(error).__name__])[0]} Give --address or "
            "RAY_ADDRESS as `auto` on a node of the cluster, or as HEAD:6379; from outside, use `derm-ray submit`."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
