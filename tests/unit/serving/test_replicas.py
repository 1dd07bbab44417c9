import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
import torch
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from derm_ray.inference.engines.selection import resolve_engine_of
from derm_ray.serving import deployment
from derm_ray.serving.deployment import Replicas
from derm_ray.serving.model import Answered
from derm_ray.serving.problems import ApiError
from derm_ray.serving.room import Room
from derm_ray.serving.schemas import Model, Problem

MODEL = Model(
    model_digest="d", label_set="paper15", classes=["a"], titles={}, tasks=[], network="triple", input_size=32, engine="torch",
    saliency=False, operating_points=[], metrics={}, card="",
)  # fmt: skip
PROBLEM = Problem(title="", status=422, detail="", code="corrupt")


class Handle:
    """A deployment's handle that answers as it is told to."""

    def __init__(self, answer: Callable[[], Awaitable[object]]) -> None:
        self.asked = 0
        self.answer = answer
        self.describe = self.score = SimpleNamespace(remote=self._remote)

    def _remote(self, *_: object) -> Awaitable[object]:
        self.asked += 1
        return self.answer()


async def model() -> Model:
    return MODEL


async def busy() -> Model:
    raise BackPressureError(num_queued_requests=1, max_queued_requests=1)


async def failed() -> Model:
    raise DeploymentUnavailableError(DeploymentID("ModelReplica", "derm_ray"))


async def never() -> Model:
    await asyncio.sleep(60)
    return MODEL


def test_many_who_ask_for_the_model_cost_one_question() -> None:
    handle = Handle(model)

    async def check() -> None:
        replicas = Replicas(handle, Room(10))  # type: ignore[arg-type]
        assert await asyncio.gather(*(replicas.describe() for _ in range(100))) == [MODEL] * 100
        assert handle.asked == 1

    asyncio.run(check())


def test_busy_replicas_are_ready_once_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "DESCRIBED_S", 0.0)
    handle = Handle(busy)

    async def check() -> None:
        replicas = Replicas(handle, Room(10))  # type: ignore[arg-type]
        with pytest.raises(ApiError, match="more to do"):
            await replicas.describe()
        handle.answer = model
        assert await replicas.describe() == MODEL
        handle.answer = busy
        assert await replicas.describe() == MODEL
        assert handle.asked == 3

    asyncio.run(check())


@pytest.mark.parametrize("answer", [failed, never])
def test_replicas_that_do_not_come_up_are_not_ready(
    answer: Callable[[], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "DESCRIBE_S", 0.1)
    with pytest.raises(ApiError) as caught:
        asyncio.run(Replicas(Handle(answer), Room(10)).describe())  # type: ignore[arg-type]
    assert (caught.value.status_code, caught.value.code) == (503, "not_ready")


def test_another_model_is_asked_for_when_it_answers() -> None:
    handle = Handle(model)

    async def other() -> Answered:
        return Answered("e", PROBLEM)

    async def check() -> None:
        replicas = Replicas(handle, Room(10))  # type: ignore[arg-type]
        await replicas.describe()
        handle.answer = other
        await replicas.score(b"", None, saliency=False)
        handle.answer = model
        await replicas.describe()
        assert handle.asked == 3

    asyncio.run(check())


def test_what_would_wait_too_long_is_refused_though_its_head_had_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    room, handle = Room(10), Handle(model)
    monkeypatch.setattr(room, "expected_s", lambda: 12.0)
    with pytest.raises(ApiError) as caught:
        asyncio.run(Replicas(handle, room).score(b"", None, saliency=False))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.headers, handle.asked) == ("busy", {"retry-after": "2"}, 0)


def test_a_replica_that_never_answers_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "DESCRIBE_S", 0.05)
    handle = Handle(never)

    async def check() -> None:
        replicas = Replicas(handle, Room(10))  # type: ignore[arg-type]
        for answer in await asyncio.gather(*(replicas.describe() for _ in range(9)), return_exceptions=True):
            assert isinstance(answer, ApiError)
        handle.answer = model
        assert await replicas.describe() == MODEL
        assert handle.asked == 2

    asyncio.run(check())


@pytest.mark.parametrize(("engine", "gpu"), [("auto", True), ("auto", False), ("compiled", True)])
def test_an_engine_is_chosen_where_replicas_run(
    engine: str, gpu: bool, bundle_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve builds an application on the head, which may have no GPU, nor torch for one."""
    asked = []

    def run_remote(function: object, *args: object, **options: object) -> str:
        asked.append((function, args, options["num_gpus"]))
        return "torch-bf16"

    monkeypatch.setattr(deployment.runtime, "has_several_nodes", lambda: True)
    monkeypatch.setattr(deployment.runtime, "run_remote", run_remote)
    args = deployment.ServeArguments(model=bundle_uri, engine=engine, gpu=gpu, insecure=True)
    application = deployment.build(args, None)
    assert asked == [(resolve_engine_of, (bundle_uri, engine, torch.device("cuda" if gpu else "cpu")), int(gpu))]
    replicas = application._bound_deployment.init_args[0]._bound_deployment
    assert replicas.init_args[2] == "torch-bf16"
