"""A cluster: its nodes, their versions, clocks and room."""

import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from derm_ray import __version__, runtime
from derm_ray.operations.doctor.finding import Finding
from derm_ray.operations.doctor.machine import MIN_DISK, MIN_SHARED_MEMORY, SHARED_MEMORY, room, temporary_folder
from derm_ray.operations.doctor.places import skew

ANSWER_S = 60.0
MAX_SKEW_S = 5.0


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself.

    Attributes:
        clock: seconds since 1970.
        versions: of what must be the same everywhere.
        shared_memory, disk: bytes that are free for Ray's object store and for its logs and spilled objects.
    """

    clock: float
    versions: tuple[tuple[str, str], ...]
    shared_memory: int
    disk: int


def report_node() -> NodeReport:
    """Report on the node this runs on."""
    versions = {"derm_ray": __version__, "python": platform.python_version()}
    versions |= {package: version(package) for package in ("ray", "torch", "pyarrow")}
    free = [shutil.disk_usage(folder).free for folder in (SHARED_MEMORY, temporary_folder())]
    return NodeReport(time.time(), tuple(sorted(versions.items())), *free)


def cluster(address: str) -> Iterator[Finding]:
    """Yield what was found on every node of a cluster.

    Args:
        address: as of ``--address``.

    Raises:
        ConfigError: it cannot be joined.
    """
    with runtime.ray_session(address):
        nodes = sorted(ray.nodes(), key=lambda node: str(node["NodeID"]))
        alive = [node for node in nodes if node["Alive"]]
        resources = ray.cluster_resources()
        held = ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        dead = len(nodes) - len(alive)
        yield Finding("cluster", f"{len(alive)} nodes, {held}" + (f"; {dead} nodes were lost" if dead else ""))
        ours = dict(report_node().versions)
        for node in alive:
            yield from _node(node["NodeID"], f"node {node['NodeManagerAddress']}", ours)


def _node(node_id: str, subject: str, ours: dict[str, str]) -> Iterator[Finding]:
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(report_node).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
    try:
        ray.get(task.remote(), timeout=ANSWER_S)  # a worker starts and imports
        began = time.time()
        report: NodeReport = ray.get(task.remote(), timeout=ANSWER_S)
        ended = time.time()
    except GetTimeoutError:
        yield Finding(subject, f"gave no answer in {ANSWER_S:.0f} s", "look at `ray status` and the node's raylet log")
        return
    except RayError as error:
        mend = "derm_ray has to be in the image of every node" if "No module" in str(error) else "see the node's logs"
        yield Finding(subject, str(error).strip().splitlines()[-1], mend)
        return
    others = {name: value for name, value in report.versions if ours[name] != value}
    told = ", ".join(f"{name} {value} (here {ours[name]})" for name, value in others.items())
    mend = "use one image, or one environment, for all nodes and for the machine that submits"
    yield Finding(subject, told or "the same versions as here", mend if others else "")
    yield skew(f"{subject} clock", max(began - report.clock, report.clock - ended, 0.0), MAX_SKEW_S)
    shm = "Ray's object store lives there; give the node more, in Kubernetes by an emptyDir with medium: Memory"
    yield room(f"{subject} shared memory", report.shared_memory, MIN_SHARED_MEMORY, shm)
    yield room(f"{subject} disk", report.disk, MIN_DISK, "Ray spills objects and writes logs there; free some")
