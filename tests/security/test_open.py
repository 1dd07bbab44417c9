"""Commands refuse a Ray that anybody can use who reaches it, unless they are told that it will do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.network import DASHBOARD, GCS, ROOT, Head, head, wire
from tests.security.test_strangers import ASK, METHODS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FIX = "Set RAY_AUTH_MODE=token"


@pytest.fixture(scope="module")
def opened() -> Iterator[Head]:
    """``ray start --head`` as it is where no token was made."""
    with wire() as machines, head(machines, {"RAY_AUTH_MODE": "disabled"}, dashboard="127.0.0.1") as started:
        yield started


@pytest.fixture
def commands(bundle_uri: str, manifest: str, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """What joins a cluster, each command ready to work."""
    out = ("--out", str(tmp_path / "out"))
    return {
        "train": ("train", "--manifest", manifest, *out, "--name", "x", "--preset", "debug"),
        "evaluate": ("evaluate", "--model", bundle_uri, "--manifest", manifest, *out, "--engine", "torch"),
        "score": ("score", "--model", bundle_uri, "--input", manifest, *out, "--engine", "torch"),
        "serve": ("serve", "--model", bundle_uri, "--engine", "torch"),
    }


@pytest.mark.parametrize("name", ["train", "evaluate", "score", "serve"])
def test_no_command_joins_it(opened: Head, commands: dict[str, tuple[str, ...]], name: str, tmp_path: Path) -> None:
    done = opened.derm_ray(*commands[name], "--address", f"127.0.0.1:{GCS}")  # loopback is not all it listens on
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    (line,) = (text for text in done.stderr.splitlines() if text.startswith("error: "))  # train warns before
    assert f"has no token: anyone who reaches {opened.machine.address} can run code on it. {FIX}" in line
    assert "DERM_RAY_INSECURE_CLUSTER=1" in line
    assert not list(tmp_path.glob("out/part-*"))


def test_a_token_here_does_not_guard_it(opened: Head, commands: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("5e" * 20)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    done = opened.derm_ray(*commands["score"], "--address", opened.gcs, **token)
    assert (done.returncode, "has no token: " in done.stderr) == (2, True), done


def test_doctor_finds_it(opened: Head) -> None:
    done = opened.derm_ray("doctor", "--address", opened.gcs)
    assert done.returncode == 1
    assert "! cluster" in done.stdout
    assert f"reaches {opened.machine.address} can run code on it. {FIX}" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "list"),
        ("jobs", "logs", "x"),
        ("submit", "score", "--", "--model", "/m", "--input", "/m", "--out", "/o"),
    ],
)
def test_no_job_is_sent_to_it(opened: Head, command: tuple[str, ...]) -> None:
    options = command[: command.index("--")] if "--" in command else command
    done = opened.derm_ray(*options, "--address", f"http://127.0.0.1:{DASHBOARD}", *command[len(options) :])
    assert done.returncode == 2, done
    assert f"reaches {opened.machine.address} can run code on it. {FIX}" in done.stderr
    jobs = json.loads(opened.machine.curl(f"http://127.0.0.1:{DASHBOARD}/api/jobs/")[1])
    assert jobs == []  # nor have the commands above begun to join


def test_who_says_that_it_will_do_is_let_through(
    opened: Head, commands: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    allowed = {"DERM_RAY_INSECURE_CLUSTER": "1"}
    command, *arguments = commands["score"]
    jobs = f"http://127.0.0.1:{DASHBOARD}"
    done = opened.derm_ray("submit", command, "--wait", "--address", jobs, "--", *arguments, **allowed)
    assert done.returncode == 0, done.stdout + done.stderr  # the job, too, has joined an open Ray
    assert json.loads((tmp_path / "out/_SUCCESS.json").read_text())["scored"] == 60
    wrong = opened.derm_ray("jobs", "list", "--address", jobs, DERM_RAY_INSECURE_CLUSTER="yes")
    assert (wrong.returncode, wrong.stderr) == (2, "error: DERM_RAY_INSECURE_CLUSTER=yes: set it to 1, or unset it.\n")


def test_ray_s_client_is_no_way_in(opened: Head, commands: dict[str, tuple[str, ...]]) -> None:
    done = opened.derm_ray(*commands["score"], "--address", "ray://127.0.0.1:10001")
    assert done.returncode == 2
    assert "error: ray://127.0.0.1:10001: Ray's client is not supported." in done.stderr


LOOPBACK = """
import ray, sys
from ray.cluster_utils import Cluster
from derm_ray.runtime import ray_session
cluster = Cluster(initialize_head=True, head_node_args={"node_ip_address": "127.0.0.1", "num_cpus": 1, "include_dashboard": False})
with ray_session(cluster.address) as session:
    print("joined", ray.cluster_resources()["CPU"], {node["NodeManagerAddress"] for node in ray.nodes()})
cluster.shutdown()
"""


def test_one_on_loopback_alone_is_joined() -> None:
    with wire() as (machine, _):
        environment = {
            "RAY_AUTH_MODE": "disabled", "DERM_RAY_INSECURE_CLUSTER": "0", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }  # fmt: skip
        done = machine.run(sys.executable, "-c", LOOPBACK, **environment)
        assert done.stdout == "joined 1.0 {'127.0.0.1'}\n", done.stderr


OWN = """
import ray, sys
from derm_ray.runtime import ray_session
with ray_session(num_cpus=1, local=True):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


def test_a_command_s_own_ray_is_guarded_or_refused(tmp_path: Path) -> None:
    with wire() as (machine, stranger):
        machine.run("ip", "route", "add", "default", "via", stranger.address)  # else Ray sees loopback alone
        environment = {"HOME": str(tmp_path), "DERM_RAY_INSECURE_CLUSTER": "0"}
        disabled = machine.run(sys.executable, "-c", OWN, RAY_AUTH_MODE="disabled", **environment)
        assert f"reaches {machine.address} can run code on it. {FIX}" in disabled.stderr

        unset = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        with subprocess.Popen(
            machine.command(sys.executable, "-c", OWN), env=unset | environment, cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            gcs = process.stdout.readline().strip()
            assert gcs.startswith(machine.address)
            calls = [(gcs, f"/{method}", "") for method in METHODS["GCS"]]
            asked = stranger.run(sys.executable, "-c", ASK, json.dumps(calls))
            process.communicate("")
        assert json.loads(asked.stdout) == ["UNAUTHENTICATED"] * len(calls)
        assert (tmp_path / ".ray" / "auth_token").exists()
