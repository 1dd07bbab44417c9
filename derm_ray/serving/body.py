"""Streaming of request bodies with limits on bytes, time, and the total of all open requests."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Message, Receive

from derm_ray.serving.problems import ApiError


@dataclass
class Held:
    """Bytes of all bodies in progress."""

    bytes: int = 0


class Body:
    """An ASGI ``receive`` that raises :class:`ApiError` instead of taking too much.

    Args:
        receive: of the server.
        max_bytes: of this body.
        seconds: in which it has to arrive.
        held: of all bodies; this one's bytes are added as they come.
        max_held: of those.

    Attributes:
        cut: the caller hung up before its end.
    """

    def __init__(self, receive: Receive, max_bytes: int, seconds: float, held: Held, max_held: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._ends = time.monotonic() + seconds
        self._held = held
        self._max_held = max_held
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
        if self._received > self._max_bytes:
            raise too_large(self._max_bytes)
        if self._held.bytes > self._max_held:
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
