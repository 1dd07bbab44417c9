import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Form, Request, Response
from starlette.types import Message, Receive, Scope, Send

from derm_ray.serving.admission import Admission
from derm_ray.serving.body import Limits
from derm_ray.serving.middleware import SECURITY_HEADERS, AdmissionMiddleware, Checks, Observe, Traffic
from derm_ray.serving.problems import add_problem_handlers
from derm_ray.serving.tokens import Tokens, new_token, parse_tokens

SECRET, LINE = new_token("clinic")
BEARER = {"authorization": f"Bearer {SECRET}"}


def app(
    limits: Limits | None = None,
    tokens: Tokens | None = None,
    observe: Observe | None = None,
    traffic: Traffic | None = None,
    admission: Admission | None = None,
) -> FastAPI:
    inner = FastAPI()

    @inner.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @inner.post("/form")
    async def form(text: Annotated[str, Form()]) -> str:
        return text

    @inner.post("/scored")
    async def scored(response: Response) -> None:
        response.headers["x-model-digest"] = "d" * 64

    @inner.post("/broken")
    async def broken() -> None:
        raise RuntimeError("secret path /home/someone")

    @inner.post("/v1/score")
    async def score() -> str:
        return "scored"

    @inner.get("/healthz")
    async def healthz() -> str:
        return "ok"

    add_problem_handlers(inner)
    inner.add_middleware(
        AdmissionMiddleware,
        checks=Checks(tokens, limits or Limits(1000), traffic or Traffic(), observe),
        admission=admission,
    )
    return inner


def call(application: FastAPI, method: str, path: str, **options: object) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)  # type: ignore[arg-type]

    return asyncio.run(send())


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("derm_ray.access")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with caplog.at_level("INFO", "derm_ray.access"):
        yield caplog


def test_only_known_tokens_come_in(lines: pytest.LogCaptureFixture) -> None:
    guarded = app(tokens=parse_tokens(LINE, "t"))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {SECRET}"}):
        refused = call(guarded, "POST", "/echo", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert call(guarded, "POST", "/echo", headers=BEARER, content=b"abc").json() == 3
    assert call(guarded, "GET", "/healthz").json() == "ok"
    seen = [json.loads(line) for line in lines.messages]
    assert [line["token"] for line in seen] == [None] * 3 + ["clinic", None]
    assert [line["status"] for line in seen] == [401] * 3 + [200, 200]
    assert SECRET not in lines.text


def test_every_answer_names_the_request_and_is_kept_nowhere(lines: pytest.LogCaptureFixture) -> None:
    for path in ("/echo", "/nowhere", "/broken"):
        answer = call(app(), "POST", path)
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        line = json.loads(lines.messages[-1])
        assert line["request_id"] == answer.headers["request-id"]
        assert abs(datetime.now(UTC) - datetime.fromisoformat(line["time"])) < timedelta(seconds=60)


def test_the_log_names_the_model_that_answered(lines: pytest.LogCaptureFixture) -> None:
    for path, digest in {"/scored": "d" * 64, "/echo": None}.items():
        call(app(), "POST", path)
        assert json.loads(lines.messages[-1])["model_digest"] == digest


def test_every_answer_is_measured() -> None:
    seen: list[tuple[str | None, int, float]] = []
    guarded = app(observe=lambda *values: seen.append(values))
    for path in ("/echo", "/secret-4711", "/broken"):
        call(guarded, "POST", path)
    assert [values[:2] for values in seen] == [("/echo", 200), (None, 404), ("/broken", 500)]
    assert all(0 < seconds < 10 for _, _, seconds in seen)


def test_a_caller_who_hangs_up_is_measured_too(lines: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str | None, int, float]] = []

    async def gone(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    for limits in (Limits(1000), Limits(1000, answer_s=1.0)):
        checks = Checks(limits=limits, observe=lambda *told: seen.append(told))
        guard = AdmissionMiddleware(gone, checks)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(guard({"type": "http", "method": "GET", "path": "/healthz", "headers": []}, None, None))  # type: ignore[arg-type]
    assert [told[:2] for told in seen] == [(None, 499), (None, 504)], "the second one had all the time that Serve gives"
    assert [json.loads(line)["status"] for line in lines.messages[-2:]] == [499, 504]


def test_a_body_that_is_cut_off_is_its_caller_s_doing_and_no_refusal(lines: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str | None, int, float]] = []
    parts: list[Message] = [
        {"type": "http.request", "body": b"--x\r\n", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(_: Message) -> None:
        return

    scope = {"type": "http", "method": "POST", "path": "/form", "query_string": b"", "root_path": ""}
    scope["headers"] = [(b"content-type", b"multipart/form-data; boundary=x")]
    asyncio.run(app(observe=lambda *told: seen.append(told))(scope, receive, send))
    assert [told[:2] for told in seen] == [("/form", 499)]
    assert json.loads(lines.messages[-1])["status"] == 499


def test_the_log_holds_nothing_a_caller_wrote(lines: pytest.LogCaptureFixture) -> None:
    call(app(), "POST", "/patient-4711?name=secret", headers={"x-request-id": "secret", "user-agent": "secret"})
    assert "secret" not in lines.messages[0]
    assert "4711" not in lines.messages[0]
    assert json.loads(lines.messages[0])["status"] == 404


def test_a_caller_that_asks_too_often_is_told_when_to_come_back() -> None:
    guarded = app(Limits(1000, per_s=0.1, burst_s=20))
    answers = [call(guarded, "POST", "/echo") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "10"
    assert answers[2].json()["code"] == "too_many_requests"
    assert call(guarded, "GET", "/healthz").status_code == 200


def test_a_body_that_is_too_large_is_refused_at_its_head_or_on_the_way() -> None:
    declared = call(app(), "POST", "/echo", content=b"x" * 1001)
    assert (declared.status_code, declared.json()["code"]) == (413, "too_large")
    asked = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield b"x" * 100

    streamed = call(app(), "POST", "/echo", content=chunks())
    assert (streamed.status_code, streamed.json()["code"]) == (413, "too_large")
    assert asked < 20
    odd = call(app(), "POST", "/echo", headers={"content-length": "-5"})
    assert odd.status_code == 400


def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)
        yield b"y"

    slow = call(app(Limits(1000, body_s=0.2)), "POST", "/echo", content=drip())
    assert (slow.status_code, slow.json()["code"]) == (408, "request_timeout")


def test_an_unexpected_error_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    answer = call(app(), "POST", "/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text + caplog.text


def test_an_endpoint_that_stops_ends_what_it_has_begun() -> None:
    traffic = Traffic()
    guarded = app(traffic=traffic)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"abc"

    async def check() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://test") as client:
            first = asyncio.create_task(client.post("/echo", content=slowly()))
            await begun.wait()
            draining = asyncio.create_task(traffic.drain())
            await asyncio.sleep(0.1)
            late = await client.get("/healthz")
            assert not draining.done()
            go_on.set()
            await draining
            return await first, late

    first, late = asyncio.run(check())
    assert first.json() == 3
    assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (503, "stopping", "5")


def test_what_would_wait_too_long_is_refused_by_its_head() -> None:
    admission = Admission(10, 100)
    guarded = app(admission=admission)
    assert call(guarded, "POST", "/v1/score").json() == "scored"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "expected_s", lambda: 12.5)
        refused = call(guarded, "POST", "/v1/score")
        assert call(guarded, "POST", "/echo", content=b"abc").json() == 3
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "busy", "3")


def test_all_bodies_together_are_bounded() -> None:
    guarded = app(Limits(1000, all_bodies_bytes=1500))
    half, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"a" * 900
        half.set()
        await go_on.wait()
        yield b"a"

    async def check() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://test") as client:
            first = asyncio.create_task(client.post("/echo", content=slowly()))
            await half.wait()
            beside = await client.post("/echo", content=b"a" * 900)
            small = await client.post("/echo", content=b"a" * 500)
            go_on.set()
            return [await first, beside, small, await client.post("/echo", content=b"a" * 900)]

    first, beside, small, later = asyncio.run(check())
    assert [first.json(), small.json(), later.json()] == [901, 500, 900]
    assert (beside.status_code, beside.json()["code"], beside.headers["retry-after"]) == (503, "busy", "5")
