import asyncio
from collections import deque
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from derm_ray.serving import forwarding
from derm_ray.serving.forwarding import EXTENSION, ForwardedBodies, receive_forwarded

DISCONNECT: Message = {"type": "http.disconnect"}


def part(data: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def received(
    messages: list[Message], headers: dict[str, str], *, stalls: bool = False, ours: bool = True
) -> tuple[bool, list[Message]]:
    """Return whether a second request's body came with the head, and what its replica received."""
    seen: list[Any] = []

    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        seen.clear()
        seen.append(EXTENSION in scope.get("extensions", {}))
        receive = receive_forwarded(scope, receive)
        while (message := await receive())["type"] != "http.disconnect":
            seen.append(message)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"request-id", b"r"), *([(b"x-model-digest", b"d")] if ours else [])],
            }
        )

    left: deque[Message] = deque()

    async def receive() -> Message:
        if stalls and len(left) == 2:
            await asyncio.sleep(0.1)
        return left.popleft()

    async def send(_: Message) -> None: ...

    scope = {"type": "http", "path": "/v1/score", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    forwarding = ForwardedBodies(replica)
    for _ in range(2):
        left.extend([*messages, DISCONNECT])
        asyncio.run(forwarding({**scope}, receive, send))
    return seen[0], seen[1:]


def test_a_body_travels_whole_with_its_head() -> None:
    parts = [part(b"abc", more=True), part(b"de", more=False)]
    assert received(parts, {"content-length": "5"}) == (True, [part(b"abcde", more=False)])


@pytest.mark.parametrize(
    "headers",
    [{}, {"transfer-encoding": "chunked"}, {"content-length": "3000001"}, {"content-length": "5", "expect": "100-continue"},
     {"content-length": "0"}, {"content-length": "five"}, {"content-length": "-5"}, {"content-length": "\u0665"}, {"content-length": "0" * 5000 + "5"}],
)  # fmt: skip
def test_other_bodies_are_fetched_as_they_come(headers: dict[str, str]) -> None:
    parts = [part(b"abc", more=True), part(b"de", more=False)]
    assert received(parts, headers) == (False, parts)


def test_a_slow_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAIT_S", 0.02)
    parts = [part(b"abc", more=True), part(b"de", more=False)]
    assert received(parts, {"content-length": "5"}, stalls=True) == (False, parts)


def test_a_caller_who_hangs_up_is_seen_to() -> None:
    assert received([part(b"abc", more=True)], {"content-length": "5"}) == (False, [part(b"abc", more=True)])


def test_all_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "MAX_HELD_BYTES", 4)
    parts = [part(b"abcde", more=False)]
    assert received(parts, {"content-length": "5"}) == (False, parts)


def test_other_applications_receive_their_bodies() -> None:
    parts = [part(b"abc", more=True), part(b"de", more=False)]
    assert received(parts, {"content-length": "5"}, ours=False) == (False, parts)


def twice(path: str) -> list[tuple[bool, int]]:
    """Return for two requests whether their bodies came with their heads, and what was held meanwhile."""
    seen: list[tuple[bool, int]] = []

    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((EXTENSION in scope.get("extensions", {}), forwarded._held))
        headers = [(b"request-id", b"r"), (b"x-model-digest", b"d")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def receive() -> Message:
        return part(b"abcde", more=False)

    async def send(_: Message) -> None: ...

    forwarded = ForwardedBodies(replica)
    for _ in range(2):
        scope = {"type": "http", "path": path, "headers": [(b"content-length", b"5")]}
        asyncio.run(forwarded(scope, receive, send))
    assert forwarded._held == 0
    return seen


def test_a_body_counts_until_its_request_ends() -> None:
    assert twice("/prefix/v1/score") == [(False, 0), (True, 10)]


def test_only_scores_are_forwarded() -> None:
    assert twice("/another/application") == [(False, 0), (False, 0)]
