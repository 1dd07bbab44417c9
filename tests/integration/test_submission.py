"""Commands on a real Ray head that asks for a token, from an empty folder."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from derm_ray import __version__
from derm_ray.data.manifest import Manifest, write_manifest
from tests.conftest import INTERRUPTIBLE, RunCommand, take

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
OTHER = "9.9.9"
TOKEN = "f" * 40


def ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return found


@dataclass(frozen=True)
class Head:
    """A Ray head of two CPUs, and what it takes to reach it."""

    jobs: str
    gcs: str
    environment: dict[str, str]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Started where derm_ray lies, as in the image."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text(TOKEN)
    gcs, dashboard, agent = ports(3)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats",
    ]  # fmt: skip
    there = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment)
    started = os.environ | environment | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=started, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + 240
            while not answers(there.jobs):
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield there
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def manifest(pairs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "m.parquet")
    write_manifest(take(pairs.absolute(), 60), uri)
    return uri


@pytest.fixture(scope="module")
def other_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of derm_ray that calls itself another version."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(ROOT / "derm_ray", folder / "derm_ray", ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "derm_ray/__init__.py"
    source.write_text(source.read_text().replace(f'"{__version__}"', f'"{OTHER}"'))
    return folder


Cluster = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cluster(head: Head, derm_ray: RunCommand) -> Cluster:
    """Run ``derm-ray COMMAND --address HEAD ARGUMENTS`` in an empty folder, with the token."""

    def run(*command: str, then: tuple[str, ...] = (), **environment: str) -> "subprocess.CompletedProcess[str]":
        arguments = (*command, "--address", head.jobs, *(("--", *then) if then else ()))
        return derm_ray(*arguments, **(head.environment | environment))

    return run


def status(cluster: Cluster, job: str) -> str:
    return str(json.loads(cluster("jobs", "status", job, "--json").stdout)["status"])


def test_a_submitted_command_runs_once(cluster: Cluster, bundle_uri: str, manifest: str, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    then = ("--model", bundle_uri, "--input", manifest, "--out", str(out), "--engine", "torch")
    done = cluster("submit", "score", "--wait", then=then)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "_SUCCESS.json").read_text())["scored"] == 60
    job = re.search(r"job (score-[0-9a-f]{12}): SUCCEEDED", done.stdout)
    assert job is not None, done.stdout
    (invocation,) = json.loads((out / "_report.json").read_text())["invocations"]
    assert invocation["submission_id"] == job[1]

    again = cluster("submit", "score", "--json", then=then)
    assert json.loads(again.stdout) == {"job": job[1], "status": "SUCCEEDED", "exit_code": 0, "new": False}
    assert "already ran" in cluster("submit", "score", then=then).stdout
    listed = json.loads(cluster("jobs", "list", "--json").stdout)["jobs"]
    assert [entry["id"] for entry in listed if entry["id"].startswith("score")] == [job[1]]
    assert listed[0]["seconds"] > 0
    assert f"{job[1]}  SUCCEEDED" in cluster("jobs", "list").stdout
    assert cluster("jobs", "logs", job[1]).stdout in done.stdout
    assert "already ended, SUCCEEDED" in cluster("jobs", "stop", job[1]).stdout

    cluster("submit", "score", "--id", "nightly", "--wait", then=(*then, "--per-input-predictions", "--engine", "x"))
    taken = cluster("submit", "score", "--id", "nightly", then=then)
    assert taken.returncode == 2
    assert "job nightly: exists and runs another command" in taken.stderr


def test_a_failed_job_tells_its_exit_code_and_is_tried_again(cluster: Cluster, bundle_uri: str, manifest: str) -> None:
    then = ("--model", bundle_uri, "--manifest", manifest, "--out", "/tmp/never", "--engine", "tensorrt")
    for ending in ("", ".2"):
        failed = cluster("submit", "evaluate", "--id", "broken", "--wait", then=then)
        assert failed.returncode == 2
        assert "error: unknown engine 'tensorrt'" in failed.stdout
        assert f"job broken{ending}: FAILED" in failed.stdout
        assert "Traceback" not in failed.stdout + failed.stderr
    assert "FAILED, exit code 2" in cluster("jobs", "status", "broken").stdout


def test_two_submitters_at_once_make_one_job(cluster: Cluster, bundle_uri: str, manifest: str) -> None:
    then = ("--model", bundle_uri, "--manifest", manifest, "--out", "/tmp/never", "--engine", "none")
    answers: list[dict[str, object]] = []

    def submit() -> None:
        answers.append(json.loads(cluster("submit", "evaluate", "--id", "race", "--json", then=then).stdout))

    submitters = [threading.Thread(target=submit) for _ in range(3)]
    for submitter in submitters:
        submitter.start()
    for submitter in submitters:
        submitter.join()
    assert [answer["job"] for answer in answers] == ["race"] * 3
    assert sorted(bool(answer["new"]) for answer in answers) == [False, False, True]


def test_ctrl_c_leaves_the_job_and_a_stopped_one_resumes(
    head: Head, cluster: Cluster, manifest: str, tmp_path: Path
) -> None:
    long = (
        "--manifest", manifest, "--out", str(tmp_path / "runs"), "--name", "long", "--preset", "debug",
        "--set", "epochs=3000",
    )  # fmt: skip
    command = [*INTERRUPTIBLE, "submit", "train", "--id", "long", "--wait", "--address", head.jobs, "--", *long]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | head.environment,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
    ) as waiting:
        assert waiting.stdout is not None
        while "epoch 2/3000" not in (line := waiting.stdout.readline()):
            assert line, waiting.communicate()
        waiting.send_signal(signal.SIGINT)
        assert "job long is still running. To stop it: derm-ray jobs stop long" in waiting.communicate(timeout=60)[1]
        assert waiting.returncode == 130
    assert status(cluster, "long") == "RUNNING"
    following = cluster("submit", "train", "--id", "long", then=long)
    assert "job long: RUNNING" in following.stdout
    assert "job long: STOPPED" in cluster("jobs", "stop", "long").stdout
    assert status(cluster, "long") == "STOPPED"

    resumed = cluster("submit", "train", "--id", "long", then=long)
    assert "job long.2: " in resumed.stdout
    deadline = time.monotonic() + 180
    while "resuming after epoch" not in (log := cluster("jobs", "logs", "long.2").stdout):
        assert time.monotonic() < deadline, log
    assert cluster("jobs", "stop", "long.2").returncode == 0


def test_the_token_and_the_job_have_to_be_known(head: Head, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("0" * 40)
    for environment, message in (
        ({"RAY_AUTH_MODE": "disabled"}, "requires a token"),
        ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, "requires a token"),
        ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}, "refuses this token"),
    ):
        done = cluster("jobs", "list", **environment)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {head.jobs}: the cluster {message}"), done.stderr
        assert "RAY_AUTH_TOKEN_PATH" in done.stderr
    for command in (("status",), ("logs",), ("logs", "--follow"), ("stop",)):
        done = cluster("jobs", *command, "nobody", RAY_ADDRESS="http://127.0.0.1:9")
        assert done.returncode == 2
        assert done.stderr.startswith("error: job nobody: not on the cluster"), done.stderr


def test_another_version_is_refused_unless_it_comes_along(
    cluster: Cluster, other_code: Path, bundle_uri: str, manifest: str, tmp_path: Path
) -> None:
    then = ("--model", bundle_uri, "--manifest", manifest, "--out", str(tmp_path / "e"), "--engine", "torch")
    refused = cluster("submit", "evaluate", "--wait", then=then, PYTHONPATH=str(other_code))
    assert refused.returncode == 2
    assert f"error: the cluster runs derm_ray {__version__}, the job was submitted for {OTHER}" in refused.stdout

    wheel = tmp_path / f"derm_ray-{OTHER}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in sorted(other_code.rglob("*")):
            if "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(other_code))
    done = cluster("submit", "evaluate", "--wait", "--package", wheel.name, then=then)
    assert done.returncode == 0, done.stdout + done.stderr
    # The version a worker writes, not the driver.
    assert json.loads((tmp_path / "e/evaluation.json").read_text())["provenance"]["derm_ray_version"] == OTHER


def test_what_the_cluster_can_never_run_is_refused(cluster: Cluster, manifest: str, tmp_path: Path) -> None:
    then = ("--manifest", manifest, "--out", str(tmp_path), "--name", "big", "--preset", "debug", "--workers", "5")
    done = cluster("submit", "train", "--wait", then=then)
    assert done.returncode == 2
    assert "error: the cluster is too small and does not grow: 6 CPUs, it has 2" in done.stdout


def test_evaluate_joins_a_cluster(
    head: Head, derm_ray: RunCommand, bundle_uri: str, manifest: str, tmp_path: Path
) -> None:
    evaluate = ("evaluate", "--model", bundle_uri, "--manifest", manifest, "--engine", "torch", "--json")
    here = derm_ray(*evaluate, "--out", "here")
    there = derm_ray(*evaluate, "--out", "there", "--address", head.gcs, "--cpus", "2", **head.environment)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["predictions"] == json.loads(here.stdout)["predictions"]
    refused = derm_ray(
        *evaluate[:2], str(tmp_path), *evaluate[3:], "--out", "e", "--address", head.gcs, **head.environment
    )
    assert refused.returncode == 2
    assert "no bundle.json" in refused.stderr
    assert "Traceback" not in refused.stderr


OTHERS = """
import ray, sys
from ray import serve
ray.init(sys.argv[1], log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
@serve.deployment(ray_actor_options={"num_cpus": 0})
def hello(request): return "hello"
serve.run(hello.bind(), name="other", route_prefix="/other")
"""


def test_serve_joins_a_cluster_and_leaves_what_others_serve(
    head: Head, bundle_uri: str, free_port: int, tmp_path: Path
) -> None:
    environment = os.environ | head.environment
    others = [sys.executable, "-c", OTHERS, head.gcs, str(free_port)]
    subprocess.run(others, env=environment, check=True, timeout=180, capture_output=True, cwd=tmp_path)
    url = f"http://127.0.0.1:{free_port}"
    command = [str(BIN / "derm-ray"), "serve", "--model", bundle_uri, "--engine", "torch", "--address", head.gcs]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert f"listening on {url}" in server.stdout.readline()
        assert httpx.get(f"{url}/healthz", timeout=120).status_code == 200
        second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
        assert second.returncode == 1
        assert "error: this cluster serves a model already" in second.stderr
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=180) == 0
    assert httpx.get(f"{url}/healthz").status_code == 404
    assert httpx.get(f"{url}/other").text == "hello"
