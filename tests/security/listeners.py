"""Who listens for TCP on a node, and whether it may."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import psutil
import yaml


class Reach(IntEnum):
    """From where a listener can be reached."""

    LOOPBACK = 0
    NODE = 1
    ALL = 2


@dataclass(frozen=True)
class Allowed:
    """An entry of the allow-list: what a process may listen on, how widely, and on how many sockets."""

    what: str
    role: str
    ports: range
    reach: Reach
    most: int = 1


ANY_PORT = range(1024, 65536)
ALLOWED = [
    Allowed(
        one["what"],
        one["process"],
        ANY_PORT if one["port"] == "any" else range(one["port"], one["port"] + 1),
        Reach[one["reach"].upper()],
        one.get("sockets", 1),
    )
    for one in yaml.safe_load((Path(__file__).parents[2] / "docs" / "_ports.yaml").read_text(encoding="utf-8"))
]
ROLES = {
    "gcs_server": "GCS",
    "/raylet/raylet": "raylet",
    "/dashboard/dashboard.py": "dashboard",
    "ray::DashboardAgent": "agent",
    "ray::RuntimeEnvAgent": "runtime env agent",
    "/monitor.py": "autoscaler",
    "ray.util.client.server": "Ray client server",
    "ray::ProxyActor": "Serve proxy",
    "ray::ServeReplica": "Serve replica",
    "ray::RayTrainWorker": "training worker",
    "ray::": "worker",
    "derm-ray": "driver",
    "derm_ray": "driver",
}
"""Part of a command line -> what the process is; the first that fits."""


@dataclass(frozen=True, order=True)
class Listener:
    """A listening TCP socket.

    Attributes:
        role: of its process, see :data:`ROLES`.
        pid: of its process.
        address: it is bound to.
        port: of it.
    """

    role: str
    pid: int
    address: str
    port: int

    @property
    def reach(self) -> Reach:
        """From where it can be reached."""
        ip = ipaddress.ip_address(self.address)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return Reach.LOOPBACK if ip.is_loopback else Reach.ALL if ip.is_unspecified else Reach.NODE


def scan(pids: Iterable[int]) -> list[Listener]:
    """Return the listening TCP sockets of processes in this network namespace; ended ones have none."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            words = " ".join(process.cmdline())
            sockets = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        role = next((role for part, role in ROLES.items() if part in words), "unknown process")
        found += [Listener(role, pid, *one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN]
    return sorted(found)


def unexpected(listeners: Sequence[Listener], allowed: Sequence[Allowed] = ALLOWED) -> list[str]:
    """Return what listens beyond an allow-list: unknown sockets, and known ones that are reached from too far."""
    problems = []
    used: Counter[tuple[int, Allowed]] = Counter()
    for listener in sorted(listeners):
        known = [entry for entry in allowed if entry.role == listener.role and listener.port in entry.ports]
        known = [entry for entry in known if used[listener.pid, entry] < entry.most]
        fitting = [entry for entry in known if listener.reach <= entry.reach]
        where = f"{listener.role} ({listener.pid}) listens on {listener.address}, port {listener.port}"
        if fitting:
            used[listener.pid, min(fitting, key=lambda entry: len(entry.ports))] += 1
        elif known:
            problems.append(f"{where}: {known[0].what} may be reached from {known[0].reach.name.lower()} only")
        else:
            problems.append(f"{where}: not on the list")
    return problems
