import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.load.arrivals import Outcome, Request, closed_loop, open_loop


def test_requests_leave_on_time_whoever_waits() -> None:
    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response()

    async def check() -> tuple[Outcome, Outcome]:
        app = web.Application()
        app.router.add_post("/", slowly)
        async with TestServer(app) as server:
            requests = [Request(str(server.make_url("/")), b"x", {})]
            return (
                await open_loop(requests, [0.05 * i for i in range(20)]),
                await closed_loop(requests, 4, callers=2),
            )

    opened, closed = asyncio.run(check())
    assert opened.statuses == {200: 20}
    assert opened.seconds == pytest.approx(0.05 * 19 + 0.5, abs=0.4)
    assert opened.percentile_s(50) == pytest.approx(0.5, abs=0.2)
    assert closed.seconds == pytest.approx(1.0, abs=0.4)
    assert closed.goodput == pytest.approx(4 / closed.seconds)


def test_refusals_and_silence_are_counted_apart() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"retry-after": "1"} if (await request.read()) == b"told" else {})

    async def check() -> Outcome:
        app = web.Application()
        app.router.add_post("/", refuse)
        async with TestServer(app) as server:
            url = str(server.make_url("/"))
            nobody = Request("http://127.0.0.1:9/", b"", {})
            return await open_loop([Request(url, b"told", {}), Request(url, b"", {}), nobody], [0.0, 0.0, 0.0])

    outcome = asyncio.run(check())
    assert (outcome.statuses, outcome.unannounced, outcome.latencies_s) == ({503: 2, 0: 1}, 2, [])
