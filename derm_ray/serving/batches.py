"""Answering all who wait at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Hands what waits to one call at a time, as much as it takes; nothing waits for a batch to fill.

    Ray Serve's own batching closes a batch before the call under way has ended; without a delay it stays at one.

    Args:
        call: answers for a batch, in order.
        largest: batch.
    """

    def __init__(self, call: Callable[[list[Item]], Awaitable[list[Result]]], largest: int) -> None:
        self._call = call
        self._largest = largest
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def ask(self, item: Item) -> Result:
        """Return the answer for one item, or raise what its batch's call raised."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while batch := self._take():
                try:
                    results = await self._call([item for item, _ in batch])
                except Exception as error:
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(error)
                else:
                    for (_, answer), result in zip(batch, results, strict=True):
                        if not answer.done():
                            answer.set_result(result)
        finally:
            self._running = None

    def _take(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """Return the next batch, without those whose caller has gone."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._largest:
            one = self._waiting.popleft()
            if not one[1].done():
                batch.append(one)
        return batch
