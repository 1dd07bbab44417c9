"""What may listen for TCP on a node, and who does."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import psutil

from derm_ray.operations.ports import DASHBOARD

ANY_PORT = range(1024, 65536)

_METRICS = "nothing; it holds metrics only. NetworkPolicy"
_TOKEN = "Ray's token"


class Reach(IntEnum):
    """From where a listener can be reached."""

    LOOPBACK = 0
    NODE = 1
    ALL = 2


@dataclass(frozen=True)
class Allowed:
    """An entry of the allow-list.

    Attributes:
        what: it is.
        role: of the process, see :data:`ROLES`.
        ports: on which; :data:`ANY_PORT` where Ray, Serve or torch choose one.
        reach: the widest that is allowed.
        why: it has to be open.
        guard: what keeps strangers out.
        most: sockets of one process.
    """

    what: str
    role: str
    ports: range
    reach: Reach
    why: str
    guard: str
    most: int = 1

    @property
    def port(self) -> str:
        """The ports, for people."""
        if self.ports == ANY_PORT:
            return "any"
        first, last = self.ports.start, self.ports.stop - 1
        return str(first) if first == last else f"{first}-{last}"


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

LISTENERS = (
    Allowed("Ray's head", "GCS", range(6379, 6380), Reach.ALL, "nodes and drivers join here", _TOKEN),
    Allowed("Ray's head, of a Ray that a command starts", "GCS", ANY_PORT, Reach.ALL, "its own workers", _TOKEN),
    Allowed("node manager and object manager", "raylet", ANY_PORT, Reach.ALL, "other nodes", _TOKEN, 2),
    Allowed(
        "Ray's dashboard and jobs", "dashboard", range(DASHBOARD, DASHBOARD + 1), Reach.LOOPBACK,
        "`derm-ray submit`, `jobs`", _TOKEN,
    ),
    Allowed("metrics of the dashboard", "dashboard", range(44227, 44228), Reach.ALL, "Prometheus", _METRICS),
    Allowed("metrics of the autoscaler", "autoscaler", range(44217, 44218), Reach.ALL, "Prometheus", _METRICS),
    Allowed("agent", "agent", range(52365, 52366), Reach.NODE, "the dashboard, health probes", _TOKEN, 2),
    Allowed("agent, gRPC", "agent", ANY_PORT, Reach.ALL, "metrics of this node's workers", _TOKEN),
    Allowed("metrics of the node and of derm_ray", "agent", ANY_PORT, Reach.ALL, "Prometheus", _METRICS),
    Allowed("runtime environments", "runtime env agent", ANY_PORT, Reach.NODE, "the raylet", _TOKEN),
    Allowed(
        "Ray's client server", "Ray client server", range(10001, 10002), Reach.NODE,
        "nothing of derm_ray; `ray start --head` always opens it", f"{_TOKEN}; NetworkPolicy", 2,
    ),
    Allowed("workers", "worker", ANY_PORT, Reach.ALL, "other workers", _TOKEN),
    Allowed("drivers", "driver", ANY_PORT, Reach.ALL, "their workers", _TOKEN),
    Allowed("training workers", "training worker", ANY_PORT, Reach.ALL, "other workers", _TOKEN),
    Allowed(
        "torch: TCPStore of rank 0, gloo or nccl", "training worker", ANY_PORT, Reach.ALL, "gradients",
        "nothing; NetworkPolicy", 2,
    ),
    Allowed("Serve's workers", "Serve replica", ANY_PORT, Reach.ALL, "other workers", _TOKEN),
    Allowed("requests between Serve's processes", "Serve replica", ANY_PORT, Reach.ALL, "the proxy", _TOKEN),
    Allowed("Serve's proxy, as a worker", "Serve proxy", ANY_PORT, Reach.ALL, "other workers", _TOKEN),
    Allowed(
        "the endpoint", "Serve proxy", range(8000, 8001), Reach.ALL, "callers",
        "bearer tokens of derm_ray; without them it stays on loopback",
    ),
)  # fmt: skip
"""What listens on the nodes of a token-mode cluster with an endpoint and a training run."""


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


def unexpected(listeners: Sequence[Listener], allowed: Sequence[Allowed] = LISTENERS) -> list[str]:
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


def table() -> str:
    """Return the allow-list as Markdown."""
    reach = {Reach.LOOPBACK: "127.0.0.1", Reach.NODE: "the node's address, 127.0.0.1", Reach.ALL: "all"}
    rows = [f"| {a.what} | {a.role} | {a.port} | {reach[a.reach]} | {a.why} | {a.guard} |" for a in LISTENERS]
    head = ["| what | process | port | bound to | for | guarded by |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])
