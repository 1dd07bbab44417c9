"""Watching a job on a cluster that stops answering."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import ray
from aiohttp import web

from derm_ray.errors import ConfigError, SubmissionError
from derm_ray.submission import cluster
from derm_ray.submission.cluster import Cluster

JOB = {"type": "SUBMISSION", "submission_id": "x", "status": "RUNNING", "entrypoint": "sleep", "message": ""}


@dataclass
class Jobs:
    """A jobs server as Ray's, which can be told how to fail.

    Attributes:
        failure, log_failure: HTTP status of the answers, or 0 for none at all; ``None`` is the truth.
    """

    url: str = ""
    failure: int | None = None
    log_failure: int | None = None
    status: str = "RUNNING"
    log: str = "begun\n"
    asked: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/version", self.version)
        app.router.add_get("/api/jobs/x", self.job)
        app.router.add_get("/api/jobs/x/logs", self.logs)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__})

    async def job(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.failure == 0:
            await asyncio.sleep(60)
        return web.json_response(JOB | {"status": self.status}, status=self.failure or 200)

    async def logs(self, _: web.Request) -> web.Response:
        return web.json_response({"logs": self.log}, status=self.log_failure or 200)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(cluster, "ANSWER_S", 0.2)
    monkeypatch.setattr(cluster, "CONTACT_S", 1.0)
    monkeypatch.setattr(cluster, "_POLL_S", 0.02)
    monkeypatch.setattr(cluster, "_FOLLOW_S", 0.02)
    server = Jobs()
    server.loop.run_until_complete(server.start())
    thread = threading.Thread(target=server.loop.run_forever, daemon=True)
    thread.start()
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(), server.loop).result(10)
    server.loop.call_soon_threadsafe(server.loop.stop)
    thread.join()
    server.loop.close()


@pytest.mark.parametrize("failure", [0, 404, 502])
def test_a_cluster_that_stops_answering_is_asked_again_and_then_given_up(jobs: Jobs, failure: int) -> None:
    there = Cluster(jobs.url)
    assert there.wait_for("x").status == "RUNNING"
    jobs.failure, before = failure, jobs.asked
    began = time.monotonic()
    with pytest.raises(
        SubmissionError, match=r"lost contact with the cluster.*status of job x is unknown.*The same command follows it"
    ):
        there.wait_for("x")
    assert time.monotonic() - began < 10
    assert jobs.asked - before > 1


def test_a_gap_is_bridged(jobs: Jobs) -> None:
    there = Cluster(jobs.url)
    jobs.failure = 502
    threading.Timer(0.3, lambda: setattr(jobs, "failure", None)).start()
    assert there.wait_for("x").status == "RUNNING"


def test_a_log_is_shown_once_as_it_grows_and_through_a_gap(jobs: Jobs) -> None:
    shown = Cluster(jobs.url).follow("x")
    assert next(shown) == "begun\n"
    jobs.log_failure = 502
    threading.Timer(0.2, lambda: setattr(jobs, "log_failure", None)).start()
    jobs.log += "more\n"
    assert next(shown) == "more\n"
    jobs.log += "ended\n"
    jobs.status = "SUCCEEDED"
    assert "".join(shown) == "ended\n"


def test_a_log_ends_with_the_contact(jobs: Jobs) -> None:
    shown = Cluster(jobs.url).follow("x")
    assert next(shown) == "begun\n"
    jobs.failure = 404
    with pytest.raises(SubmissionError):
        next(shown)


@pytest.mark.parametrize("token", ["sec\nret", "s\u0142cret"])
def test_a_token_that_no_header_takes_is_not_quoted(jobs: Jobs, token: str) -> None:
    there = Cluster(jobs.url)
    there._client._headers = {"Authorization": f"Bearer {token}"}
    with pytest.raises(ConfigError, match=r"cannot be sent.* Check RAY_AUTH_TOKEN") as raised:
        there.job("x")
    assert token not in str(raised.value)
