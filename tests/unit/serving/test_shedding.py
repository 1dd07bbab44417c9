import asyncio

import httpx
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from derm_ray.serving.lost import LostReplicas
from derm_ray.serving.problems import ApiError, add_problem_handlers, busy
from derm_ray.serving.shedding import HOLD_S, Shedding


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Replica:
    """An application whose next answers are given."""

    def __init__(self, answers: list[ApiError | None]) -> None:
        self.answers = answers
        self.asked = 0
        self.app = FastAPI()
        add_problem_handlers(self.app)

        @self.app.post("/v1/score")
        @self.app.get("/v1/score")
        @self.app.post("/v1/score-batch")
        async def score() -> str:
            self.asked += 1
            if error := self.answers.pop(0):
                error.headers = {**(error.headers or {}), "request-id": f"r{self.asked}"}
                raise error
            return "scored"


def ask(app: object, path: str = "/v1/score", method: str = "POST") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path)

    return asyncio.run(send())


def test_a_busy_refusal_is_repeated_for_a_moment() -> None:
    clock, replica = Clock(), Replica([busy(3), None, None, None])
    told: list[tuple[str, int, float]] = []
    app = Shedding(replica.app, lambda *one: told.append(one), clock)
    first, second = ask(app), ask(app)
    assert (first.status_code, second.status_code, replica.asked) == (503, 503, 1)
    assert second.json() == first.json()
    assert second.headers["retry-after"] == "3"
    assert ("request-id" in first.headers, "request-id" in second.headers) == (True, False)
    assert told == [("/v1/score", 503, 0.0)]
    assert ask(app, method="GET").json() == "scored"
    assert ask(app, "/v1/score-batch").json() == "scored", "each path for itself"
    clock.now += HOLD_S
    assert ask(app).json() == "scored"


def test_other_refusals_are_not_repeated() -> None:
    others = [
        ApiError(503, "not_ready", ""),
        ApiError(503, "stopping", ""),
        ApiError(429, "too_many_requests", ""),
        None,
    ]
    replica = Replica(list(others))
    app = Shedding(replica.app, clock=Clock())
    assert [ask(app).status_code for _ in others] == [503, 503, 429, 200]


def test_a_request_whose_replica_ended_is_answered() -> None:
    async def ended(scope: Scope, receive: Receive, send: Send) -> None: ...

    lost = ask(LostReplicas(ended), "/prefix/v1/score")
    assert (lost.status_code, lost.json()["code"], lost.headers["retry-after"]) == (503, "replica_lost", "1")
    assert lost.headers["x-content-type-options"] == "nosniff"
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/another/application"}
    asyncio.run(LostReplicas(ended)(scope, receive, send))
    assert sent == [], "what happens to others is not ours"
    assert ask(LostReplicas(Replica([None]).app)).json() == "scored"
