"""Streaming of request bodies with limits on bytes, time, and the total of all open requests."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Message, Receive

from derm_ray.serving.problems import ApiError

MAX_IMAGE_BYTES = 25_000_000


@dataclass(frozen=True)
class Limits:
    """What one caller may do.

    Attributes:
        body_bytes: of one request.
        body_s: seconds in which a whole body has to arrive.
        answer_s: seconds after which Serve's proxy gives a request up.
        all_bodies_bytes: of all requests under way.
        per_s: requests a second, of each token; ``None`` sets no limit.
        burst_s: seconds of ``per_s`` that may come at once.
    """

    body_bytes: int = 2 * MAX_IMAGE_BYTES + 100_000
    body_s: float = 20.0
    answer_s: float = 30.0
    all_bodies_bytes: int = 500_000_000
    per_s: float | None = None
    burst_s: float = 5.0


@dataclass
class Held:
    """Bytes of all bodies in progress."""

    bytes: int = 0


class Body:
    """An ASGI ``receive`` that raises :class:`ApiError` instead of taking too much.

    Args:
        receive: of the server.
        limits: of its bytes and time, and of all bodies.
        held: of all bodies; this one's bytes are added as they come.

    Attributes:
        cut: the caller hung up before its end.
    """

    def __init__(self, receive: Receive, limits: Limits, held: Held) -> None:
        self._receive = receive
        self._limits = limits
        self._ends = time.monotonic() + limits.body_s
        self._held = held
        self._received = 0
        self._whole = False
        self.cut = False

    async def __call__(self) -> Message:
        """Return the next part."""
        if self._whole:  # what follows is the wait for the caller's end
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._ends - time.monotonic()))
        except TimeoutError:
            raise ApiError(408, "request_timeout", "The request body arrived too slowly.") from None
        self.cut = message["type"] == "http.disconnect"
        size = len(message.get("body", b""))
        self._received += size
        self._held.bytes += size
        if self._received > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        if self._held.bytes > self._limits.all_bodies_bytes:
            raise ApiError(503, "busy", "Too many large requests at once. Try again.", {"retry-after": "5"})
        self._whole = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Count its bytes as gone."""
        self._held.bytes -= self._received
        self._received = 0


def too_large(max_bytes: int) -> ApiError:
    """Return the refusal of a body that is, or would be, too long."""
    return ApiError(413, "too_large", f"The request is larger than {max_bytes / 1_000_000:.0f} MB.")
