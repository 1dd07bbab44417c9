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
                error.headers = {**(error.headers or {}), "request-id": f"r{self.asked}", "x-request-id": "s"}
                raise error
            return "scored"


def ask(
    app: object, path: str = "/v1/score", method: str = "POST", headers: dict[str, str] | None = None
) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


def test_a_busy_refusal_is_repeated_for_a_moment() -> None:
    clock, replica = Clock(), Replica([busy(3), None, None, None])
    told: list[int] = []
    app = Shedding(replica.app, told.append, clock)
    first, second = ask(app), ask(app)
    assert (first.status_code, second.status_code, replica.asked) == (503, 503, 1)
    assert second.json() == first.json()
    assert second.headers["retry-after"] == "3"
    assert ("request-id" in first.headers, "request-id" in second.headers) == (True, False)
    assert told == [503]
    assert "x-request-id" not in second.headers
    assert ask(app, method="GET").json() == "scored"
    assert ask(app, "/v1/score-batch").json() == "scored", "each path for itself"
    clock.now += HOLD_S
    assert ask(app).json() == "scored"


def test_other_refusals_are_not_repeated() -> None:
    others = [
        ApiError(503, "not_ready", ""),
        ApiError(503, "stopping", ""),
        ApiError(429, "too_many_requests", ""),
        ApiError(503, "busy", "Too many large requests at once. Try again."),  # what one caller may have caused
        None,
    ]
    replica = Replica(list(others))
    app = Shedding(replica.app, clock=Clock())
    assert [ask(app).status_code for _ in others] == [503, 503, 429, 503, 200]


def test_who_lacks_a_token_is_told_so() -> None:
    replica = Replica([busy(3), ApiError(401, "unauthorized", "")])
    app = Shedding(replica.app, clock=Clock())
    assert ask(app, headers={"authorization": "Bearer x"}).status_code == 503
    assert ask(app).status_code == 401
    assert ask(app, headers={"authorization": "Bearer y"}).status_code == 503
    assert replica.asked == 2


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
