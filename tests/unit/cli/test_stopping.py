"""Signals that stop a command, on real processes."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PROGRAM = """
import os, signal, time
from derm_ray.cli import stopping
stopping.listen()
try:
    with stopping.resumable():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("ending", flush=True)
    time.sleep(3)
    os._exit(stopping.exit_code())
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("impatient", [False, True])
def test_a_signal_counts_once_and_one_that_comes_later_ends_at_once(stop: signal.Signals, impatient: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(stop)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(stop)  # as `timeout` does
        if impatient:
            time.sleep(1.2)
            process.send_signal(stop)
        _, told = process.communicate(timeout=30)
        seconds = time.monotonic() - began
    assert process.returncode == 128 + stop
    assert told == "stopped; the same command resumes.\n"
    assert seconds < 3 if impatient else seconds >= 3


def test_where_threads_wait_a_signal_ends_all_on_the_spot() -> None:
    program = """
import subprocess, sys, time
from derm_ray.cli import stopping
stopping.listen()
with stopping.resumable_at_once():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 143
    assert told == "stopped; the same command resumes.\n"
    child.wait(10)


def test_what_a_shell_has_ignored_stays_ignored() -> None:
    program = "from derm_ray.cli import stopping; import signal; stopping.listen(); print(signal.getsignal(2))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        text=True, capture_output=True, check=True, env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert done.stdout.strip() in ("1", "Handlers.SIG_IGN")
