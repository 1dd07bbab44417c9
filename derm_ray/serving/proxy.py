"""What Ray Serve's HTTP proxy lacks: bounded heads, bodies that stay bodies, no controls in callers' hands.

Serve's proxy runs uvicorn with settings of its own, and calls the function that
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names before it listens; that function is :func:`harden`.
"""

from asyncio import TimerHandle, Transport
from functools import partial

import uvicorn.config
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from derm_ray.serving.forwarding import ForwardedBodies
from derm_ray.serving.lost import LostReplicas
from derm_ray.serving.metrics import RequestMetrics
from derm_ray.serving.recorder import Recorder
from derm_ray.serving.shedding import Shedding

HEAD_S = 20.0
"""Seconds a connection may be without a whole request head: at its start, and after each answer."""
MAX_HEAD_BYTES = 65_536
"""Of one head, or between two parts of a body, not counting the read in which it begins."""
CONTROLS = frozenset(
    {
        b"x_request_timeout_seconds",
        b"x_request_disconnect_disabled",
        b"serve_multiplexed_model_id",
        b"x_session_id",
        b"x_request_id",
    }
)
"""Headers by which Serve's proxy lets a caller lift its time limit, and more; it takes ``-`` and ``_`` for the same."""


def harden() -> list[Middleware]:
    """Make the server of this process one of bounded heads; return the middleware that Serve adds."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:BoundedHead"
    return [  # the innermost first
        Middleware(LostReplicas),
        Middleware(ForwardedBodies),
        Middleware(Shedding, observe=partial(RequestMetrics(Recorder()).counted, None)),
        Middleware(WithoutControls),
    ]


class BoundedHead(HttpToolsProtocol):
    """HTTP/1.1 that hangs up on heads which are too slow or too long, and takes no upgrade.

    An ``Upgrade`` header is ignored (RFC 9110, 7.8) and dropped, WebSocket's as well. httptools would take what follows
    such a head for the next request, although it is this one's body (MagicStack/httptools#124), so the head is parsed
    again without it.
    """

    _timer: TimerHandle | None = None
    _in_head = False
    _moved = False
    """Whether the bytes that came last began, went on with, or ended anything but a head's or trailer's lines."""
    _still_bytes = 0
    _body_begun = False
    _without_upgrade = b""
    _over = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to no body."""
        self._unset_keepalive_if_required()
        self._moved = False
        pieces = [memoryview(data)]
        while pieces and not self._over:
            piece = pieces.pop(0)
            try:
                self.parser.feed_data(piece)
            except HttpParserUpgrade as upgrade:
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does, for pipelines
                pieces = [memoryview(self._without_upgrade), piece[upgrade.args[0] :]]
            except HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
        self._still_bytes = 0 if self._moved else self._still_bytes + len(data)
        if self._still_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The request's head is too long.")

    def send_400_response(self, msg: str) -> None:
        """Refuse the request that came last, and end the connection: no request gets two answers, or another's."""
        if self._over:
            return
        self._over = True
        cycle = self.cycle
        due = cycle is not None and not cycle.response_complete
        in_body = cycle is not None and cycle.more_body and not self._in_head
        if in_body and (self.pipeline or not due or cycle.response_started):
            self.transport.close()
        elif due and not in_body:
            cycle.keep_alive = False  # the answer that is due ends the connection
        else:
            if due:
                cycle.disconnected = True
                cycle.message_event.set()
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._in_head = self._moved = True
        self._body_begun = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep it without the blanks around its value, unless it is a trailer."""
        if self._in_head:
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """End the wait, or note the head without its upgrade."""
        if self.parser.should_upgrade():
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            if method == b"CONNECT":
                raise HttpParserError("a tunnel is not to be had here")
            kept = (name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade")
            self._without_upgrade = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(kept))
            return
        super().on_headers_complete()
        self._in_head, self._moved = False, True
        self._stop_waiting()

    def on_body(self, body: bytes) -> None:
        """Take some of a body."""
        self._moved = self._body_begun = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request, unless its head is parsed again."""
        if not self.parser.should_upgrade():
            self._moved = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next head, unless it has come already."""
        super().on_response_complete()
        if self.cycle.response_complete:
            if self.expect_100_continue and self.cycle.more_body and not self._body_begun:
                self.transport.close()  # only the caller knows whether the body still comes
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class WithoutControls:
    """ASGI middleware that drops the headers in :data:`CONTROLS`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on without them."""
        if "headers" in scope:
            kept = [header for header in scope["headers"] if header[0].lower().replace(b"-", b"_") not in CONTROLS]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)
