"""A cluster: its nodes, their versions, clocks and free memory and disk."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
import torch
from packaging.version import Version
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from derm_ray import __version__, runtime
from derm_ray.operations.doctor.finding import Finding
from derm_ray.operations.doctor.machine import (
    MIN_DISK,
    MIN_MEMORY,
    MIN_SHARED_MEMORY,
    SHARED_MEMORY,
    check_free,
    free_memory,
)
from derm_ray.operations.doctor.storage_checks import check_storage, compare_clocks
from derm_ray.session_folder import VARIABLE as SESSION_VARIABLE

TIMEOUT_S = 60.0
MAX_SKEW_S = 5.0


@dataclass(frozen=True)
class NodeReport:
    """The state of a node, as it reports it.

    Attributes:
        clock: seconds since 1970.
        versions: of what must be the same everywhere.
        cuda: its torch is built for GPUs.
        memory, shared_memory, disk: bytes that are free, the last two for Ray's object store and for its logs and
            spilled objects.
        storage: what was found at the folders that runs use.
    """

    clock: float
    versions: tuple[tuple[str, str], ...]
    cuda: bool
    memory: int
    shared_memory: int
    disk: int
    storage: tuple[Finding, ...]


def report_node(storage: Sequence[str]) -> NodeReport:
    """Report on the node this runs on.

    Args:
        storage: folders to try.
    """
    found = tuple(finding for uri in storage for finding in check_storage(uri))
    return NodeReport(
        clock=time.time(),
        versions=_versions(),
        cuda=torch.backends.cuda.is_built(),  # type: ignore[no-untyped-call]
        memory=free_memory(),
        shared_memory=shutil.disk_usage(SHARED_MEMORY).free,
        disk=shutil.disk_usage(os.environ.get(SESSION_VARIABLE) or tempfile.gettempdir()).free,
        storage=found,
    )


def _versions() -> tuple[tuple[str, str], ...]:
    """Return those that have to be the same everywhere; torch for CPUs and for GPUs is one version."""
    versions = {"derm_ray": __version__, "python": platform.python_version()}
    versions |= {package: Version(version(package)).public for package in ("ray", "torch", "pyarrow")}
    return tuple(sorted(versions.items()))


def cluster(address: str, storage: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield what was found on every node of a cluster.

    Args:
        address: as of ``--address``.
        storage: folders that every node has to reach.

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
        ours = dict(_versions())
        for node in alive:
            yield from _node(node, f"node {node['NodeManagerAddress']}", ours, storage)


def _node(node: dict[str, Any], subject: str, ours: dict[str, str], storage: Sequence[str]) -> Iterator[Finding]:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(report_node).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
    try:
        first: NodeReport = ray.get(task.remote(storage), timeout=TIMEOUT_S)  # a worker starts and imports
        began = time.time()
        report: NodeReport = ray.get(task.remote(()), timeout=TIMEOUT_S)
        ended = time.time()
    except GetTimeoutError:
        fix = "look at `ray status` and the node's raylet log" + (
            ", and whether it reaches the storage" if storage else ""
        )
        yield Finding(subject, f"no answer within {TIMEOUT_S:.0f} s", fix)
        return
    except RayError as error:
        fix = "derm_ray has to be in the image of every node" if "No module" in str(error) else "see the node's logs"
        yield Finding(subject, str(error).strip().splitlines()[-1], fix)
        return
    yield from check_report(subject, report, ours, gpus=node["Resources"].get("GPU", 0))
    yield compare_clocks(f"{subject} clock", max(began - report.clock, report.clock - ended, 0.0), MAX_SKEW_S)
    yield from (Finding(f"{subject} {one.subject}", one.found, one.fix) for one in first.storage)


def check_report(subject: str, report: NodeReport, ours: Mapping[str, str], *, gpus: float) -> Iterator[Finding]:
    """Report on versions, torch, memory and disk of a node.

    Args:
        subject: name of the node.
        report: by the node.
        ours: the versions here.
        gpus: that Ray counts on the node.
    """
    others = {name: value for name, value in report.versions if ours[name] != value}
    found = ", ".join(f"{name} {value} (here {ours[name]})" for name, value in others.items())
    fix = "use one image, or one environment, for all nodes and for the machine that submits"
    yield Finding(subject, found or "the same versions as here", fix if others else "")
    if gpus and not report.cuda:
        yield Finding(f"{subject} torch", "built for CPUs, on a node with GPUs", "give the node the image for GPUs")
    shm = "Ray's object store uses it; give the node more, in Kubernetes by an emptyDir with medium: Memory"
    yield check_free(f"{subject} memory", report.memory, MIN_MEMORY, "give the node more, or use fewer workers on it")
    yield check_free(f"{subject} shared memory", report.shared_memory, MIN_SHARED_MEMORY, shm)
    yield check_free(f"{subject} disk", report.disk, MIN_DISK, "Ray spills objects and writes logs there; free some")
