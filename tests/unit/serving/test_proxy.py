import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from derm_ray.serving import proxy

SEEN: list[tuple[str, bytes]] = []
"""Path and body of each request that the application was asked."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the header names, after a while, or before the body, where the path asks for it."""
    whole, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        whole, more = whole + message.get("body", b""), message.get("more_body", False)
    SEEN.append((scope["path"], whole))
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    assert all(value == value.strip() for _, value in scope["headers"])
    body = b",".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """A server as Serve's proxy starts it, with short limits."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as listening:
        patch.setattr(proxy, "HEAD_S", 0.4)
        patch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
        guarded: ASGIApp = app
        for middleware in proxy.harden():
            guarded = middleware.cls(guarded, *middleware.args, **middleware.kwargs)
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(guarded, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(server: tuple[str, int]) -> tuple[str, int]:
    """The server's address, with nothing noted of earlier requests."""
    SEEN.clear()
    return server


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
    spelled = [name.replace(b"_", mark) for name in sorted(proxy.CONTROLS) for mark in (b"_", b"-")]
    names = (*spelled, b"X-Request-Timeout-Seconds", b"Serve-Multiplexed_Model-Id", b"kept")
    lines = b"".join(name + b": 0\r\n" for name in names)
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
        assert everything(connection).endswith(b"\r\n\r\nhost,kept")


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADES = [
    H2C,
    WEBSOCKET,
    b"connection: keep-alive, uPgRaDe\r\nUPGRADE: TLS/1.3, h2c\r\n",
    b"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: upgrade\r\nConnection: x\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: Upgrade\r\n",
    b"Connection: Upgrade\r\nUpgrade:\r\n",
    H2C + b"Expect: 100-continue\r\n",
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
CHUNKED = b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"


def talk(address: tuple[str, int], *parts: bytes, pause: float = 0.01) -> list[int]:
    """Send the parts one after the other; return the statuses of the answers until the server hangs up."""
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        got = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            got = everything(connection)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", got)]


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("framed", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_an_upgrade_is_ignored_and_the_body_is_the_request_s(
    address: tuple[str, int], method: bytes, framed: bytes, upgrade: bytes
) -> None:
    head, body = framed.split(b"\r\n\r\n", 1)
    request = method + b" /own HTTP/1.1\r\nhost: a\r\n" + upgrade + head + b"\r\n\r\n"
    whole = request + body
    ways = [
        (whole + NEXT,),
        (request, body, NEXT),
        (whole[: len(request) // 2], whole[len(request) // 2 : -9], whole[-9:] + NEXT[:20], NEXT[20:]),
        (whole * 3 + NEXT,),
    ]
    for parts in ways:
        SEEN.clear()
        statuses = talk(address, *parts)
        repeated = 3 if parts is ways[-1] else 1
        assert [status for status in statuses if status != 100] == [200] * (repeated + 1)
        assert [("/own", SMUGGLED)] * repeated + [("/next", b"")] == SEEN


def test_an_upgrade_without_a_body_is_ignored(address: tuple[str, int]) -> None:
    for upgrade in UPGRADES:
        for sep in (b"", b"content-length: 0\r\n"):
            SEEN.clear()
            request = b"GET /own HTTP/1.1\r\nhost: a\r\n" + upgrade + sep + b"\r\n"
            assert [status for status in talk(address, request + NEXT) if status != 100] == [200, 200]
            assert SEEN == [("/own", b""), ("/next", b"")]


def test_headers_beside_an_upgrade_stay_as_they_are(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(
            b"GET /a?b=%20c HTTP/1.1\r\nhost: a\r\nx-a: \xe9 :b\r\nx-empty:\r\n" + H2C + b"x-a: c\r\n\r\n"
        )
        assert everything(connection).endswith(b"\r\n\r\nhost,x-a,x-empty,connection,http2-settings,x-a")


POST = b"POST /own HTTP/1.1\r\nhost: a\r\n"
REFUSED = {
    "length and chunked": POST + b"content-length: 4\r\n" + CHUNKED,
    "chunked and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"content-length: 0\r\n" + LENGTH,
    "two equal lengths": POST + b"content-length: %d\r\n" % len(SMUGGLED) + LENGTH,
    "a list of lengths": POST + b"content-length: 0, 5\r\n\r\n" + SMUGGLED,
    "a signed length": POST + b"content-length: +5\r\n\r\n" + SMUGGLED,
    "a negative length": POST + b"content-length: -5\r\n\r\n" + SMUGGLED,
    "a hexadecimal length": POST + b"content-length: 0x5\r\n\r\n" + SMUGGLED,
    "a length without end": POST + b"content-length: 99999999999999999999999\r\n\r\n" + SMUGGLED,
    "a blank before the colon": POST + b"content-length : 5\r\n\r\n" + SMUGGLED,
    "chunked twice": POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked not last": POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "xchunked": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a tab in chunked": POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "quoted chunked": POST + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n' + SMUGGLED,
    "a blank before chunked's colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "bare line feeds": POST.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n"),
    "a bare carriage return": POST + b"x: a\rcontent-length: 3\r\n\r\n" + SMUGGLED,
    "NUL in a value": POST + b"x: a\0b\r\n" + LENGTH,
    "NUL in a name": POST + b"x\0y: a\r\n" + LENGTH,
    "a header without a name": POST + b": a\r\n" + LENGTH,
    "a header without a colon": POST + b"GET /smuggled HTTP/1.1\r\n" + LENGTH,
    "a folded header": POST + b"x: y\r\n z\r\n" + LENGTH,
    "a folded upgrade": POST + b"Connection: Upgrade\r\nUpgrade:\r\n h2c\r\n" + LENGTH,
    "two lengths and an upgrade": POST + H2C + b"content-length: 0\r\n" + LENGTH,
    "a chunk's bare line feed": POST + b"transfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n" + SMUGGLED,
    "a chunk that is too long": POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk of endless size": POST + H2C + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\na" + SMUGGLED,
    "a length as trailer": POST + CHUNKED[:-2] + b"content-length: 5\r\n\r\n" + SMUGGLED,
    "a broken body that was answered": POST.replace(b"own", b"early") + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n" + LENGTH,
    "a tunnel by path": b"CONNECT /own HTTP/1.1\r\nhost: a\r\n" + LENGTH,
    "a tunnel and an upgrade": b"CONNECT /own HTTP/1.1\r\nhost: a\r\n" + H2C + CHUNKED,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "an unknown version": b"POST /own HTTP/3.7\r\nhost: a\r\n" + LENGTH,
    "a path beyond ASCII": b"POST /\xff HTTP/1.1\r\nhost: a\r\n" + H2C + LENGTH,
}  # fmt: skip


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_once(address: tuple[str, int], raw: bytes) -> None:
    assert talk(address, raw + NEXT) == [400]
    assert {path for path, _ in SEEN} <= {"/own", "/early"}


TAKEN = {
    "an absolute URI": POST.replace(b"/own", b"http://other/own") + H2C + LENGTH,
    "letters of chunked": POST + CHUNKED.replace(b"chunked", b"CHUNKED"),
    "chunked in two headers": POST + b"transfer-encoding: identity\r\n" + CHUNKED,
    "a chunk's extension": POST + H2C + CHUNKED.replace(b"\r\nGET", b';a="b"\r\nGET', 1),
    "empty lines before": b"\r\n\r\n" + POST + LENGTH,
    "blanks around a length": POST + H2C + b"content-length: \t%d \r\n\r\n" % len(SMUGGLED) + SMUGGLED,
}


@pytest.mark.parametrize("raw", TAKEN.values(), ids=TAKEN)
def test_what_can_be_read_in_one_way_is_answered_once(address: tuple[str, int], raw: bytes) -> None:
    assert talk(address, raw + NEXT) == [200, 200]
    assert SEEN == [("/own", SMUGGLED), ("/next", b"")]


LAST = {
    "1.0": POST.replace(b"1.1", b"1.0") + LENGTH,
    "1.0 with an upgrade": POST.replace(b"1.1", b"1.0") + H2C + LENGTH,
    "close": POST + b"connection: close\r\n" + LENGTH,
    "close with an upgrade": POST + b"connection: close, upgrade\r\nupgrade: h2c\r\n" + CHUNKED,
}


@pytest.mark.parametrize("raw", LAST.values(), ids=LAST)
def test_nothing_is_answered_after_a_last_request(address: tuple[str, int], raw: bytes) -> None:
    assert talk(address, raw + SMUGGLED) == [200]
    assert SEEN == [("/own", SMUGGLED)]


def test_trailers_are_no_headers(address: tuple[str, int]) -> None:
    raw = POST + CHUNKED[:-2] + b"authorization: b\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + NEXT
    with socket.create_connection(address) as connection:
        connection.sendall(raw)
        answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert b"authorization" not in answers
    assert SEEN == [("/own", SMUGGLED), ("/next", b"")]


def test_a_broken_request_takes_nobody_s_answer(address: tuple[str, int]) -> None:
    early = b"POST /early HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    assert talk(address, early, b"zz\r\n", NEXT, pause=0.1) == [200]  # answered before its body broke
    assert talk(address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n", b"\0", pause=0.1) == [200]
    assert talk(address, POST + b"transfer-encoding: chunked\r\n\r\n", b"zz\r\n", pause=0.1) == [400]
    assert (
        talk(address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n" + POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n")
        == []
    )


def test_a_body_that_was_not_asked_for_is_not_waited_for(address: tuple[str, int]) -> None:
    head = b"POST /early HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 90\r\n\r\n"
    assert talk(address, head, NEXT, pause=0.1) == [200]
    assert SEEN == [("/early", b"")]


def test_lines_between_parts_of_a_body_are_bounded(address: tuple[str, int]) -> None:
    """Trailers, a chunk's extensions, and empty lines before a request."""
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n"
    for head, line in ((chunked + b"0\r\nx: ", b"y"), (chunked + b"1;", b"y"), (b"", b"\r\n")):
        taken = 0
        with socket.create_connection(address) as connection:
            try:
                connection.sendall(head)
                while taken < 3_000_000:
                    connection.sendall(line * 20_000)
                    taken += 20_000
                    time.sleep(0.01)
            except OSError:
                pass
        assert 60_000 <= taken < 1_000_000
