"""A busy endpoint's refusals, repeated by Serve's proxy for a moment.

A refusal by a replica costs the way there and back; figures with and without this are in
``docs/benchmarks/serving.md``.
"""

import json
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from derm_ray.serving.contract import REQUEST_ID, SCORING
from derm_ray.serving.problems import busy

REQUEST_IDS = (REQUEST_ID.encode(), b"x-request-id")

HOLD_S = 0.1
"""How long a refusal is repeated: short beside the work that waits, also at a replica of 3,000 pairs a second."""


class Shedding:
    """ASGI middleware of Serve's proxy: what a replica just refused as ``busy`` is refused here.

    Args:
        app: the proxy.
        observe: is called with the status of every refusal.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        app: ASGIApp,
        observe: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._observe = observe
        self._clock = clock
        self._refusals: dict[tuple[str, bool], tuple[float, list[Message]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse one request, or pass it on."""
        path: str = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST" or not path.endswith(SCORING):
            await self._app(scope, receive, send)
            return
        key = path, "authorization" in Headers(scope=scope)  # without a token the answer may be another one
        until, refusal = self._refusals.get(key, (0.0, []))
        if self._clock() < until:
            for message in refusal:
                await send(message)
            if self._observe is not None:
                self._observe(refusal[0]["status"])
            return
        self._refusals.pop(key, None)
        answer: list[Message] = []

        async def watched(message: Message) -> None:
            if message.get("status") == 503 or answer:
                answer.append(message)
            await send(message)

        await self._app(scope, receive, watched)
        if _is_busy(answer):
            self._refusals[key] = self._clock() + HOLD_S, _without_request_id(answer)


def _is_busy(answer: list[Message]) -> bool:
    """Return whether an answer is the ``busy`` refusal of a replica."""
    if not answer or Headers(raw=answer[0]["headers"]).get("content-type") != "application/problem+json":
        return False
    try:
        problem = json.loads(b"".join(message.get("body", b"") for message in answer[1:]))
    except ValueError:
        return False
    return isinstance(problem, dict) and problem.get("detail") == busy(1).detail


def _without_request_id(answer: list[Message]) -> list[Message]:
    """Return an answer that fits any request: its ids, ours and Serve's, are those of one."""
    start, *body = answer
    headers = [header for header in start["headers"] if header[0].lower() not in REQUEST_IDS]
    return [{**start, "headers": headers}, *body]
