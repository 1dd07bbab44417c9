from derm_ray.serving.rates import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_a_steady_rate() -> None:
    clock = Clock()
    limit = RateLimit(per_s=2, burst=3, clock=clock)
    assert [limit.wait_s("a") for _ in range(4)] == [0, 0, 0, 1]
    clock.now += 0.5
    assert [limit.wait_s("a"), limit.wait_s("a")] == [0, 1]
    clock.now += 1000
    assert [limit.wait_s("a") for _ in range(4)] == [0, 0, 0, 1]


def test_callers_do_not_share() -> None:
    limit = RateLimit(per_s=0.1, burst=1, clock=Clock())
    assert [limit.wait_s("a"), limit.wait_s("b"), limit.wait_s("a")] == [0, 0, 10]


def test_callers_are_forgotten_beyond_a_number() -> None:
    limit = RateLimit(per_s=1, burst=1, clock=Clock())
    limit.max_callers = 2
    assert [limit.wait_s(caller) for caller in ("a", "b", "c")] == [0, 0, 0]
    assert limit.wait_s("a") == 0  # the one that was silent longest
    assert limit.wait_s("c") == 1


def test_what_is_charged_is_owed() -> None:
    clock = Clock()
    limit = RateLimit(per_s=2, burst=3, clock=clock)
    assert limit.wait_s("a") == 0
    limit.charge("a", 15)
    assert limit.wait_s("a") == 7  # -13 to 1, two a second
    clock.now += 7
    assert [limit.wait_s("a"), limit.wait_s("a")] == [0, 1]
