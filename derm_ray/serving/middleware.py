"""Checks of every request before the application sees it: identity, rate, size and pace."""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from derm_ray.serving.admission import Admission
from derm_ray.serving.body import Body, Held, Limits, too_large
from derm_ray.serving.contract import MODEL_DIGEST, REQUEST_ID, SCORING
from derm_ray.serving.forwarding import MAX_DIGITS, receive_forwarded
from derm_ray.serving.problems import ApiError, busy, respond
from derm_ray.serving.rates import RateLimit
from derm_ray.serving.tokens import Tokens

logger = logging.getLogger(__name__)
access = logging.getLogger("derm_ray.access")

Observe = Callable[[str | None, int, float], None]

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
"""Paths that need no token, nor does what lies under :data:`STATIC`."""
STATIC = "/static/"
CHARGE = "charge"
"""Name in a request's state of what takes more of its caller's rate, for a request that holds several."""
HUNG_UP = 499
"""Stands for the status of a request whose caller did not wait for an answer."""
TIMED_OUT = 504
"""Stands for that of one which Serve's proxy gave up, with a 408; here it looks as if the caller had gone."""
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cache-control": "no-store",
}


STOPPING = ApiError(503, "stopping", "The endpoint is being stopped.", {"retry-after": "5", "connection": "close"})
UNEXPECTED = ApiError(500, "internal_error", "The server could not answer. Try again.")


class AccessLine(dict[str, Any]):
    """A line of the access log: JSON also where other lines are text."""

    def __str__(self) -> str:
        return json.dumps(self)


class Traffic:
    """Requests in progress, and whether new ones are accepted."""

    def __init__(self) -> None:
        self.open = True
        self.ongoing = 0

    async def drain(self) -> None:
        """Refuse new requests, and wait for those in progress."""
        self.open = False
        while self.ongoing:
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Checks:
    """What is checked of requests, and where they are recorded.

    Attributes:
        tokens: of the callers; ``None`` lets everybody in.
        limits: per caller.
        traffic: counts requests, and lets them drain; what comes after it was closed is refused.
        observe: called with the route, status and seconds of every request.
        log: called with every request's line of the access log.
    """

    tokens: Tokens | None = None
    limits: Limits = field(default_factory=Limits)
    traffic: Traffic = field(default_factory=Traffic)
    observe: Observe | None = None
    log: Callable[[AccessLine], None] = access.info


class AdmissionMiddleware:
    """ASGI middleware that refuses, with a problem document, what must not reach the application.

    Every answer carries ``request-id`` and the security headers; every request makes one line of the access log, as
    JSON without any text of the caller's but the token's id.

    Args:
        app: the application.
        checks: of every request.
        admission: asked at a request's head whether it would be answered in time; ``None`` admits all.
    """

    def __init__(self, app: ASGIApp, checks: Checks, admission: Admission | None = None) -> None:
        self._app = app
        self._checks = checks
        self._limits = checks.limits
        self._admission = admission
        per_s, burst_s = checks.limits.per_s, checks.limits.burst_s
        self._rate = RateLimit(per_s, max(1, round(per_s * burst_s))) if per_s else None
        self._held = Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, and pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, begun = f"{random.getrandbits(64):016x}", time.perf_counter()
        status: int | None = None
        model_digest: str | None = None

        async def answer(message: Message) -> None:
            nonlocal status, model_digest
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers[REQUEST_ID] = request_id
                model_digest = headers.get(MODEL_DIGEST)
            await send(message)

        caller = (
            self._checks.tokens.identify(Headers(scope=scope).get("authorization")) if self._checks.tokens else "anyone"
        )
        body = Body(receive_forwarded(scope, receive), self._limits, self._held)
        self._checks.traffic.ongoing += 1
        try:
            self._admit(scope, caller)
            if caller is not None and self._rate is not None:
                scope["state"] = {**scope.get("state", {}), CHARGE: partial(self._rate.charge, caller)}
            await self._app(scope, body, answer)
        except ApiError as error:
            await respond(error)(scope, receive, answer)
        except Exception as error:  # callers learn nothing of the inside
            logger.error("request %s: unexpected %s", request_id, type(error).__name__)
            if status is None:
                await respond(UNEXPECTED)(scope, receive, answer)
        finally:
            self._checks.traffic.ongoing -= 1
            body.release()
            route, seconds = getattr(scope.get("route"), "path", None), time.perf_counter() - begun
            if status is None or body.cut:
                status = TIMED_OUT if not body.cut and seconds > self._limits.answer_s - 1 else HUNG_UP
            if self._checks.observe is not None:
                self._checks.observe(route, status, seconds)
            line = AccessLine(
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                request_id=request_id,
                token=caller,
                method=scope["method"],
                route=route,
                status=status,
                ms=round(1000 * seconds, 1),
                model_digest=model_digest,
            )
            self._checks.log(line)

    def _admit(self, scope: Scope, caller: str | None) -> None:
        """Refuse by what the request's head says."""
        if not self._checks.traffic.open:
            raise STOPPING
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in PUBLIC or path.startswith(STATIC):
            return
        if caller is None:
            raise ApiError(401, "unauthorized", "Send `Authorization: Bearer TOKEN`.", {"www-authenticate": "Bearer"})
        if self._rate is not None and (wait_s := self._rate.wait_s(caller)):
            raise ApiError(429, "too_many_requests", "Too many requests of this token.", {"retry-after": str(wait_s)})
        if path in SCORING and self._admission is not None and (wait_s := self._admission.retry_after_s()):
            raise busy(wait_s)
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or len(declared) > MAX_DIGITS:
            raise ApiError(400, "bad_request", "Content-Length is not a number.")
        if int(declared) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
