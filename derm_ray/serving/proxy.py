"""What Ray Serve's HTTP proxy lacks: a bound on a request's head, and no controls in callers' hands.

Serve's proxy runs uvicorn with settings of its own, and calls the function that
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names before it listens; that function is :func:`harden`.
"""

from asyncio import TimerHandle, Transport

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
"""Seconds a connection may be without a whole request head: at its start, and after each answer."""
MAX_HEAD_BYTES = 65_536
"""Of one head, not counting the read in which it begins."""
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
    return [Middleware(WithoutControls)]


class BoundedHead(HttpToolsProtocol):
    """HTTP/1.1, hanging up on callers whose head is too slow or too long."""

    _timer: TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head."""
        counts = self._in_head
        super().data_received(data)
        if counts and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """End the wait."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next head, unless it has come already."""
        super().on_response_complete()
        if self.cycle.response_complete:
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
    """ASGI middleware that drops the headers in :data:`CONTROLS`.

    Args:
        app: the proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on without them."""
        if "headers" in scope:
            kept = [header for header in scope["headers"] if header[0].lower().replace(b"-", b"_") not in CONTROLS]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)
