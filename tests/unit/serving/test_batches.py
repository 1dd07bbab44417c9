import asyncio

import pytest

from derm_ray.serving.batches import Batches, Late


class Recorder:
    """Doubles numbers slowly, and fails for batches with a negative one."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        await asyncio.sleep(0.05)
        if min(batch) < 0:
            raise ValueError("negative")
        return [2 * number for number in batch]


def test_what_waits_while_a_call_runs_is_the_next_batch() -> None:
    call = Recorder()

    async def check() -> list[int]:
        batches = Batches(call, largest=4)

        async def late(number: int) -> int:
            await asyncio.sleep(0.004 * number)
            return await batches.ask(number)

        return await asyncio.gather(*(late(number) for number in range(8)))

    assert asyncio.run(check()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert call.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_failed_batch_is_the_failure_of_its_own_callers() -> None:
    call = Recorder()

    async def check() -> list[int | BaseException]:
        batches = Batches(call, largest=2)
        return await asyncio.gather(*(batches.ask(n) for n in (1, -1, 3)), return_exceptions=True)

    first, second, third = asyncio.run(check())
    assert (str(first), str(second), third) == ("negative", "negative", 6)


def test_who_has_gone_is_not_answered_for() -> None:
    call = Recorder()

    async def check() -> None:
        batches = Batches(call, largest=2)
        asking = [asyncio.create_task(batches.ask(number)) for number in range(4)]
        await asyncio.sleep(0.01)
        asking[2].cancel()
        await asyncio.wait(asking)
        with pytest.raises(asyncio.CancelledError):
            await asking[2]
        assert await batches.ask(9) == 18, "it starts again after a pause"

    asyncio.run(check())
    assert call.batches == [[0, 1], [3], [9]]


def test_what_is_late_is_not_worth_a_call() -> None:
    call, now = Recorder(), [0.0]

    async def timed(batch: list[int]) -> list[int]:
        now[0] += 3.0
        return await call(batch)

    async def check() -> list[int | BaseException]:
        batches = Batches(timed, largest=2, clock=lambda: now[0])
        deadlines = {1: 9.0, 2: 9.0, 3: 2.9, 4: 4.0, 5: 5.9, 6: 6.0}
        asked = [batches.ask(number, deadline) for number, deadline in deadlines.items()]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third, fourth, fifth, sixth = asyncio.run(check())
    assert (first, second, fourth, sixth) == (2, 4, 8, 12)
    assert (type(third), type(fifth)) == (Late, Late)
    assert call.batches == [[1, 2], [4, 6]]


def test_a_call_longer_than_any_deadline_refuses_nobody_after_it() -> None:
    now, takes = [0.0], [11.0, 0.1, 0.1]

    async def timed(batch: list[int]) -> list[int]:
        now[0] += takes.pop(0)
        return batch

    async def check() -> list[int]:
        batches = Batches(timed, largest=4, clock=lambda: now[0])
        return [await batches.ask(number, now[0] + 10.0) for number in range(3)]

    assert asyncio.run(check()) == [0, 1, 2]
