"""Torch's process group over the addresses by which Ray knows the nodes."""

import os
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"


class AddressedTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's set-up of torch, with gloo on the interface that holds the node's address.

    By itself gloo listens where the machine's name leads, which on many (Debian's ``127.0.1.1``) is a loopback
    address that no other node reaches. A variable that is set already stays.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the group up."""
        return _AddressedBackend


class _AddressedBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


def name_interface() -> None:
    """Set :data:`INTERFACE_VARIABLE` for this process."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ.setdefault(INTERFACE_VARIABLE, name)
