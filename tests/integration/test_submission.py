"""A command as a Ray Job, on a real Ray head of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.errors import ConfigError
from derm_ray.submission import submit
from tests.conftest import RunCommand, take

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent


def ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return found


def takes_jobs(url: str) -> bool:
    try:
        JobSubmissionClient(url).submit_job(entrypoint="true")
    except (ConnectionError, RuntimeError):
        return False
    return True


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head with its jobs server; returns the jobs URL."""
    gcs, dashboard, agent = ports(3)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
        try:
            deadline = time.monotonic() + 120
            while not takes_jobs(url):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()


def test_a_submitted_command_runs_on_the_cluster_once(
    head: str, derm_ray: RunCommand, bundle_uri: str, pairs: Manifest, tmp_path: Path
) -> None:
    manifest = str(tmp_path / "m.parquet")
    write_manifest(take(pairs.absolute(), 20), manifest)
    out = tmp_path / "scores"
    arguments = ("--model", bundle_uri, "--input", manifest, "--out", str(out), "--engine", "torch")
    done = derm_ray("submit", "score", "--address", head, "--id", "nightly", "--wait", "--", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job nightly: SUCCEEDED" in done.stdout
    assert json.loads((out / "_SUCCESS.json").read_text())["scored"] == 20
    assert submit(head, "score", list(arguments), "nightly") == "nightly"

    failed = derm_ray("submit", "score", "--address", head, "--wait", "--", *arguments[:-1], "tensorrt")
    assert failed.returncode == 1
    assert "unknown engine 'tensorrt'" in failed.stdout
    with pytest.raises(ConfigError, match="unknown command 'skore'"):
        submit(head, "skore", [])
