"""Hand-written data-parallel training, without Ray; run by torchrun, one process a worker.

``torchrun --nproc-per-node N -m derm_ray.studies.benchmark.plain_training CONFIG MANIFEST WEIGHTS CAM RESULT``
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import torch
from torch import distributed as dist

from derm_ray.data.manifest import read_manifest
from derm_ray.domain import Split, label_set
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import Batch, LabeledPairs, labeled, load_batch, training_order
from derm_ray.training.config import TrainConfig, config_from_json
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.start import make_start

THREADS = 4


def train(config: TrainConfig, manifest_uri: str, weights: str, cam: str) -> list[float]:
    """Train one epoch and return when each of its steps ended, in seconds."""
    torch.set_num_threads(1)
    pairs = labeled(read_manifest(manifest_uri).absolute(), Split.TRAIN, label_set(config.label_set))
    loop = TrainingLoop(config, make_start(config, weights, cam).network, torch.device("cpu"))
    ended: list[float] = []
    steps = len(pairs) // config.global_batch_size
    loop.train_epoch(0, _batches(config, pairs), lambda *_: ended.append(perf_counter()), steps=steps)
    return ended


def _batches(config: TrainConfig, pairs: LabeledPairs) -> Iterator[Batch]:
    """Yield this rank's shares; the next one is decoded while the caller trains on this one."""
    order = training_order(len(pairs), config.global_batch_size, seed=config.seed, epoch=0)

    def load(number: int) -> Batch:
        share = pairs.share(order[number], dist.get_rank(), dist.get_world_size())
        return load_batch(share, config.preprocessing, images, Augmentation(config.policy, config.seed, 0))

    with ThreadPoolExecutor(THREADS) as images, ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(load, 0)
        for number in range(1, len(order) + 1):
            batch = following.result()
            if number < len(order):
                following = ahead.submit(load, number)
            yield batch


def main(config: str, manifest: str, weights: str, cam: str, result: str) -> None:
    """Train, and let the first worker write the times of its steps."""
    dist.init_process_group("gloo")
    ended = train(config_from_json(json.loads(config)), manifest, weights, cam)
    if dist.get_rank() == 0:
        Path(result).write_text(json.dumps(ended))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
