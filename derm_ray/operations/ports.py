"""TCP ports that Ray and derm_ray listen on."""

from dataclasses import dataclass
from enum import IntEnum

ANY_PORT = range(1024, 65536)
DASHBOARD = 8265

_METRICS = "nothing; it holds metrics only. NetworkPolicy"
_TOKEN = "Ray's token"  # noqa: S105


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
        role: of the process, such as ``raylet``.
        ports: on which; :data:`ANY_PORT` where Ray, Serve or torch choose one.
        reach: the widest that is allowed.
        why: it has to be open.
        guard: what stops other callers.
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


ALLOWED = (
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

PORTS = {one.ports.start: one.what for one in ALLOWED if len(one.ports) == 1}
"""Fixed port -> what listens there, by Ray's defaults and derm_ray's."""
