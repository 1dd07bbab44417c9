"""Requests whose replica ended while it was at work on them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from derm_ray.serving.contract import SCORING
from derm_ray.serving.middleware import SECURITY_HEADERS
from derm_ray.serving.problems import ApiError, respond

REPLICA_LOST = ApiError(
    503, "replica_lost", "The replica at work on this ended. Try again.", {**SECURITY_HEADERS, "retry-after": "1"}
)


class LostReplicas:
    """ASGI middleware of Serve's proxy, which leaves such a request without an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and answer it where nothing else does."""
        answered = not (scope["type"] == "http" and scope["path"].endswith(SCORING))

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        await self._app(scope, receive, watched)
        if not answered:
            await respond(REPLICA_LOST)(scope, receive, send)
