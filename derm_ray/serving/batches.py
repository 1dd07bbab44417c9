"""Answering all who wait at once."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Late(Exception):  # noqa: N818
    """An item's turn came when it could no longer be answered in time."""


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    deadline: float
    answer: "asyncio.Future[Result]"


class Batches(Generic[Item, Result]):
    """Hands what waits to one call at a time, as much as it takes; nothing waits for a batch to fill.

    Ray Serve's own batching closes a batch before the call under way has ended; without a delay it stays at one.

    Args:
        call: answers for a batch, in order.
        largest: batch.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        call: Callable[[list[Item]], Awaitable[list[Result]]],
        largest: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call = call
        self._largest = largest
        self._clock = clock
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._call_s = 0.0

    async def ask(self, item: Item, deadline: float = float("inf")) -> Result:
        """Return the answer for one item, or raise what its batch's call raised.

        Args:
            item: what to answer.
            deadline: by the clock, when the answer has to be there.

        Raises:
            Late: the deadline has passed; or, behind others in a batch, a call as long as the last would end after it.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, deadline, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while batch := self._take():
                begun = self._clock()
                try:
                    results = await self._call([one.item for one in batch])
                except Exception as error:
                    for one in batch:
                        if not one.answer.done():
                            one.answer.set_exception(error)
                else:
                    for one, result in zip(batch, results, strict=True):
                        if not one.answer.done():
                            one.answer.set_result(result)
                self._call_s = self._clock() - begun
        finally:
            self._running = None

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Return the next batch, without those whose caller has gone and those who are late."""
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._largest:
            one = self._waiting.popleft()
            if one.answer.done():
                continue
            # The first is tried as long as there is any time: a slow call must not refuse all that come after it.
            if self._clock() + (self._call_s if batch else 0.0) > one.deadline:
                one.answer.set_exception(Late())
            else:
                batch.append(one)
        return batch
