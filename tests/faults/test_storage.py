"""Storage that fails."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.conftest import PARTS, Score, assert_whole
from tests.faults.proxy import FaultProxy, Faults

pytestmark = [pytest.mark.ray, pytest.mark.slow]
Proxy = Callable[[Faults], FaultProxy]


@pytest.mark.parametrize(
    "faults",
    [Faults(errors=0.05), Faults(truncated=0.05), Faults(reset=0.05), Faults(stall=("clinical", 30.0))],
    ids=["errors", "truncated", "reset", "stall"],
)
def test_requests_that_fail_change_nothing(score: Score, proxy: Proxy, expected: pd.DataFrame, faults: Faults) -> None:
    failing = proxy(faults)
    scoring = score(failing)
    assert scoring.end() == 0, scoring.text()
    assert failing.hit.total() >= (1 if faults.stall else 20)
    assert_whole(scoring, expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 500 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_stops_the_run_resumably(score: Score, expected: pd.DataFrame, small_disk: Path) -> None:
    out = str(small_disk / "scores")
    full = score(None, out)
    assert full.end() == 1
    assert "No space left on device" in full.text()
    assert "The same command resumes" in full.text()
    assert "Traceback" not in full.text()
    there = full.parts()
    assert 0 < len(there) < PARTS
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    resumed = score(None, out)
    assert resumed.end() == 0, resumed.text()
    assert_whole(resumed, expected)
    again = resumed.parts()
    assert {name: again[name] for name in there} == there
