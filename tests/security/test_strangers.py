"""Whoever reaches a guarded cluster from another machine, and has no token, gets nothing (CVE-2023-48022)."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.security.network import AGENT, CLIENT, EVERYWHERE, GCS, METRICS, TOKEN, Head

pytestmark = pytest.mark.ray

BEARER = ("-H", f"Authorization: Bearer {TOKEN}")
WRONG = ("-H", f"Authorization: Bearer {'0' * 40}")


def submit(head: Head, entrypoint: str, *headers: str) -> int:
    """POST a job from another machine; return the status."""
    body = json.dumps({"entrypoint": entrypoint})
    status, _ = head.stranger.curl(
        f"{head.jobs}/api/jobs/", "-X", "POST", "-H", "Content-Type: application/json", "-d", body, *headers
    )
    return status


def test_a_job_without_the_token_does_not_run(guarded: Head, tmp_path: Path) -> None:
    asked = [
        (submit(guarded, f"touch {tmp_path}/none"), 401),
        (submit(guarded, f"touch {tmp_path}/wrong", *WRONG), 403),
        (submit(guarded, f"touch {tmp_path}/cookie", "-H", "Cookie: ray-authentication-token=x"), 403),
        (submit(guarded, f"touch {tmp_path}/ours", *BEARER), 200),
    ]
    assert [status for status, _ in asked] == [wanted for _, wanted in asked]
    deadline = time.monotonic() + 120
    while not (tmp_path / "ours").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [file.name for file in tmp_path.iterdir()] == ["ours"]
    status, body = guarded.stranger.curl(f"{guarded.jobs}/api/jobs/", *BEARER)
    assert status == 200
    assert [job["entrypoint"] for job in json.loads(body) if "touch" in job["entrypoint"]] == [f"touch {tmp_path}/ours"]


def test_the_command_says_so(guarded: Head, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("0" * 40)
    score = ("--model", "s3://b/m", "--input", "s3://b/i", "--out", "s3://b/o")
    submit_score = ("submit", "score", "--address", guarded.jobs, "--", *score)
    without = guarded.stranger.derm_ray(*submit_score, RAY_AUTH_MODE="disabled")
    assert without.returncode == 2, without
    assert without.stderr.startswith(f"error: {guarded.jobs}: the cluster requires a token"), without.stderr
    wrong = guarded.stranger.derm_ray(*submit_score, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert wrong.returncode == 2, wrong
    assert wrong.stderr.startswith(f"error: {guarded.jobs}: the cluster refuses this token"), wrong.stderr


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/version"),
        ("GET", "/nodes?view=summary"),
        ("GET", "/api/v0/actors"),
        ("GET", "/api/v0/logs?node_id=x"),
        ("GET", "/api/v0/logs/file?node_id=x&filename=gcs_server.out"),
        ("GET", "/api/serve/applications/"),
        ("PUT", "/api/serve/applications/"),
        ("DELETE", "/api/serve/applications/"),
        ("PUT", "/api/packages/gcs/_ray_pkg_0.zip"),
        ("POST", "/api/jobs/x/stop"),
        ("GET", "/worker/traceback?pid=1"),
    ],
)
def test_the_dashboard_tells_and_does_nothing(guarded: Head, method: str, path: str) -> None:
    assert guarded.stranger.curl(guarded.jobs + path, "-X", method)[0] == 401
    assert guarded.stranger.curl(guarded.jobs + path, "-X", method, *WRONG)[0] == 403


def test_the_agent_and_loopback_ask_as_well(guarded: Head) -> None:
    for machine, url in (
        (guarded.stranger, f"http://{guarded.machine.address}:{AGENT}/api/jobs/"),
        (guarded.machine, f"http://127.0.0.1:{AGENT}/api/jobs/"),
        (guarded.machine, "http://127.0.0.1:8265/api/jobs/"),
    ):
        assert machine.curl(url)[0] == 401


def test_what_is_public_says_that_it_is_alive(guarded: Head) -> None:
    agent = f"http://{guarded.machine.address}:{AGENT}"
    for url in (
        f"{guarded.jobs}/api/gcs_healthz",
        f"{guarded.jobs}/api/authentication_mode",
        f"{agent}/api/healthz",
        f"{agent}/api/local_raylet_healthz",
    ):
        status, body = guarded.stranger.curl(url)
        assert (status, len(body) < 100) == (200, True), (url, body)
    assert guarded.stranger.curl(f"http://{guarded.machine.address}:{METRICS}/metrics")[0] == 200


ASK = """
import grpc, json, sys
told = []
for address, method, bearer in json.loads(sys.argv[1]):
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        metadata = [("authorization", bearer)] if bearer else []
        try:
            channel.unary_unary(method)(b"", timeout=20, metadata=metadata, wait_for_ready=True)
            told.append("OK")
        except grpc.RpcError as error:
            told.append(error.code().name)
print(json.dumps(told))
"""
METHODS = {
    "GCS": ("ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "ray.rpc.JobInfoGcsService/GetAllJobInfo"),
    "raylet": ("ray.rpc.NodeManagerService/GetNodeStats", "ray.rpc.ObjectManagerService/FreeObjects"),
    "agent": ("opentelemetry.proto.collector.metrics.v1.MetricsService/Export",),
    "Ray client server": ("ray.rpc.RayletDriver/ClusterInfo", "ray.rpc.RayletDriver/KvExists"),
    "worker": ("ray.rpc.CoreWorkerService/GetCoreWorkerStats",),
}
"""Of each process that speaks gRPC."""


def test_no_process_answers_grpc_without_the_token(guarded: Head) -> None:
    fixed = {GCS, CLIENT, AGENT, METRICS}
    found = [one for one in guarded.machine.listeners() if one.role in METHODS]
    assert {(one.role, one.port) for one in found} >= {("GCS", GCS), ("Ray client server", CLIENT)}
    ports = {(one.role, one.port) for one in found if one.role != "agent" or one.port not in fixed}
    asked = [(role, port, method) for role, port in sorted(ports) for method in METHODS[role]]
    for bearer in ("", f"Bearer {'0' * 40}"):
        calls = [(f"{guarded.machine.address}:{port}", f"/{method}", bearer) for _, port, method in asked]
        done = guarded.stranger.run(sys.executable, "-c", ASK, json.dumps(calls))
        answers = dict(zip(asked, json.loads(done.stdout), strict=True))
        assert set(answers.values()) <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}, answers
        # A process has several servers, each of which knows its own methods only.
        for role in {role for role, _ in ports}:
            assert "UNAUTHENTICATED" in {told for (one, _, _), told in answers.items() if one == role}, answers
    ours = [(guarded.gcs, f"/{METHODS['GCS'][0]}", f"Bearer {TOKEN}")]
    assert json.loads(guarded.stranger.run(sys.executable, "-c", ASK, json.dumps(ours)).stdout) == ["OK"]


@pytest.mark.slow
def test_nobody_joins_without_the_token(guarded: Head) -> None:
    code = f"import ray; ray.init({guarded.gcs!r}); print('joined', ray.nodes())"
    done = guarded.machine.run(sys.executable, "-c", code, RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    assert "joined" not in done.stdout
    assert "authenticat" in done.stderr.lower(), done.stderr[-2000:]


@pytest.mark.slow
def test_no_endpoint_without_tokens_on_a_guarded_cluster(guarded: Head, bundle_uri: str) -> None:
    serve = ("serve", "--model", bundle_uri, "--engine", "torch", "--address", guarded.gcs)
    done = guarded.derm_ray(*serve, "--host", EVERYWHERE)
    assert done.returncode == 2, done
    assert "error: --host 0.0.0.0 can be reached from other machines, and there are no tokens" in done.stderr
    assert not [one for one in guarded.machine.listeners() if one.role == "Serve proxy"]
