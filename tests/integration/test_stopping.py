"""Commands with a Ray of their own that are stopped by signals to more than themselves."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.storage import read_bytes
from tests.conftest import INTERRUPTIBLE

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LISTENS = "Press Ctrl-C to stop."
SOON_S = 15.0


def _group(process: psutil.Process) -> list[psutil.Process]:
    """As a terminal and `timeout` do."""
    return [p for p in _tree(process) if os.getpgid(p.pid) == process.pid]


def _tree(process: psutil.Process) -> list[psutil.Process]:
    """As systemd does with a control group."""
    return [*process.children(recursive=True), process]


@contextmanager
def started(*arguments: str, cwd: Path, until: str) -> Iterator["subprocess.Popen[str]"]:
    """A command that leads a process group, once it has printed something; nothing of it outlives the block."""
    with subprocess.Popen(
        [*INTERRUPTIBLE, *arguments],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            printed = ""
            while until not in printed:
                line = process.stdout.readline()
                assert line, printed
                printed += line
            yield process
        finally:
            for one in _tree(psutil.Process(process.pid)) if process.poll() is None else []:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def stop(process: "subprocess.Popen[str]", number: signal.Signals, whom: Callable[..., list[psutil.Process]]) -> str:
    """Signal, and return what the command still printed; everything of it must have ended soon."""
    everything = _tree(psutil.Process(process.pid))
    assert len(everything) > 8, "Ray runs"
    began = time.monotonic()
    for one in whom(psutil.Process(process.pid)):
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert time.monotonic() - began < SOON_S
    assert [p.name() for p in everything if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    return printed


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGTERM, _group), (signal.SIGTERM, _tree), (signal.SIGINT, _group)]
)
def test_an_endpoint_ends_soon_and_answers_what_it_has_begun(
    number: signal.Signals,
    whom: Callable[..., list[psutil.Process]],
    bundle_uri: str,
    pairs: Manifest,
    free_port: int,
    tmp_path: Path,
) -> None:
    url = f"http://127.0.0.1:{free_port}/v1/score"
    request = httpx.Request("POST", url, files={"clinical": read_bytes(str(pairs.pairs()[0].clinical_uri))})
    body, headers = request.read(), dict(request.headers)
    begun, answers = threading.Event(), []

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        begun.set()
        time.sleep(2)
        yield body[100:]

    def call() -> None:
        answers.append(httpx.post(url, content=slowly(), headers=headers, timeout=60).status_code)

    shared = set(Path("/dev/shm").iterdir())
    arguments = ("serve", "--model", bundle_uri, "--engine", "torch", "--port", str(free_port))
    with started(*arguments, cwd=tmp_path, until=LISTENS) as process:
        caller = threading.Thread(target=call)
        caller.start()
        assert begun.wait(30)
        time.sleep(0.5)
        assert stop(process, number, whom) == "stopping\n"
        caller.join()
    assert process.returncode == 0
    assert answers == [200]
    assert set(Path("/dev/shm").iterdir()) <= shared
    with socket.create_server(("127.0.0.1", free_port)):
        pass


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGTERM, _group), (signal.SIGTERM, _tree), (signal.SIGINT, _group)]
)
def test_training_ends_soon_and_says_that_it_resumes(
    number: signal.Signals, whom: Callable[..., list[psutil.Process]], pairs: Manifest, tmp_path: Path
) -> None:
    arguments = ("train", "--manifest", pairs.uri, "--out", "runs", "--name", "a", "--preset", "debug")
    with started(*arguments, "--set", "epochs=500", cwd=tmp_path, until="epoch 2/500") as process:
        assert stop(process, number, whom).endswith("stopped; the same command resumes.\n")
    assert process.returncode == 128 + number


@pytest.mark.parametrize("name", ["score", "train"])
def test_folders_that_cannot_be_written_are_done_without(
    name: str, bundle_uri: str, pairs: Manifest, tmp_path: Path
) -> None:
    command = {
        "score": ("--model", bundle_uri, "--input", pairs.uri, "--out", "scores", "--engine", "torch"),
        "train": ("--manifest", pairs.uri, "--out", "runs", "--name", "a", "--preset", "debug", "--set", "epochs=1"),
    }[name]
    (tmp_path / "home").touch()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "TMPDIR"}
    done = subprocess.run(
        [*INTERRUPTIBLE, name, *command],
        cwd=tmp_path, text=True, capture_output=True, timeout=300, check=False,
        env=kept | {"HOME": str(tmp_path / "home"), "TMPDIR": "/no/such"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("TMPDIR=/no/such: no such folder. Ray's session is in /tmp") == 1
    assert "home" not in done.stderr
    assert "atplotlib" not in done.stderr
