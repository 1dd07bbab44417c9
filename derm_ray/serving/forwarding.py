"""Small bodies travel from Serve's proxy to a replica together with their request's head.

A replica of Ray Serve fetches a body from the proxy by calls between actors, one after the other; see the figures in
``docs/benchmarks/serving.md``.
"""

import asyncio
from collections import deque
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from derm_ray.serving.contract import MODEL_DIGEST, REQUEST_ID, SCORING

EXTENSION = "derm_ray.body"
"""Name in ``scope["extensions"]`` of a whole body."""
MAX_BYTES = 3_000_000
"""Of a body; a larger one is fetched by the replica, as are those beyond :data:`MAX_HELD_BYTES`. A message between
Serve's processes, which holds the head as well, may have 4 MiB."""
MAX_HELD_BYTES = 256_000_000
"""Of all bodies whose requests are under way, each counted twice: Serve keeps a pickled copy."""
WAIT_S = 1.0
"""How long a body's end is waited for; the replica fetches a slower one, and judges its pace."""
MAX_PATHS = 64
MAX_DIGITS = 18
"""Of a Content-Length; Python refuses to read numbers of thousands of digits."""


class ForwardedBodies:
    """ASGI middleware of Serve's proxy that puts a request's body into its scope, where a model gave the last score.

    Another application behind the same proxy would miss its bodies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0
        self._ours: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or with what came of it first."""
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not path.endswith(SCORING):
            await self._app(scope, receive, send)
            return

        async def learning(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._learn(path, Headers(raw=message["headers"]))
            await send(message)

        size = _announced(scope)
        if path not in self._ours or not 0 < size <= MAX_BYTES or self._held + 2 * size > MAX_HELD_BYTES:
            await self._app(scope, receive, learning)
            return
        self._held += 2 * size
        try:
            messages = await _gathered(receive)
            if messages and messages[-1]["type"] == "http.request" and not messages[-1].get("more_body", False):
                extensions = {**scope.get("extensions", {}), EXTENSION: b"".join(m.get("body", b"") for m in messages)}
                scope = {**scope, "extensions": extensions}
                messages.clear()
            await self._app(scope, _replayed(messages, receive), learning)
        finally:
            self._held -= 2 * size

    def _learn(self, path: str, headers: Headers) -> None:
        """Learn from an answer whether derm_ray serves the path; refusals by head carry no digest and prove nothing."""
        if REQUEST_ID not in headers:
            self._ours.discard(path)
        elif MODEL_DIGEST in headers and path not in self._ours:
            if len(self._ours) >= MAX_PATHS:
                self._ours.clear()
            self._ours.add(path)


def receive_forwarded(scope: Scope, receive: Receive) -> Receive:
    """Return what a replica receives: the body in the scope, if there is one, and then what ``receive`` returns."""
    extensions: dict[str, Any] = scope.get("extensions") or {}
    if (body := extensions.pop(EXTENSION, None)) is None:
        return receive
    return _replayed(deque([{"type": "http.request", "body": body, "more_body": False}]), receive)


def _announced(scope: Scope) -> int:
    """Return the bytes of body that a request announces; 0 where it leaves them open, or waits to be asked for them."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    plain = len(length) <= MAX_DIGITS and length.isascii() and length.isdecimal()
    return int(length) if plain and "expect" not in headers else 0


async def _gathered(receive: Receive) -> deque[Message]:
    """Return the messages of a body, as far as they come in time."""
    messages: deque[Message] = deque()
    try:
        async with asyncio.timeout(WAIT_S):
            while not messages or messages[-1].get("more_body", False):
                messages.append(await receive())
    except TimeoutError:
        pass
    return messages


def _replayed(messages: deque[Message], receive: Receive) -> Receive:
    async def replayed() -> Message:
        return messages.popleft() if messages else await receive()

    return replayed
