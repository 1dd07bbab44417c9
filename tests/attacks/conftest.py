"""The shared endpoint and its callers, well-meant or not."""

import os
import socket
import statistics
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.conftest import Served


@dataclass
class Target:
    """The endpoint as a caller with a token sees it."""

    url: str
    bearer: dict[str, str]
    files: dict[str, bytes]

    def ask(self, path: str = "/v1/score", *, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, headers=self.bearer | (headers or {}), timeout=60, **options)

    def form(self, *parts: tuple[str, bytes]) -> httpx.Response:
        """Send a multipart form written by hand: heads and bodies of its parts."""
        body = (
            b"".join(b"--x\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--x--\r\n"
        )
        return self.ask(content=body, headers={"content-type": "multipart/form-data; boundary=x"})

    def connect(self) -> socket.socket:
        where = urlsplit(self.url)
        return socket.create_connection((str(where.hostname), where.port or 0), timeout=60)

    def p50(self, count: int) -> float:
        """Return the median seconds of a well-meant request; each of them must be answered."""
        took = []
        with httpx.Client(timeout=30) as client:
            for _ in range(count):
                begun = time.perf_counter()
                answer = client.post(f"{self.url}/v1/score", files=self.files, headers=self.bearer)
                took.append(time.perf_counter() - begun)
                assert answer.status_code == 200, answer.text
        return statistics.median(took)

    def is_well(self) -> None:
        assert self.ask(files=self.files).status_code == 200


@pytest.fixture
def target(served: Served, photos: dict[str, bytes]) -> Target:
    return Target(served.url, served.bearer, photos)


def is_problem(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail", "code"}


def replica() -> psutil.Process:
    """Return the process of the endpoint's only model replica."""
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if ":ModelReplica" in " ".join(process.info["cmdline"] or ())
        and any(parent.pid == os.getpid() for parent in process.parents())
    ]
    return found
