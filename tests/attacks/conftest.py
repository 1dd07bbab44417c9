"""A real endpoint and its callers, well-meant or not."""

import itertools
import os
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.endpoint import endpoint
from derm_ray.serving.tokens import new_token
from derm_ray.storage import read_bytes
from tests.conftest import unused_port

CALLERS = [new_token(f"caller-{number}") for number in range(40)]
"""So many that no test runs into the rate of one."""


@dataclass
class Target:
    """The endpoint as callers with tokens see it."""

    url: str
    files: dict[str, bytes]

    def __post_init__(self) -> None:
        self._secrets = itertools.cycle(secret for secret, _ in CALLERS)

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {next(self._secrets)}"}

    def ask(self, path: str = "/v1/score", *, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, headers=self.bearer() | (headers or {}), timeout=60, **options)

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
                answer = client.post(f"{self.url}/v1/score", files=self.files, headers=self.bearer())
                took.append(time.perf_counter() - begun)
                assert answer.status_code == 200, answer.text
        return statistics.median(took)

    def is_well(self) -> None:
        assert self.ask(files=self.files).status_code == 200


@pytest.fixture(scope="package")
def target(
    ray_local: None, bundle_uri: str, pairs: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    pair = pairs.pairs()[0]
    files = {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}
    tokens = tmp_path_factory.mktemp("target") / "tokens"
    tokens.write_text("\n".join(line for _, line in CALLERS))
    args = ServeArguments(model=bundle_uri, engine="torch", tokens=str(tokens))
    with endpoint(args, port=unused_port()) as served:
        yield Target(served.url, files)


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
