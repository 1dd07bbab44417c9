"""Training on Ray Train, compared with torchrun and with fewer workers."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from derm_ray import storage
from derm_ray.bundle import save_bundle
from derm_ray.data.manifest import write_manifest
from derm_ray.domain import PAPER15
from derm_ray.errors import WorkError
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.trunks import Trunk
from derm_ray.models.weights import load_init_weights
from derm_ray.runtime import ray_session
from derm_ray.studies.benchmark.comparison import Effort, Row, to_row, turns
from derm_ray.studies.benchmark.materials import draw_pairs
from derm_ray.training.config import TrainConfig, cpu
from derm_ray.training.run.data_loading import PREFETCHED_BATCHES
from derm_ray.training.run.driver import train
from derm_ray.training.run.worker import METRICS

SIZE = 224
BATCH = 8
VAL = 2
CPUS = 3
LEFT_OUT = PREFETCHED_BATCHES + CPUS - 1
"""First steps, whose batches were decoded while the run started: as many as one worker loads ahead."""


def data_parallel(effort: Effort) -> list[Row]:
    """Compare Ray Train with torchrun, and two workers with one; one thread each, first steps left out.

    The recipe is Triple-Net with CAM-BP at 224 px on VGG-16 frozen through pool4, of random weights.
    """
    config = replace(cpu(), head="cam_bp", size=SIZE, epochs=1, global_batch_size=BATCH, precision="fp32")
    with TemporaryDirectory() as name, ray_session(num_cpus=CPUS, local=True):
        folder = Path(name)
        weights, cam = _initial(folder, config)
        training = (LEFT_OUT + effort.steps) * BATCH
        drawn = draw_pairs(folder, training + VAL)
        manifest = drawn.with_column("split", ["train"] * training + ["val"] * VAL)
        write_manifest(manifest, manifest.uri)
        numbers = count()

        def on_ray(workers: int) -> float:
            run = train(
                config,
                manifest,
                str(folder / "runs"),
                f"run{next(numbers)}",
                init_weights=weights,
                cam=cam,
                workers=workers,
                cpus_per_worker=1,
            )
            lines = map(json.loads, storage.read_bytes(storage.join(run.run_uri, METRICS)).splitlines())
            return _pairs_per_s([line["elapsed_s"] for line in lines if "step" in line])

        def on_torchrun() -> float:
            return _pairs_per_s(_torchrun(config, manifest.uri, weights, cam, folder / "ended.json"))

        figures = turns((lambda: on_ray(2), on_torchrun, lambda: on_ray(1)), effort.run_repetitions)
    return [
        to_row(
            "train-torchrun",
            "Ray Train / torchrun, 2 workers over gloo, one thread each",
            [(two, other) for two, other, _ in figures],
            unit="pairs/s",
            threshold=0.97,
        ),
        to_row(
            "train-workers",
            "Ray Train, 2 workers / 1 worker, one thread each, same global batch",
            [(two, one) for two, _, one in figures],
            unit="pairs/s",
            threshold=1.7,
        ),
    ]


def _initial(folder: Path, config: TrainConfig) -> tuple[str, str]:
    """Write initial weights of the trunk, and a CAM network that shares its frozen layers."""
    weights, cam = folder / "trunk.safetensors", str(folder / "cam")
    torch.manual_seed(0)
    layers = Trunk("vgg16").features.state_dict(prefix="features.")
    state = {key: value.contiguous() for key, value in layers.items()}
    save_file(state, weights)
    architecture = NetworkConfig("share", "vgg16", "cam", config.classes)
    network = build_network(architecture)
    load_init_weights(network, state, str(weights))
    save_bundle(
        cam,
        network=architecture,
        label_set=PAPER15,
        preprocessing=config.preprocessing,
        weights=network.state_dict(),
        provenance={},
    )
    return str(weights), cam


def _torchrun(config: TrainConfig, manifest: str, weights: str, cam: str, result: Path) -> list[float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = ["-m", "derm_ray.studies.benchmark.plain_training", json.dumps(config.to_json()), manifest, weights, cam]
    done = subprocess.run(  # noqa: S603
        [sys.executable, *launcher, *program, str(result)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise WorkError(f"torchrun failed: {done.stderr.strip()}")
    return [float(value) for value in json.loads(result.read_text())]


def _pairs_per_s(ended: list[float]) -> float:
    return BATCH * (len(ended) - LEFT_OUT) / (ended[-1] - ended[LEFT_OUT - 1])
