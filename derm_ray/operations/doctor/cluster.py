"""A cluster: its nodes, their versions, clocks and free memory and disk."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import ray
import torch
from packaging.version import Version
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from derm_ray import __version__, runtime
from derm_ray.errors import counted
from derm_ray.local_ray import SESSION_VARIABLE
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

TIMEOUT_S = 60.0
MAX_SKEW_S = 5.0


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
        yield Finding(
            "cluster", f"{counted(len(alive), 'node')}, {held}" + (f"; {counted(dead, 'lost node')}" if dead else "")
        )
        for node in alive:
            yield from _ask_node(node, f"node {node['NodeManagerAddress']}", storage)


def _ask_node(node: dict[str, Any], subject: str, storage: Sequence[str]) -> Iterator[Finding]:
    options = {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        "max_retries": 0,
    }
    gpus = node["Resources"].get("GPU", 0)
    try:
        task = ray.remote(examine_node).options(**options).remote(subject, versions(), gpus, storage)
        findings = ray.get(task, timeout=TIMEOUT_S)  # a worker starts and imports
        began = time.time()
        clock = ray.get(ray.remote(read_clock).options(**options).remote(), timeout=TIMEOUT_S)
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
    yield from findings
    yield compare_clocks(f"{subject} clock", max(began - clock, clock - ended, 0.0), MAX_SKEW_S)


def read_clock() -> float:
    """Return the time of the machine this runs on, in seconds since 1970."""
    return time.time()


def versions() -> dict[str, str]:
    """Return the versions that have to be the same everywhere; torch for CPUs and for GPUs is one version."""
    found = {"derm_ray": __version__, "python": platform.python_version()}
    return found | {package: Version(version(package)).public for package in ("ray", "torch", "pyarrow")}


def examine_node(subject: str, expected: Mapping[str, str], gpus: float, storage: Sequence[str]) -> list[Finding]:
    """Return what was found on the node this runs on.

    Args:
        subject: name of the node.
        expected: package -> version, on the machine that asks.
        gpus: that Ray counts on the node.
        storage: folders to check.
    """
    others = {name: value for name, value in versions().items() if expected[name] != value}
    differences = ", ".join(f"{name} {value} (here {expected[name]})" for name, value in others.items())
    fix = "use one image, or one environment, for all nodes and for the machine that submits"
    findings = [Finding(subject, differences or "the same versions as here", fix if others else "")]
    if gpus and not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        fix = "give the node the image for GPUs"
        findings.append(Finding(f"{subject} torch", "built for CPUs, on a node with GPUs", fix))
    shm = "Ray's object store uses it; give the node more, in Kubernetes by an emptyDir with medium: Memory"
    shared = shutil.disk_usage(SHARED_MEMORY).free
    disk = shutil.disk_usage(os.environ.get(SESSION_VARIABLE) or tempfile.gettempdir()).free
    return [
        *findings,
        check_free(f"{subject} memory", free_memory(), MIN_MEMORY, "give the node more, or use fewer workers on it"),
        check_free(f"{subject} shared memory", shared, MIN_SHARED_MEMORY, shm),
        check_free(f"{subject} disk", disk, MIN_DISK, "Ray spills objects and writes logs there; free some"),
        *(Finding(f"{subject} {one.subject}", one.found, one.fix) for uri in storage for one in check_storage(uri)),
    ]
