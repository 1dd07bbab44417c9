"""A bulk run of many rows that share a few small images, with an engine that does nothing: what the frame costs.

``python -m tests.scale ROWS FOLDER`` prints one JSON line; the same command resumes.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from derm_ray.bundle import load_bundle, seal_bundle
from derm_ray.data.inputs import ManifestInput
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.models.zoo import NetworkConfig, build_network
from derm_ray.runtime import ray_session
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.studies.benchmark.scoring import NoEngine
from derm_ray.vocabulary import PAPER15

SIDE = 32


def prepare(folder: Path, rows: int) -> tuple[str, str]:
    """Write a model, eight images and a manifest; return the URIs of model and manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    manifest = folder / f"{rows}.csv"
    if not manifest.exists():
        with manifest.open("w") as file:
            file.write("lesion_id,clinical_uri,dermoscopy_uri\n")
            file.writelines(f"L{i:08d},{i % 4}.jpg,{4 + i % 4}.jpg\n" for i in range(rows))
    if not (folder / "model").exists():
        config = NetworkConfig(trunk="tiny")
        seal_bundle(
            str(folder / "model"),
            network=config,
            label_set=PAPER15,
            preprocessing=Preprocessing(SIDE),
            weights=build_network(config).state_dict(),
            provenance={},
        )
    return str(folder / "model"), str(manifest)


def run(rows: int, folder: Path) -> dict[str, float]:
    """Score ``rows`` rows and return what it took."""
    torch.manual_seed(0)
    model, manifest = prepare(folder, rows)
    load_bundle(model)
    started = time.perf_counter()
    with ray_session(num_cpus=3):
        result = score(
            model,
            ManifestInput(manifest),
            str(folder / f"out{rows}"),
            engine=NoEngine(),
            options=ScoringOptions(replicas=2),
        )
    seconds = time.perf_counter() - started
    return {
        "rows": result.counts.pairs,
        "resumed_parts": result.resumed,
        "seconds": round(seconds, 2),
        "ms_per_pair": round(1000 * seconds / rows, 4),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), Path(sys.argv[2]))))
