"""Records are gathered, merged, and kept in order."""

from typing import Any

from derm_ray.serving.recorder import Recorder


class Count:
    """Stands for a counter of Ray."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, dict[str, str]]] = []

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.seen.append((value, tags))


def test_equal_increments_are_merged_and_nothing_is_recorded_before_the_flush() -> None:
    recorder, counter, lines = Recorder(flush_s=3600), Count(), list[Any]()
    for status in ("200", "503", "200"):
        recorder.count(counter, {"status": status})  # type: ignore[arg-type]
        recorder.later(lines.append, status)
    assert not counter.seen
    assert not lines
    recorder.flush()
    assert counter.seen == [(2, {"status": "200"}), (1, {"status": "503"})]
    assert lines == ["200", "503", "200"]
    recorder.flush()
    assert len(counter.seen) == 2
    assert len(lines) == 3


def test_what_a_call_adds_is_recorded_by_the_same_flush() -> None:
    recorder, lines = Recorder(flush_s=3600), list[Any]()
    recorder.later(recorder.later, lines.append, "late")
    recorder.flush()
    assert lines == ["late"]


def test_a_failing_call_stops_none_of_the_later_ones() -> None:
    recorder, lines = Recorder(flush_s=3600), list[Any]()
    recorder.later(int, "no number")
    recorder.later(lines.append, "after")
    recorder.flush()
    assert lines == ["after"]


def test_a_failing_counter_stops_no_other_record() -> None:
    class Broken(Count):
        def inc(self, value: float, tags: dict[str, str]) -> None:
            raise RuntimeError(value, tags)

    recorder, counter, lines = Recorder(flush_s=3600), Count(), list[Any]()
    recorder.count(Broken(), {"status": "200"})  # type: ignore[arg-type]
    recorder.count(counter, {"status": "200"})  # type: ignore[arg-type]
    recorder.later(lines.append, "line")
    recorder.flush()
    assert counter.seen == [(1, {"status": "200"})]
    assert lines == ["line"]
