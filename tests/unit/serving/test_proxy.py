import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from derm_ray.serving import proxy


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the header names, after a while where the path asks for it."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    body = b",".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, free_port: int) -> Iterator[tuple[str, int]]:
    """A server as Serve's proxy starts it, with short limits."""
    monkeypatch.setattr(proxy, "HEAD_S", 0.4)
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    (middleware,) = proxy.harden()
    guarded = middleware.cls(app, *middleware.args, **middleware.kwargs)
    server = uvicorn.Server(uvicorn.Config(guarded, port=free_port, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield "127.0.0.1", free_port
    server.should_exit = True
    thread.join()


def everything(connection: socket.socket) -> bytes:
    """Read until the server hangs up."""
    connection.settimeout(5)
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def test_a_head_that_never_ends_is_hung_up_on(address: tuple[str, int]) -> None:
    begun = time.monotonic()
    with socket.create_connection(address) as connection:
        ended = threading.Event()

        def drip() -> None:
            connection.sendall(b"GET / HTTP/1.1\r\n")
            while not ended.wait(0.05):
                try:
                    connection.sendall(b"a: b\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert everything(connection) == b""
        except ConnectionResetError:
            pass
        finally:
            ended.set()
            thread.join()
    assert 0.3 < time.monotonic() - begun < 3


def test_a_connection_that_says_nothing_is_hung_up_on(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        assert everything(connection) == b""


def test_a_long_head_is_refused(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.05)
        connection.sendall(b"a: " + b"x" * 40_000 + b"\r\n")
        time.sleep(0.05)
        connection.sendall(b"a: " + b"x" * 40_000 + b"\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 400")


def test_a_head_at_the_bound_passes(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n")
        time.sleep(0.05)
        connection.sendall(b"a: " + b"x" * 60_000 + b"\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 200")


def test_answers_may_take_longer_than_heads(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n" * 2)
        assert everything(connection).count(b"HTTP/1.1 200") == 2


def test_a_body_may_take_longer_than_a_head(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n")
        for byte in b"abc":
            time.sleep(0.3)
            connection.sendall(bytes([byte]))
        assert everything(connection).startswith(b"HTTP/1.1 200")


def test_callers_cannot_control_serve(address: tuple[str, int]) -> None:
    spelt = [name.replace(b"_", mark) for name in sorted(proxy.CONTROLS) for mark in (b"_", b"-")]
    names = (*spelt, b"X-Request-Timeout-Seconds", b"Serve-Multiplexed_Model-Id", b"kept")
    lines = b"".join(name + b": 0\r\n" for name in names)
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
        assert everything(connection).endswith(b"\r\n\r\nhost,kept")
