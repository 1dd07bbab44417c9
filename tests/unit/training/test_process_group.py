"""The process group's begin and end where workers are lost or hang, in Ray Train's controller."""

import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from torch.distributed import DistNetworkError

from derm_ray import ray_internals
from derm_ray.training.run.process_group import LEAVE_S, AddressedTorchConfig, ended_where_it_fails

pytestmark = pytest.mark.ray


@ray.remote
class Worker:
    def hang(self) -> None:
        time.sleep(600)


class Workers:
    """Two workers that hang."""

    def __init__(self) -> None:
        self.actors = [Worker.remote() for _ in range(2)]  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return 2

    def execute_async(self, *_: Any, **__: Any) -> list[Any]:
        return [actor.hang.remote() for actor in self.actors]


@ray.remote
def shutdown_s() -> float:
    """Seconds that the group's end took, in a process without the driver's environment."""
    assert TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S not in os.environ
    config, workers, begun = AddressedTorchConfig(backend="gloo"), Workers(), time.monotonic()
    config.backend_cls().on_shutdown(workers, config)
    took = time.monotonic() - begun
    for actor in workers.actors:
        ray.kill(actor)
    return took


def test_workers_that_hang_are_not_waited_for(ray_local: None) -> None:
    assert LEAVE_S <= ray.get(shutdown_s.remote(), timeout=60) < LEAVE_S + 10


@pytest.mark.parametrize(
    ("error", "restarts"),
    [
        (ActorDiedError(), True),
        (RayTaskError("set_up", "", ConnectionResetError("by peer")), True),
        (RayTaskError("set_up", "", DistNetworkError("the client socket has failed")), True),
        (RayTaskError("set_up", "", RuntimeError("Gloo connectFullMesh failed: Connection refused")), True),
        (RayTaskError("set_up", "", ValueError("ProcessGroupNCCL is only supported with GPUs, no GPUs found!")), False),
        (RayTaskError("set_up", "", RuntimeError("The NVIDIA driver on your system is too old")), False),
    ],
)
def test_a_lost_worker_costs_a_start_and_an_unusable_gpu_the_run(error: RayError, restarts: bool) -> None:
    group, expected = Mock(), ray_internals.worker_start_error() if restarts else type(error)
    with pytest.raises(expected), ended_where_it_fails(group):
        raise error
    assert group.shutdown.called == restarts


class DyingConfig(TorchConfig):  # type: ignore[misc]
    """A worker dies in the first set-up; the others would see a fault of their own."""

    flag: str

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _DyingBackend


class _DyingBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: DyingConfig) -> None:
        with ended_where_it_fails(worker_group):
            worker_group.execute(fail_once, backend_config.flag)
        super().on_start(worker_group, backend_config)


def fail_once(flag: str) -> None:
    if not Path(flag).exists():
        Path(flag).touch()
        raise ConnectionError("connection refused")


@pytest.mark.slow
def test_a_worker_lost_in_the_set_up_costs_a_start(ray_local: None, tmp_path: Path) -> None:
    """The workers take all CPUs, so that those of the first start have to be gone."""
    config = DyingConfig(backend="gloo")
    config.flag = str(tmp_path / "flag")
    trainer = TorchTrainer(
        lambda: "trained",
        torch_config=config,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 4}),
        run_config=RunConfig(
            name="dying", storage_path=str(tmp_path), failure_config=FailureConfig(controller_failure_limit=1)
        ),
    )
    assert trainer.fit().return_value == "trained"
    assert (tmp_path / "flag").exists()
