"""Ratios of times, both sides in one run."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, LesionPair, Modality
from derm_ray.inference.precision import to_device
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.models.heads import CamBilinearHead
from derm_ray.models.pooling import uniform_map
from derm_ray.models.trunks import Trunk
from derm_ray.runtime import machine_cpus, ray_session
from derm_ray.storage import read_bytes
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import Batch, Share, load_batch, training_order
from derm_ray.training.config import TrainConfig, cpu
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.run.driver import train
from tests.conftest import take

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROUNDS = 3
DECODERS = 2
BOUND = 1.10


class Batches(Dataset[Batch]):
    """The same global batches, decoded in a DataLoader's worker processes."""

    def __init__(self, pairs: list[LesionPair], config: TrainConfig, epoch: int) -> None:
        self.pairs, self.config, self.epoch = pairs, config, epoch
        self.order = training_order(len(pairs), config.global_batch_size, seed=config.seed, epoch=epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Batch:
        rows = self.order[index]
        pairs = [self.pairs[i] for i in rows]
        labels = np.array([PAPER15.class_names.index(str(pair.diagnosis)) for pair in pairs])
        augmentation = Augmentation(self.config.policy, self.config.seed, self.epoch)
        with ThreadPoolExecutor(4) as executor:
            share = Share(pairs, rows, np.eye(15, dtype=bool)[labels], rows, len(rows))
            return load_batch(share, self.config.preprocessing, executor, augmentation)


def plain_epoch(pairs: list[LesionPair], config: TrainConfig) -> float:
    """Return the seconds of an epoch behind its first step."""
    torch.set_num_threads(machine_cpus())
    torch.manual_seed(config.seed)
    network = build_network(config.architecture(), freeze=config.freeze, dropout=config.dropout)
    loop = TrainingLoop(config, network, torch.device("cpu"))
    loader: Iterator[Batch] = iter(DataLoader(Batches(pairs, config, 0), batch_size=None, num_workers=DECODERS))
    times: list[float] = []
    loop.train_epoch(0, loader, lambda *_: times.append(time.perf_counter()), steps=len(loader))
    return times[-1] - times[0]


def ray_epoch(manifest: Manifest, config: TrainConfig, out: Path, name: str, weights: str | None) -> float:
    run = train(config, manifest, str(out), name, workers=1, cpus_per_worker=machine_cpus(), init_weights=weights)
    lines = [json.loads(line) for line in read_bytes(f"{run.run_uri}/metrics.jsonl").splitlines()]
    times = [line["elapsed_s"] for line in lines if "step" in line]
    return times[-1] - times[0]


def test_an_epoch_takes_at_most_a_tenth_longer_than_a_plain_loop(
    pairs: Manifest, real_data: object, tmp_path: Path
) -> None:
    config = replace(cpu(), epochs=1)
    few = take(pairs, 340).absolute().with_column("split", ["train"] * 320 + ["val"] * 20)
    chosen = few.pairs()[:320]
    ratios = []
    with ray_session(num_cpus=machine_cpus() + DECODERS):
        for number in range(ROUNDS):
            plain = plain_epoch(chosen, config)
            ray = ray_epoch(few, config, tmp_path, f"run{number}", real_data.weights)  # type: ignore[attr-defined]
            ratios.append(ray / plain)
            print(json.dumps({"plain_s": round(plain, 2), "ray_train_s": round(ray, 2), "ratio": round(ratios[-1], 3)}))
    assert np.isfinite(ratios).all()
    assert statistics.median(ratios) <= BOUND, ratios


def seconds(function: Callable[[], object], repetitions: int = 5) -> float:
    """Return the median time of a call behind the first."""
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def test_cam_bp_costs_little_beside_the_trunk() -> None:
    """At 224 px: the head at most 3% of the trunk, a pair with its CAM network at most 2.1 times one without."""
    torch.manual_seed(0)
    images = [torch.randn(4, 3, 224, 224).contiguous(memory_format=torch.channels_last) for _ in Modality]
    trunk = Trunk("vgg16").eval().to(memory_format=torch.channels_last)
    head = CamBilinearHead(512, 15).eval()
    own = NetworkConfig("triple", "vgg16", "cam_bp", cam=CamConfig("vgg16", 15))
    with_cam = to_device(build_network(own).eval(), torch.device("cpu"))
    without = to_device(build_network(NetworkConfig("triple", "vgg16", "bp")).eval(), torch.device("cpu"))
    with torch.inference_mode():
        features = trunk(images[0]).last_BCHW
        weights = uniform_map(features)
        head_share = seconds(lambda: head(features, weights)) / seconds(lambda: trunk(images[0]))
        pair_ratio = seconds(lambda: with_cam(*images), 3) / seconds(lambda: without(*images), 3)
    assert head_share <= 0.03, f"CAM-BP head / trunk {head_share:.4f}"
    assert pair_ratio <= 2.1, f"pair with its CAM network / without {pair_ratio:.3f}"
