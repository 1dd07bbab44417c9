"""Hand-written bulk scoring, without Ray: threads decode ahead, the engine runs, parts are written.

``python -m derm_ray.studies.benchmark.plain_scoring MODEL MANIFEST OUT ENGINE SHARD_SIZE``
"""

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import read_manifest
from derm_ray.data.preprocessing import LoadedImage, image_from_bytes
from derm_ray.domain import LesionPair, Modality, PredictionKind
from derm_ray.inference.engines.selection import make_engine
from derm_ray.runtime import machine_cpus

BATCH = 32
THREADS = 8

Loading = list[list[Future[LoadedImage]]]


def score(model_uri: str, manifest_uri: str, out: str, engine_name: str, shard_size: int) -> None:
    """Score a manifest of local images into Parquet parts."""
    torch.set_num_threads(machine_cpus())
    bundle = load_bundle(model_uri)
    engine, spec = make_engine(bundle, engine_name, torch.device("cpu")), bundle.preprocessing
    pairs = read_manifest(manifest_uri).pairs()
    Path(out).mkdir(parents=True)
    with ThreadPoolExecutor(THREADS) as threads:

        def load(uri: str, modality: Modality) -> LoadedImage:
            return image_from_bytes(modality, Path(uri).read_bytes(), spec)

        def begin(batch: list[LesionPair]) -> Loading:
            return [[threads.submit(load, str(pair.uri(m)), m) for pair in batch] for m in Modality]

        batches = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
        following, rows = begin(batches[0]), []
        for number, batch in enumerate(batches, 1):
            clinical, dermoscopy = (np.stack([image.result().pixels for image in images]) for images in following)
            following = begin(batches[number]) if number < len(batches) else []
            probabilities = engine.run(clinical, dermoscopy)[PredictionKind.CROSS]
            rows.append(_table(batch, probabilities, bundle.label_set.class_names))
            if number * BATCH % shard_size == 0 or number == len(batches):
                pq.write_table(pa.concat_tables(rows), f"{out}/part-{number:06d}.parquet")
                rows = []


def _table(batch: list[LesionPair], probabilities: np.ndarray, classes: tuple[str, ...]) -> pa.Table:
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    best = [classes[i] for i in probabilities.argmax(1)]
    return pa.table({"pair_id": [pair.pair_id for pair in batch], "diagnosis": best, **columns})


if __name__ == "__main__":
    model, manifest, folder, engine_of_run, size = sys.argv[1:]
    score(model, manifest, folder, engine_of_run, int(size))
