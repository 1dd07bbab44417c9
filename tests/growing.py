"""Work on a cluster that is too small for it: Ray's autoscaler adds nodes, which its fake provider starts on this machine.

``python -m tests.growing train|train-gpu|score-gpu|serve FOLDER MODEL MANIFEST`` prints one JSON line: what the work
asked the autoscaler for, how many nodes of which type it was given, and how it ended.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from ray import serve
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster
from ray.util import get_node_ip_address

from derm_ray.data.inputs import ManifestInput
from derm_ray.data.manifest import read_manifest
from derm_ray.errors import DermRayError
from derm_ray.runtime import ray_session
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.serving import deployment
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.deployment import DEPLOYMENT
from derm_ray.serving.endpoint import endpoint
from derm_ray.storage import read_bytes
from derm_ray.studies.benchmark.scoring import NoEngine
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train
from tests.conftest import unused_port

STORE = {"object_store_memory": 150_000_000}
NODES = {
    FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 1, **STORE}, "node_config": {}, "max_workers": 0},
    "cpu": {"resources": {"CPU": 2, **STORE}, "node_config": {}, "min_workers": 0, "max_workers": 4},
    "gpu": {"resources": {"CPU": 2, "GPU": 2, **STORE}, "node_config": {}, "min_workers": 0, "max_workers": 2},
}


@contextmanager
def growing_cluster(folder: Path) -> Iterator[Cluster]:
    """A head of one CPU whose autoscaler (version 2, as under KubeRay) may add nodes."""
    port = unused_port()
    provider = FakeMultiNodeProvider
    config = {
        "cluster_name": "growing",
        "max_workers": 6,
        "provider": {
            "type": "external",  # Ray's wheel lacks the defaults of its own name for it
            "module": f"{provider.__module__}.{provider.__qualname__}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": f"{get_node_ip_address()}:{port}",
        },
        "available_node_types": NODES,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "idle_timeout_minutes": 10,
        **{name: [] for name in ("setup_commands", "initialization_commands", "cluster_synced_files")},
        **{f"{node}_{what}_commands": [] for node in ("head", "worker") for what in ("setup", "start_ray")},
        "file_mounts": {},
    }
    (folder / "autoscaler.json").write_text(json.dumps(config))
    head_only = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    os.environ |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
    os.environ |= {**head_only, "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}
    head = {
        "num_cpus": 1,
        "gcs_server_port": port,
        "include_dashboard": False,
        "autoscaling_config": str(folder / "autoscaler.json"),
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for name in (*head_only, "RAY_NODE_TYPE_NAME"):
        del os.environ[name]
    try:
        yield cluster
    finally:
        started = psutil.Process().children(recursive=True)  # the provider's nodes outlive the autoscaler
        cluster.shutdown()
        for process in started:
            if process.is_running():
                process.kill()


class Watch:
    """Notes what the autoscaler is asked for, as KubeRay's reads it, until the block ends."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.asked: dict[str, list[Any]] = {"actors": [], "groups": [], "cluster": []}
        self.nodes: Counter[str] = Counter()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            status = get_cluster_status(self._address)
            wanted = status.resource_demands
            kinds = (wanted.ray_task_actor_demand, wanted.placement_group_demand, wanted.cluster_constraint_demand)
            for seen, kind in zip(self.asked.values(), kinds, strict=True):
                for demand in kind:
                    asked = [[dict(each.bundle), each.count] for each in demand.bundles_by_count]
                    if asked and asked not in seen:
                        seen.append(asked)
            nodes = [*status.active_nodes, *status.idle_nodes]
            types = [str(node.ray_node_type_name) for node in nodes]
            self.nodes |= Counter(kind for kind in types if kind != FAKE_HEAD_NODE_TYPE)


def _train(folder: Path, manifest: str, *, gpu: bool) -> str:
    config = make_config("debug", {"epochs": 1})
    cpus = 1 if gpu else 2
    run = train(config, read_manifest(manifest), str(folder), "run", workers=2, cpus_per_worker=cpus, use_gpu=gpu)
    return f"best epoch {run.best_epoch}"


def _score(folder: Path, model: str, manifest: str) -> str:
    options = ScoringOptions(replicas=2, gpus_per_replica=1)
    source, out = ManifestInput(manifest), str(folder / "out")
    return f"{score(model, source, out, engine=NoEngine(), shard_size=10, options=options).counts.scored} scored"


def _serve(model: str, manifest: str, address: str) -> str:
    """Keep one replica so busy that another one is wanted, until that one is there."""
    deployment.UPSCALE_DELAY_S = 1.0
    pair = read_manifest(manifest).absolute().pairs()[0]
    files = {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}
    ended = threading.Event()
    args = ServeArguments(model=model, engine="torch", max_replicas=2, rate=1000)
    with endpoint(args, port=unused_port(), address=address) as served:

        def ask() -> int:
            count = 0
            while not ended.is_set():
                count += httpx.post(f"{served.url}/v1/score", files=files, timeout=60).status_code == 200
            return count

        with ThreadPoolExecutor(16) as callers:
            answered = [callers.submit(ask) for _ in range(16)]
            deadline = time.monotonic() + 120
            try:
                while (running := _replicas()) < 2:
                    assert time.monotonic() < deadline, "no second replica"
                    time.sleep(0.5)
            finally:
                ended.set()
        assert sum(future.result() for future in answered)
    return f"{running} replicas"


def _replicas() -> int:
    app = serve.status().applications["derm_ray"]
    return app.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0)


def main(work: str, place: str, model: str, manifest: str) -> None:
    folder = Path(place)
    with growing_cluster(folder) as cluster:
        address = cluster.address
        works: dict[str, Callable[[], str]] = {
            "train": lambda: _train(folder, manifest, gpu=False),
            "train-gpu": lambda: _train(folder, manifest, gpu=True),
            "score-gpu": lambda: _score(folder, model, manifest),
            "serve": lambda: _serve(model, manifest, address),
        }
        with ray_session(address), Watch(address) as watch:
            try:
                ended = works[work]()
            except DermRayError as error:
                ended = str(error)
    print(json.dumps({"asked": watch.asked, "nodes": watch.nodes, "ended": ended}))


if __name__ == "__main__":
    main(*sys.argv[1:])
