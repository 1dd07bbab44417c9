from contextlib import ExitStack, suppress

import pytest

from derm_ray.serving.room import Room


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def work(room: Room, clock: Clock, pairs: int, seconds_each: float) -> None:
    """Answer pairs one after the other."""
    for _ in range(pairs):
        with room.taken():
            clock.now += seconds_each


def test_the_wait_is_what_is_under_way_by_the_speed() -> None:
    clock = Clock()
    room = Room(10, clock)
    with room.taken():
        assert room.retry_after_s() == 0, "nothing is known yet"
    work(room, clock, 200, 0.5)
    clock.now += 1000  # idle time is no slowness
    with ExitStack() as under_way:
        for count in range(1, 25):
            under_way.enter_context(room.taken())
            assert room.expected_s() == pytest.approx(count * 0.5, rel=0.01)
            assert room.retry_after_s() == max(0, -(-(count * 0.5 - 10) // 1))


def test_pairs_answered_at_once_count_as_fast() -> None:
    clock = Clock()
    room = Room(10, clock)
    for _ in range(30):
        with ExitStack() as batch:
            for _ in range(16):
                batch.enter_context(room.taken())
            clock.now += 0.8
    with room.taken():
        assert room.expected_s() == pytest.approx(0.05, rel=0.3)


def test_a_new_speed_is_learnt_soon() -> None:
    clock = Clock()
    room = Room(10, clock)
    work(room, clock, 100, 19.5)
    with room.taken():
        assert room.retry_after_s() == 10
    work(room, clock, 400, 0.1)
    with room.taken():
        assert room.expected_s() < 0.5


def test_pairs_that_need_no_pass_are_not_taken_for_fast_ones() -> None:
    clock = Clock()
    room = Room(10, clock)
    work(room, clock, 100, 1.0)
    for _ in range(100):
        with room.taken() as pair:
            pair.tells_speed = False
    with room.taken():
        assert room.expected_s() == pytest.approx(1.0)


def test_a_refusal_leaves_no_trace() -> None:
    clock = Clock()
    room = Room(10, clock)
    work(room, clock, 10, 1.0)
    before = room.expected_s()
    with suppress(ZeroDivisionError), room.taken():
        clock.now += 99
        raise ZeroDivisionError
    assert room.expected_s() == before == 0
    with room.taken():
        assert room.expected_s() == pytest.approx(1.0)
