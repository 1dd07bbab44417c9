import io
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from derm_ray.data.archives import retry
from derm_ray.data.archives.ranges import read_range
from derm_ray.errors import ConfigError, StorageError, WorkError
from derm_ray.observability import (
    LOG_FORMAT_VARIABLE,
    WORK,
    Progress,
    ProgressLine,
    Tally,
    configure_logging,
    current_run_id,
    format_duration,
    working_for,
)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (187, "3m 07s"), (7500, "2h 05m")])
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_progress_knows_no_eta_before_the_first_pair() -> None:
    progress = Progress(1000)
    assert "ETA unknown" in progress.line()
    progress.advance(1000)
    assert progress.line().startswith("1,000/1,000 pairs")
    assert "ETA 0s" in progress.line()


def test_what_was_done_before_counts_as_done_but_not_as_speed() -> None:
    progress = Progress(1000, before=900)
    assert progress.line().startswith("900/1,000 pairs, 0.0 pairs/s, ETA unknown")
    progress.advance(100)
    assert progress.finished
    assert progress.line().startswith("1,000/1,000 pairs")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    line = ProgressLine(20, every_s=0)
    assert [line.show(10, "1 errors"), line.show(10, "2 errors")] == [10, 20]
    last = terminal.getvalue().split("\r\x1b[K")[-1]
    assert last.startswith("20/20 pairs")
    assert last.endswith(", 2 errors\n")


def test_a_log_gets_plain_lines_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("derm_ray"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("derm_ray"), "handlers", [caplog.handler])
    line = ProgressLine(20)
    with caplog.at_level("INFO", "derm_ray"):
        for _ in range(20):
            line.show(1)
    assert [record.message.split(",")[0] for record in caplog.records] == ["20/20 pairs"]


def test_json_lines_can_be_read_by_machines() -> None:
    code = """
import logging
from derm_ray.observability import ProgressLine, configure_logging
configure_logging()
logging.getLogger("derm_ray.x").warning("%d pairs", 3)
try: 1 / 0
except ZeroDivisionError: logging.getLogger("derm_ray.y").exception("broken")
ProgressLine(2, every_s=0).show(2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {LOG_FORMAT_VARIABLE: "json"}, capture_output=True, text=True, check=True
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["logger"], line["message"]) for line in lines[:2]] == [
        ("WARNING", "derm_ray.x", "3 pairs"), ("ERROR", "derm_ray.y", "broken")
    ]  # fmt: skip
    assert "ZeroDivisionError" in lines[1]["exc_info"]
    assert lines[2]["message"].startswith("2/2 pairs")
    assert all(line["timestamp"].endswith("+00:00") for line in lines)


def test_errors_are_json_lines_too(tmp_path) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-m", "derm_ray", "--log-format", "json", "data", "describe", str(tmp_path / "none.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["error"]) == ("ERROR", "StorageError")
    assert "none.csv: not found" in line["message"]


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'json'"):
        configure_logging(log_format="jsn")


def test_no_count_is_lost_or_taken_twice() -> None:
    tally = Tally()

    def add(_: int) -> int:
        for _ in range(1000):
            tally.add("bytes", "read", 3)
        return tally.take().get(("bytes", "read"), 0)

    with ThreadPoolExecutor(8) as threads:
        taken = sum(threads.map(add, range(8)))
    assert taken + tally.take().get(("bytes", "read"), 0) == 8 * 1000 * 3
    tally.add("bytes", "read", 0)
    assert tally.take() == {}


def test_bytes_read_and_requests_repeated_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    (tmp_path / "photo").write_bytes(bytes(1000))
    failures = iter([True, True, False])

    def ask() -> None:
        if next(failures):
            raise StorageError("slow down") from OSError("503")

    WORK.take()
    assert len(read_range(str(tmp_path / "photo"), 0, 2000)) == 1000
    retry.persistently(ask)
    assert WORK.take() == {("bytes", "read"): 1000, ("retries", ""): 2}


def test_storage_that_answers_nobody_is_not_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    asked = []

    def ask() -> None:
        asked.append(1)
        raise StorageError("no answer in 240 s") from TimeoutError()

    with pytest.raises(StorageError):
        retry.persistently(ask)
    assert len(asked) == 1


def test_json_lines_name_the_run_they_belong_to() -> None:
    code = """
import logging, threading
from derm_ray.observability import WorkerLogs, configure_logging, working_for
configure_logging()
log = logging.getLogger("derm_ray.x").info
def thread(function, *arguments):
    one = threading.Thread(target=function, args=arguments)
    one.start()
    one.join()
def other():
    with working_for("two"):
        log("another run")
        thread(log, "a thread between two runs")
log("before")
with working_for("one"):
    log("inside")
    thread(log, "its thread")
    thread(other)
    log("inside again")
with working_for(None):
    log("a run without id")
log("after")
WorkerLogs("three", "json").begin()
log("a worker")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {LOG_FORMAT_VARIABLE: "json"}, capture_output=True, text=True, check=True
    )  # fmt: skip
    lines = map(json.loads, done.stderr.splitlines())
    assert [(line["message"], line.get("run_id")) for line in lines] == [
        ("before", None),
        ("inside", "one"),
        ("its thread", "one"),
        ("another run", "two"),
        ("a thread between two runs", None),
        ("inside again", "one"),
        ("a run without id", None),
        ("after", None),
        ("a worker", "three"),
    ]


def test_an_error_that_ends_a_run_names_it() -> None:
    with pytest.raises(WorkError) as caught, working_for("one"):
        raise WorkError("broken")
    assert caught.value.run_id == "one"
    assert current_run_id() is None
