"""Every TCP socket that a cluster with an endpoint and a training run listens on is on the list."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.serving.tokens import new_token
from tests.conftest import take
from tests.security.listeners import ALLOWED, ANY_PORT, Allowed, Listener, Reach, unexpected
from tests.security.network import DASHBOARD, EVERYWHERE, GCS, ROOT, Head


@pytest.mark.parametrize(
    ("listener", "problem"),
    [
        (Listener("GCS", 1, EVERYWHERE, 6379), ""),
        (Listener("dashboard", 1, "127.0.0.1", 8265), ""),
        (Listener("dashboard", 1, "10.0.0.1", 8265), "may be reached from loopback only"),
        (Listener("dashboard", 1, "::", 8265), "may be reached from loopback only"),
        (Listener("dashboard", 1, "127.0.0.1", 8266), "not on the list"),
        (Listener("agent", 1, "::ffff:127.0.0.1", 52365), ""),
        (Listener("Ray client server", 1, EVERYWHERE, 10001), "may be reached from node only"),
        (Listener("Serve proxy", 1, EVERYWHERE, 8000), ""),
        (Listener("unknown process", 1, "127.0.0.1", 5000), "not on the list"),
    ],
)
def test_a_listener_is_judged_by_process_port_and_address(listener: Listener, problem: str) -> None:
    found = unexpected([listener])
    assert bool(found) == bool(problem), found
    assert all(problem in one and str(listener.port) in one for one in found)


def test_one_socket_more_than_a_process_may_have_is_not_on_the_list() -> None:
    worker = [Listener("worker", 1, EVERYWHERE, port) for port in (20001, 20002)]
    assert unexpected([worker[0], Listener("worker", 2, EVERYWHERE, 20002)]) == []
    assert unexpected(worker) == [f"worker (1) listens on {EVERYWHERE}, port 20002: not on the list"]
    assert unexpected(worker, [Allowed("x", "worker", ANY_PORT, Reach.ALL, 2)]) == []


@contextmanager
def started(head: Head, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = head.machine.command(sys.executable, "-m", "derm_ray", *arguments)
    environment = os.environ | head.environment | {"DERM_RAY_INSECURE_CLUSTER": "0"}
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=120)


@pytest.mark.ray
@pytest.mark.slow
def test_a_working_cluster_listens_as_listed_and_nowhere_else(
    guarded: Head, bundle_uri: str, pairs: Manifest, tmp_path: Path
) -> None:
    write_manifest(take(pairs.absolute(), 120), str(tmp_path / "m.parquet"))
    (tmp_path / "tokens").write_text(new_token("caller")[1])
    serve = (
        "serve", "--model", bundle_uri, "--engine", "torch", "--address", guarded.gcs, "--tokens", str(tmp_path / "tokens"),
        "--host", guarded.machine.address,
    )  # fmt: skip
    train = (
        "train", "--manifest", str(tmp_path / "m.parquet"), "--out", str(tmp_path / "runs"), "--name", "x",
        "--preset", "debug", "--set", "epochs=3000", "--workers", "2", "--address", guarded.gcs,
    )  # fmt: skip
    with started(guarded, *serve) as server:
        assert server.stdout is not None
        assert "listening on http" in (line := server.stdout.readline()), (line, server.stderr and server.stderr.read())
        with started(guarded, *train) as training:
            assert training.stderr is not None
            told: list[str] = []
            while "epoch 2/3000" not in (line := training.stderr.readline()):
                assert line, told
                told.append(line)
            found = guarded.machine.listeners()
            training.kill()
    listed = "\n".join(map(str, found))
    roles = {listener.role for listener in found}
    assert roles >= {entry.role for entry in ALLOWED}, listed  # what is on the list is there as well
    # The dashboard of this head listens for other machines, as in Kubernetes; on bare machines it must not.
    (only,) = unexpected(found)
    assert f"port {DASHBOARD}: Ray's dashboard and jobs may be reached from loopback only" in only, listed


@pytest.mark.ray
@pytest.mark.slow
def test_a_stranger_on_the_machine_is_found(guarded: Head) -> None:
    command = guarded.machine.command(sys.executable, "-m", "http.server", "5555", "--bind", "127.0.0.1")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while guarded.machine.curl("http://127.0.0.1:5555/")[0] != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            found = unexpected(guarded.machine.listeners())
        finally:
            process.terminate()
    assert f"unknown process ({process.pid}) listens on 127.0.0.1, port 5555: not on the list" in found
    assert all(f"port {GCS}" not in one for one in found)
