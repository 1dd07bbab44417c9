"""Every use of Ray's private interfaces, each with its reason.

``tests/unit/test_ray_internals.py`` fails when Ray changes one. Ray is imported within the functions, since most
commands start without it.
"""

import copy
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Log every upload and every closed connection of a jobs client; Ray has no option for that."""


def submission_id() -> str | None:
    """Return the id of the Ray Job whose driver this process is. Ray passes it on only in this variable."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    config = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    found: str | None = config.get("metadata", {}).get("job_submission_id")
    return found


def container_cpus() -> float:
    """Return the CPUs of this machine or its container. A local Ray has to get the number that Ray itself counts."""
    from ray._private.utils import get_num_cpus

    return float(get_num_cpus(override_docker_cpu_warning=True))


def available_memory() -> int:
    """Return free memory in bytes as Ray sees it. Ray refuses and kills by this number, which knows cgroup limits."""
    from ray._private.utils import estimate_available_memory

    return int(estimate_available_memory())


def own_processes() -> "list[subprocess.Popen[bytes]]":
    """Return the processes of the Ray that this process started. Ray's shutdown leaves their children running."""
    import ray

    node = ray._private.worker._global_node
    return [info.process for infos in (node.all_processes if node else {}).values() for info in infos]


def forget_token() -> None:
    """Let Ray read its token again. It caches the first one for the life of the process."""
    import ray

    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def alive_nodes(channel: Any, timeout_s: float) -> list[str]:
    """Return the addresses of a cluster's live nodes. Ray's own clients always send a token, this call sends none.

    Args:
        channel: gRPC channel to the head.
        timeout_s: for the answer.

    Raises:
        grpc.RpcError: it is refused, or nobody answers.
    """
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import GetAllNodeAddressAndLivenessRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    reply = NodeInfoGcsServiceStub(channel).GetAllNodeAddressAndLiveness(
        GetAllNodeAddressAndLivenessRequest(), timeout=timeout_s, wait_for_ready=True
    )
    return [node.node_manager_address for node in reply.node_info_list if node.state == GcsNodeInfo.ALIVE]


def load_tls_files() -> tuple[bytes, bytes, bytes]:
    """Return certificate chain, key and authority. A call to the head has to use the files that Ray itself loads.

    Raises:
        RuntimeError, OSError: a variable or file is missing.
    """
    from ray._common.tls_utils import load_certs_from_env

    chain, key, authority = load_certs_from_env()
    return chain, key, authority


def autoscaler_is_v2() -> bool:
    """Return whether the joined cluster runs version 2 of the autoscaler. No public interface reports it."""
    import ray

    namespace = ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE.encode()
    value = _gcs().internal_kv_get(ray._raylet.GCS_AUTOSCALER_V2_ENABLED_KEY.encode(), namespace=namespace)
    return bool(value == b"1")


def autoscaler_node_types() -> dict[str, str]:
    """Return node -> type from the report of version 1 of the autoscaler. No public interface reports it."""
    report = json.loads(_gcs().internal_kv_get(b"__autoscaling_status", None) or b"{}")
    return (report.get("autoscaler_report") or {}).get("node_type_mapping") or {}


def infeasible_requests() -> list[str]:
    """Return the groups that version 2 of the autoscaler cannot place. No public interface reports it.

    Each text begins with the group's id in hex.
    """
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    status = GetClusterStatusReply.FromString(_gcs().get_cluster_status(timeout_s=10))
    return [request.details for request in status.autoscaling_state.infeasible_gang_resource_requests]


def _gcs() -> Any:
    import ray

    return ray._private.worker.global_worker.gcs_client


def find_launcher_problem(config: Mapping[str, Any]) -> str:
    """Return what ``ray up`` would refuse in a cluster file, or an empty text. The command itself asks the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it prints its assumptions
            validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # several types, click's among them
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return ""


def runtime_env_fields() -> frozenset[str]:
    """Return the fields that users may give in a runtime environment. ``RuntimeEnv`` itself accepts any."""
    from ray.runtime_env import RuntimeEnv

    return frozenset(name for name in RuntimeEnv.known_fields if not name.startswith("_"))


def jobs_client(address: str, timeout_s: float, proxies: Mapping[str, str]) -> Any:
    """Return a ``JobSubmissionClient`` with a time limit and explicit proxies. Ray's own waits for ever.

    Args:
        address: URL of the jobs server.
        timeout_s: for each answer.
        proxies: as the library requests takes them.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=timeout_s, proxies=proxies, **options)

    return Client(address)


def torch_backend() -> type[Any]:
    """Return the class by which Ray Train sets up torch's process group. No public hook runs before it."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend  # type: ignore[no-any-return]


def worker_start_error() -> type[Exception]:
    """Return the error on which Ray Train starts its workers again. It has no public name."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError

    return WorkerGroupStartupFailedError  # type: ignore[no-any-return]


def worker_silent_error() -> type[Exception]:
    """Return the error of a training worker that did not answer. It has no public name."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    return WorkerHealthCheckTimeoutError  # type: ignore[no-any-return]


def serve_http_options() -> Any:
    """Return host, port and more of the running Serve. ``serve.status()`` does not hold them."""
    from ray import serve

    return serve.context._get_global_client().http_config


def deploy_serve_config(config: Any) -> None:
    """Deploy a ``ServeDeploySchema``. The public ways take a file, or go through the dashboard."""
    from ray import serve

    serve.context._get_global_client().deploy_apps(config)
