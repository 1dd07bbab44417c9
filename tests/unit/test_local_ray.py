"""Where Ray's session lies, and what is said where it cannot lie there."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from derm_ray import local_ray as module
from derm_ray.errors import ConfigError
from derm_ray.local_ray import LEAST_FREE, LONGEST_PATH, find_problem, session_folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path; no variable names another."""
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_what_ray_cannot_use_is_named(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = short / ("x" * (LONGEST_PATH - len(str(short)) - 1))
    for folder in (longest, Path(f"{longest}x"), short / "ö", short / "with a blank"):
        folder.mkdir()
    (short / "file").touch()
    assert find_problem(str(short)) == find_problem(f"{longest}/") == find_problem(str(short / "with a blank")) == ""
    assert find_problem(f"{longest}x").startswith(f"a path of {LONGEST_PATH + 1} bytes")
    assert find_problem(str(short / "ö")) == "not an ASCII path, which Ray needs"
    assert find_problem(str(short / "none")) == "no such folder"
    assert find_problem(str(short / "file")) == "not a folder"
    assert find_problem("relative") == "not an absolute path"
    assert find_problem("/proc").startswith("not writable (")
    (short / "ray").symlink_to("/proc")
    assert find_problem(str(short)).startswith("not writable ("), "Ray's own folder is another user's"
    (short / "ray").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, LEAST_FREE - 1))
    assert find_problem(str(short)) == "full: 63 MiB free, Ray needs 64"


def test_the_variable_that_is_ray_s_is_obeyed_or_refused(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such")
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert session_folder() == (str(short), "")
    monkeypatch.setenv("RAY_TMPDIR", "/no/such")
    with pytest.raises(
        ConfigError, match=r"RAY_TMPDIR=/no/such: no such folder\. Set RAY_TMPDIR to a folder that exists"
    ):
        session_folder()


def test_the_general_variable_gives_way(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_folder() == ("/tmp", "")
    monkeypatch.setenv("TMPDIR", str(short))
    assert session_folder() == (str(short), "")
    monkeypatch.setenv("TMPDIR", "/no/such")
    assert session_folder() == ("/tmp", "TMPDIR=/no/such: no such folder")
    monkeypatch.setattr(module, "FALLBACK", "/proc")
    with pytest.raises(ConfigError, match=r"TMPDIR=/no/such: no such folder; /proc: not writable .*Set RAY_TMPDIR"):
        session_folder()
