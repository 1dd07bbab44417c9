from contextlib import ExitStack, suppress

import pytest

from derm_ray.serving.admission import Admission


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def work(admission: Admission, clock: Clock, pairs: int, seconds_each: float) -> None:
    """Answer pairs one after the other."""
    for _ in range(pairs):
        with admission.admitted():
            clock.now += seconds_each


def test_the_wait_is_what_is_under_way_by_the_speed() -> None:
    clock = Clock()
    admission = Admission(10, 100, clock)
    with admission.admitted():
        assert admission.retry_after_s() == 0, "nothing is known yet"
    work(admission, clock, 200, 0.5)
    clock.now += 1000  # idle time is no slowness
    with ExitStack() as under_way:
        for count in range(1, 25):
            under_way.enter_context(admission.admitted())
            assert admission.expected_s() == pytest.approx(count * 0.5, rel=0.01)
            assert admission.retry_after_s() == max(0, -(-(count * 0.5 - 10) // 1))


def test_pairs_answered_at_once_count_as_fast() -> None:
    clock = Clock()
    admission = Admission(10, 100, clock)
    for _ in range(30):
        with ExitStack() as batch:
            for _ in range(16):
                batch.enter_context(admission.admitted())
            clock.now += 0.8
    with admission.admitted():
        assert admission.expected_s() == pytest.approx(0.05, rel=0.3)


def test_a_new_speed_is_learned_soon() -> None:
    clock = Clock()
    admission = Admission(10, 100, clock)
    work(admission, clock, 100, 19.5)
    with admission.admitted():
        assert admission.retry_after_s() == 10
    work(admission, clock, 400, 0.1)
    with admission.admitted():
        assert admission.expected_s() < 0.5


def test_pairs_under_way_are_bounded_whatever_the_speed() -> None:
    admission = Admission(10, 3, Clock())
    with ExitStack() as under_way:
        for _ in range(3):
            assert admission.retry_after_s() == 0
            under_way.enter_context(admission.admitted())
        assert admission.retry_after_s() == 1
    assert admission.retry_after_s() == 0


def test_a_refusal_leaves_no_trace() -> None:
    clock = Clock()
    admission = Admission(10, 100, clock)
    work(admission, clock, 10, 1.0)
    before = admission.expected_s()
    with suppress(ZeroDivisionError), admission.admitted():
        clock.now += 99
        raise ZeroDivisionError
    assert admission.expected_s() == before == 0
    with admission.admitted():
        assert admission.expected_s() == pytest.approx(1.0)
