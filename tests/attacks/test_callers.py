"""Callers without a token, without haste, or without patience."""

import hashlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.attacks.conftest import Target, is_problem
from tests.conftest import Served

pytestmark = pytest.mark.ray


def test_what_is_no_token_of_ours_opens_nothing(target: Target, served: Served) -> None:
    secret, digest = served.secret, hashlib.sha256(served.secret.encode()).hexdigest()
    line = f"tests:{digest}"
    for value in ("", "Bearer", f"Bearer {digest}", f"Bearer {line}", f"Basic {secret}", secret, f"Bearer {secret}x",
                  f"Bearer {secret[:-1]}", f"Bearer {secret},{secret}", "Bearer null", "Bearer \xff\xfe", "Bearer " + "a" * 10_000):  # fmt: skip
        headers = {"authorization": value.encode("latin-1")}
        for path in (
            "/v1/score",
            "/v1/score-batch",
            "/v1/model",
            "/v1/nothing",
            "/docs",
            "/static/../v1/model",
            "//v1/model",
        ):
            answer = httpx.request("POST" if "score" in path else "GET", target.url + path, headers=headers)  # type: ignore[arg-type]
            is_problem(answer, 401)
    for path in ("/-/routes", "/-/healthz"):  # Ray Serve's own
        assert secret not in httpx.get(target.url + path).text


def test_no_path_leads_out_of_the_page_s_folder(target: Target) -> None:
    for path in ("/static/../api.py", "/static/%2e%2e/api.py", "/static/..%2fapi.py", "/static//../../etc/passwd",
                 "/static/....//api.py", "/static/\\..\\api.py", "/static/%00", "/static/", "/static"):  # fmt: skip
        with target.connect() as connection:  # a client would tidy the path up
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
            answer = everything(connection)
        assert answer.split(b" ")[1] in (b"401", b"404"), answer
        assert b"import" not in answer
        assert b"root:" not in answer


@contextmanager
def slow_callers(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never end their heads, or bodies, and send a byte now and then."""

    def head(number: int) -> bytes:
        if number % 4 == 0:
            return b"POST /v1/score HTTP/1.1\r\nhost: a\r\nx-a: "
        if number % 4 == 1:
            return b""
        bearer = target.bearer["Authorization"].encode()
        return (
            b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=x\r\n"
            b"content-length: 1000000\r\nauthorization: " + bearer + b"\r\n\r\n--x"
        )

    ended, held = threading.Event(), [target.connect() for _ in range(count)]
    for number, connection in enumerate(held):
        connection.sendall(head(number))

    def drip() -> None:
        while not ended.wait(2):
            for connection in held:
                with suppress(OSError):
                    connection.sendall(b"a")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        yield held
    finally:
        ended.set()
        dripping.join()
        for connection in held:
            connection.close()


@pytest.mark.slow
def test_two_hundred_slow_callers_slow_nobody_else_down(target: Target) -> None:
    target.p50(20)
    alone, beside = [], []
    for _ in range(4):
        alone.append(target.p50(60))
        with slow_callers(target, 200):
            time.sleep(1)
            beside.append(target.p50(60))
    print({"alone_ms": alone, "beside_ms": beside, "ratio": statistics.median(beside) / statistics.median(alone)})
    assert statistics.median(beside) <= 1.2 * statistics.median(alone)


@pytest.mark.slow
def test_slow_callers_are_hung_up_on(target: Target) -> None:
    with slow_callers(target, 30) as held:
        target.p50(10)
        deadline = time.monotonic() + 60
        closed = 0
        while closed < len(held) and time.monotonic() < deadline:
            time.sleep(1)
            closed = sum(_is_closed(connection) for connection in held)
    assert closed == len(held)


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_callers_who_hang_up_take_no_places(target: Target) -> None:
    """More of them than the endpoint has places in all, the wait for which would be refused."""
    request = httpx.Request("POST", target.url, files=target.files)
    body = request.read()
    for share in (0.0, 0.5, 1.0):
        for _ in range(250):
            head = (
                "POST /v1/score HTTP/1.1\r\nhost: a\r\n"
                f"content-type: {request.headers['content-type']}\r\ncontent-length: {len(body)}\r\n"
                f"authorization: {target.bearer['Authorization']}\r\n\r\n"
            )
            with target.connect() as connection:
                connection.sendall(head.encode() + body[: int(share * len(body))])
    deadline = time.monotonic() + 30
    while target.ask(files=target.files).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: target.ask(files=target.files).status_code, range(16)))
    assert set(answers) == {200}


def everything(connection: socket.socket) -> bytes:
    """Read until the server hangs up."""
    connection.settimeout(10)
    return b"".join(iter(lambda: connection.recv(65_536), b""))
