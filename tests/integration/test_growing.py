"""What work asks a cluster's autoscaler for, and that it goes on once the nodes are there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from derm_ray.data.manifest import Manifest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
CPU_WORKERS = [[{"CPU": 2.0}, 2]]
GPU_WORKERS = [[{"CPU": 1.0, "GPU": 1.0}, 2]]


@pytest.fixture
def grown(pairs: Manifest, bundle_uri: str, tmp_path: Path) -> "Grown":
    return Grown(tmp_path, bundle_uri, pairs.uri)


class Grown:
    def __init__(self, folder: Path, model: str, manifest: str) -> None:
        self._arguments = [str(folder), model, manifest]

    def __call__(self, work: str) -> dict[str, Any]:
        """Do the work on a cluster of its own that grows."""
        command = [sys.executable, "-m", "tests.growing", work, *self._arguments]
        environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told


def test_training_asks_for_its_workers(grown: Grown) -> None:
    told = grown("train")
    assert told["asked"]["cluster"] == [CPU_WORKERS]
    assert told["asked"]["groups"] == [CPU_WORKERS]
    assert told["nodes"]["cpu"] in (2, 3), "a third one where decoding waits for a CPU"
    assert told["ended"] == "best epoch 1"


def test_training_on_gpus_asks_for_a_gpu_a_worker(grown: Grown) -> None:
    told = grown("train-gpu")
    assert told["asked"]["cluster"] == [GPU_WORKERS]
    assert told["nodes"] == {"gpu": 1}
    assert "ProcessGroupNCCL is only supported with GPUs" in told["ended"], "the workers began; the GPU is none"


def test_bulk_scoring_asks_for_its_replicas(grown: Grown) -> None:
    told = grown("score-gpu")
    assert told["asked"]["groups"] == [GPU_WORKERS]
    assert told["nodes"] == {"gpu": 1}
    assert told["ended"] == "480 scored"


def test_an_endpoint_under_load_asks_for_one_replica_more(grown: Grown) -> None:
    told = grown("serve")
    assert told["asked"] == {"actors": [[[{"CPU": 1.0}, 1]]], "groups": [], "cluster": []}
    assert told["nodes"] == {"cpu": 1}
    assert told["ended"] == "2 replicas"
