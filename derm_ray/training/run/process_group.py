"""Torch's process group over the addresses by which Ray knows the nodes, and its end."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray.util
from ray.exceptions import RayError, RayTaskError
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig
from torch import distributed as dist

from derm_ray import ray_internals

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
_NETWORK = re.compile("connect|socket|time(d )?out", re.IGNORECASE)
LEAVE_S = 5
"""Time for workers to leave the group before they are stopped; survivors of a dead worker hang."""


class AddressedTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's set-up of torch, with gloo on the interface that holds the node's address.

    By default gloo listens on the address of the machine's name. On many machines (Debian's ``127.0.1.1``) that is a
    loopback address that no other node can reach. A variable that is already set is kept.
    """

    @property
    def backend_cls(self) -> type[Any]:
        """The backend that sets up the group."""
        return _AddressedBackend


class _AddressedBackend(ray_internals.torch_backend()):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        with ended_where_it_fails(worker_group):
            worker_group.execute(name_interface)
            super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        # Here and not in the driver: Ray Train does not hand this variable on to its controller, where 30 s would stay.
        os.environ.setdefault(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, str(LEAVE_S))
        super().on_shutdown(worker_group, backend_config)


@contextmanager
def ended_where_it_fails(worker_group: Any) -> Iterator[None]:
    """Let Ray Train restart if a worker dies during the setup of the group.

    By default it treats the refused connections of the other workers as a failure of the run, and keeps workers that
    are already started. A failure of a worker's own, as of a GPU that cannot be used, does end the run.
    """
    try:
        yield
    except RayError as error:
        if isinstance(error, RayTaskError) and not _is_of_the_network(error.cause):
            raise
        worker_group.shutdown()
        lost = ray_internals.worker_start_error()
        raise lost("A worker was lost while the process group was set up.") from error


def _is_of_the_network(cause: Exception) -> bool:
    network = (ConnectionError, TimeoutError, dist.DistNetworkError, dist.DistStoreError)
    return isinstance(cause, network) or _NETWORK.search(str(cause)) is not None  # gloo raises RuntimeError


def name_interface() -> None:
    """Set :data:`INTERFACE_VARIABLE` for this process."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ.setdefault(INTERFACE_VARIABLE, name)
