import pytest

from derm_ray.observability import Progress, format_duration


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (187, "3m 07s"), (7500, "2h 05m")])
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_progress_knows_no_eta_before_the_first_pair() -> None:
    progress = Progress(1000)
    assert "ETA unknown" in progress.line()
    progress.advance(1000)
    assert progress.line().startswith("1,000/1,000 pairs")
    assert "ETA 0s" in progress.line()
