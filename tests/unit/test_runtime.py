"""Joining a Ray, and what it is asked."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import ray

from derm_ray import ray_internals, runtime
from derm_ray.errors import ConfigError, WorkError
from derm_ray.observability import format_duration

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.9
This process on Ray Client was started with:
    Ray: 2.60.0
    Python: 3.12.1
"""


@pytest.fixture
def listening() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MISMATCH, r"Python: 3\.11\.9 .*Python: 3\.12\.1\. Use one image"),
        ("", r"RuntimeError Give --address"),
        ("a\nb", "a Give --address"),
    ],
)
def test_a_ray_that_cannot_be_joined_says_why(
    raised: str, said: str, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(raised)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(ConfigError, match=f"cannot join the Ray at '{listening}': .*{said}"),
        runtime.ray_session(listening),
    ):
        pass


def test_a_container_has_the_cpus_of_its_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_internals, "container_cpus", lambda: 1.0)
    assert runtime.machine_cpus() == 1
    monkeypatch.setattr(ray_internals, "container_cpus", lambda: 0.5)
    assert runtime.machine_cpus() == 1
    monkeypatch.setattr(ray_internals, "container_cpus", lambda: 10_000.0)
    assert 1 <= runtime.machine_cpus() < 10_000


def test_a_machine_without_gpus_is_too_small_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"CPU": 2.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: here)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": here}])
    session = runtime.RaySession(started_here=True)
    session.require(cpus=2)
    with pytest.raises(ConfigError, match=r"this machine is too small: 1 GPUs, it has 0\. Use fewer workers"):
        session.require(cpus=1, gpus=1, worker_gpus=1)


@pytest.mark.ray
def test_a_task_that_no_node_can_hold_ends_with_a_fix(ray_local: None) -> None:
    assert not runtime.has_several_nodes()
    assert runtime.run_remote(format_duration, 3, timeout_s=60) == "3s"
    began = time.monotonic()
    with pytest.raises(WorkError, match="no node had 1 CPUs and 1 GPUs free for a task within 1 s: name the engine"):
        runtime.run_remote(format_duration, 3, num_gpus=1, timeout_s=1, fix="name the engine")
    assert time.monotonic() - began < 30
