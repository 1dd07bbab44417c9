"""Each private interface of Ray still is what derm_ray takes it for. A failure here means: adapt ``ray_internals``."""

import http.server
import inspect
import json
import logging
import os
import re
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import psutil
import pytest
import ray
import yaml

from derm_ray import ray_internals

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"ray(\.\w+)*\._[a-z]|\._get_global_client|ray\.core\.generated|_TorchBackend|known_fields")


def test_no_other_module_uses_private_interfaces() -> None:
    allowed = ROOT / "derm_ray" / "ray_internals.py"
    using = [path for path in sorted((ROOT / "derm_ray").rglob("*.py")) if PRIVATE.search(path.read_text())]
    assert using == [allowed]


def test_every_function_gives_its_reason() -> None:
    functions = [one for _, one in inspect.getmembers(ray_internals, inspect.isfunction)]
    ours = [one for one in functions if one.__module__ == ray_internals.__name__ and one.__name__[0] != "_"]
    assert len(ours) > 15
    for one in ours:
        assert len((one.__doc__ or "").partition("\n")[0].split(". ")) > 1, one.__name__


def test_a_job_knows_its_submission_id(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker
    from ray.dashboard.modules.job import common, job_supervisor

    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert ray_internals.submission_id() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "nightly"}}))
    assert ray_internals.submission_id() == "nightly"
    assert common.JOB_ID_METADATA_KEY == "job_submission_id"
    assert "RAY_JOB_CONFIG_JSON_ENV_VAR" in inspect.getsource(job_supervisor), "what sets it for a driver"
    assert "RAY_JOB_CONFIG_JSON_ENV_VAR" in inspect.getsource(worker), "what reads it in a driver"


def test_ray_counts_cpus_and_memory() -> None:
    assert 0 < ray_internals.container_cpus() <= (os.cpu_count() or 1)
    assert 0 < ray_internals.available_memory() <= psutil.virtual_memory().total


def test_a_token_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_internals.forget_token()
    assert not loader.has_token(ignore_auth_mode=True)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5e" * 32)
    ray_internals.forget_token()
    assert loader.has_token(ignore_auth_mode=True)
    monkeypatch.undo()
    ray_internals.forget_token()


def test_nodes_are_asked_for_by_grpc() -> None:
    from ray.core.generated import gcs_service_pb2_grpc
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import GetAllNodeAddressAndLivenessReply

    class Head(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):  # type: ignore[misc]
        def GetAllNodeAddressAndLiveness(self, *_: object) -> object:  # noqa: N802
            nodes = [("10.0.0.1", GcsNodeInfo.ALIVE), ("10.0.0.2", GcsNodeInfo.DEAD)]
            infos = [{"node_manager_address": address, "state": state} for address, state in nodes]
            return GetAllNodeAddressAndLivenessReply(node_info_list=infos)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Head(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert ray_internals.alive_nodes(channel, 30) == ["10.0.0.1"]
    server.stop(None)


def test_tls_files_are_those_of_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for name, text in (("SERVER_CERT", "chain"), ("SERVER_KEY", "key"), ("CA_CERT", "authority")):
        (tmp_path / text).write_text(text)
        monkeypatch.setenv(f"RAY_TLS_{name}", str(tmp_path / text))
    assert ray_internals.load_tls_files() == (b"chain", b"key", b"authority")


@pytest.mark.ray
def test_a_local_ray_has_processes_and_no_autoscaler(ray_local: None) -> None:
    names = {psutil.Process(process.pid).name() for process in ray_internals.own_processes()}
    assert {"gcs_server", "raylet"} <= names
    assert not ray_internals.autoscaler_is_v2()
    deadline = time.monotonic() + 30
    while not (types := ray_internals.autoscaler_node_types()):
        assert time.monotonic() < deadline, "Ray's monitor reports node types"
        time.sleep(0.5)
    assert all(kind == f"node_{node}" for node, kind in types.items()), "as a cluster without an autoscaler does"
    assert ray_internals.infeasible_requests() == []


@pytest.mark.ray
def test_a_request_that_no_node_can_hold_is_infeasible_by_the_id_of_its_group(ray_local: None) -> None:
    from ray.core.generated.autoscaler_pb2 import ClusterResourceState, GetClusterStatusReply

    fields = GetClusterStatusReply().autoscaling_state.DESCRIPTOR.fields_by_name
    assert "details" in fields["infeasible_gang_resource_requests"].message_type.fields_by_name
    group = ray.util.placement_group([{"CPU": 10_000}])
    try:
        client, deadline = ray_internals._gcs(), time.monotonic() + 30
        pending: list[str] = []
        while not any(details.startswith(group.id.hex()) for details in pending):
            assert time.monotonic() < deadline, pending
            time.sleep(0.5)
            state = GetClusterStatusReply.FromString(client.get_cluster_status(timeout_s=10)).cluster_resource_state
            assert isinstance(state, ClusterResourceState)
            pending = [request.details for request in state.pending_gang_resource_requests]
    finally:
        ray.util.remove_placement_group(group)


def test_the_launcher_checks_a_file() -> None:
    config = yaml.safe_load((ROOT / "cluster/launcher/bare.yaml").read_text())
    assert ray_internals.find_launcher_problem(config) == ""
    del config["provider"]["head_ip"]
    assert ray_internals.find_launcher_problem(config).startswith("Please supply a `head_ip`")


def test_a_runtime_environment_has_fields() -> None:
    assert {"env_vars", "working_dir", "py_modules", "pip", "container"} <= ray_internals.runtime_env_fields()
    assert not any(name.startswith("_") for name in ray_internals.runtime_env_fields())


class _Silent(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}).encode())
        else:
            time.sleep(3)

    def log_message(self, *_: object) -> None:
        pass


def test_a_jobs_client_does_not_wait_for_ever() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = ray_internals.jobs_client(f"http://127.0.0.1:{server.server_port}", 0.5, {"no_proxy": "*"})
        begun = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            client.list_jobs()
        assert time.monotonic() - begun < 2.5
        server.shutdown()
    assert all(logging.root.manager.loggerDict.get(name) for name in ray_internals.CHATTY_LOGGERS[:2])


def test_ray_train_has_a_backend_and_errors_that_it_distinguishes() -> None:
    backend = ray_internals.torch_backend()
    assert {"worker_group", "backend_config"} <= inspect.signature(backend.on_start).parameters.keys()
    assert {"worker_group", "backend_config"} <= inspect.signature(backend.on_shutdown).parameters.keys()
    from ray.train.v2._internal.execution.failure_handling import default
    from ray.train.v2._internal.execution.worker_group import worker_group

    assert ray_internals.worker_silent_error().__name__ in inspect.getsource(worker_group), "what raises it"
    assert ray_internals.worker_start_error().__name__ in inspect.getsource(default), "what starts workers again"


def test_serve_deploys_a_config_and_knows_its_address() -> None:
    from ray.serve._private.client import ServeControllerClient
    from ray.serve.context import _get_global_client

    assert isinstance(ServeControllerClient.http_config, property)
    (config,) = list(inspect.signature(ServeControllerClient.deploy_apps).parameters)[1:2]
    assert config == "config"
    assert callable(_get_global_client)
