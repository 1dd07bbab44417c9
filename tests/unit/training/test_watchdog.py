"""In processes of their own, which the watchdog ends."""

import subprocess
import sys

import pytest

from derm_ray.training.watchdog import STALLED_EXIT_CODE

SCRIPT = """
import time
from derm_ray.training.watchdog import Watchdog
watchdog = Watchdog(print, work_s=0.6, wait_s=2.0)
with watchdog.watch():
    {body}
print("ended")
"""


def run(body: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-u", "-c", SCRIPT.format(body=body)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("watchdog.work(); time.sleep(0.05); watchdog.work(); time.sleep(60)", "stalled for 1 s in a step"),
        ("watchdog.work(); time.sleep(0.5); watchdog.work(); time.sleep(60)", "stalled for 3 s in a step"),
        (
            "watchdog.work(); time.sleep(0.5); watchdog.work(); watchdog.wait(); watchdog.work(); time.sleep(60)",
            "stalled for 1 s in a step",
        ),
        ("watchdog.work(); watchdog.wait(); time.sleep(60)", "stalled for 2 s waiting"),
        ("watchdog.work(); time.sleep(60)", "stalled for 2 s in a step"),
        ("time.sleep(60)", "stalled for 2 s waiting"),
    ],
    ids=[
        "a step",
        "the step behind a slow first one",
        "a later step, which the first one does not judge",
        "a wait",
        "the first step, which may compile",
        "the start",
    ],
)
def test_what_stands_still_is_ended_with_word_and_stack(body: str, said: str) -> None:
    done = run(body)
    assert done.returncode == STALLED_EXIT_CODE
    assert done.stdout == f"{said}\n"
    assert "Thread 0x" in done.stderr


def test_who_cannot_be_told_keeps_no_process_alive() -> None:
    done = run("watchdog._on_stall = lambda _: 1 / 0; time.sleep(60)")
    assert (done.returncode, done.stdout) == (STALLED_EXIT_CODE, "")


@pytest.mark.parametrize(
    "body",
    [
        "[(watchdog.work(), time.sleep(0.3), watchdog.wait(), time.sleep(0.8)) for _ in range(3)]",
        "watchdog.work(); time.sleep(0.5); watchdog.wait(); watchdog.work(); time.sleep(1.2)",
    ],
    ids=["progress", "a step five times the longest"],
)
def test_what_goes_on_is_left_alone(body: str) -> None:
    done = run(body)
    assert (done.returncode, done.stdout) == (0, "ended\n")
