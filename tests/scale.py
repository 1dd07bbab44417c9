"""A bulk run of many rows that share a few small images, with an engine that does nothing: what the frame costs.

``python -m tests.scale ROWS FOLDER [SHARD_SIZE]`` prints one JSON line; the same command resumes.
"""

import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from PIL import Image

from derm_ray.bundle import load_bundle, save_bundle
from derm_ray.data.inputs import ManifestInput
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import PAPER15
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.runtime import ray_session
from derm_ray.scoring.ledger import MANIFEST, RUN, SUCCESS
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.scoring.shards import SHARD_SIZE
from derm_ray.studies.benchmark.scoring import NoEngine

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
        save_bundle(
            str(folder / "model"),
            network=config,
            label_set=PAPER15,
            preprocessing=Preprocessing(SIDE),
            weights=build_network(config).state_dict(),
            provenance={},
        )
    return str(folder / "model"), str(manifest)


class Samples:
    """Memory and CPU seconds of this process over time, until the block ends."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self.taken = [self._now()]

    def __enter__(self) -> "Samples":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.taken.append(self._now())

    def _take(self) -> None:
        while not self._ended.wait(0.1):
            self.taken.append(self._now())

    def _now(self) -> tuple[float, float, float]:
        spent = self._process.cpu_times()
        return time.time(), spent.user + spent.system, self._process.memory_info().rss / 2**20

    def between(self, begun: float, ended: float) -> dict[str, float]:
        """Return wall seconds, CPU seconds and the peak of memory between two times."""
        inside = [one for one in self.taken if begun <= one[0] <= ended] or [self.taken[-1]]
        return {
            "seconds": round(ended - begun, 2),
            "driver_cpu_s": round(inside[-1][1] - inside[0][1], 2),
            "driver_peak_mb": round(max(rss for _, _, rss in inside), 1),
        }


def run(rows: int, folder: Path, shard_size: int = SHARD_SIZE) -> dict[str, Any]:
    """Score ``rows`` rows and return what it took, in all and by phase."""
    torch.manual_seed(0)
    model, manifest = prepare(folder, rows)
    load_bundle(model)
    out = folder / (f"out{rows}" if shard_size == SHARD_SIZE else f"out{rows}-{shard_size}")
    with Samples() as samples, ray_session(num_cpus=3):
        begun = time.time()
        result = score(
            model,
            ManifestInput(manifest),
            str(out),
            engine=NoEngine(),
            shard_size=shard_size,
            options=ScoringOptions(replicas=2),
        )
        ended = time.time()
    written = sorted(part.stat().st_mtime for part in out.glob("part-*"))
    planned, sealed = ((out / name).stat().st_mtime for name in (RUN, SUCCESS))
    footer = pq.read_metadata(out / MANIFEST)
    phases = {
        "plan": samples.between(begun, planned),
        "start": samples.between(planned, written[0]),
        "score": samples.between(written[0], written[-1]),
        "reconcile": samples.between(written[-1], sealed),
    }
    return {
        "rows": result.counts.pairs,
        "shards": len(written),
        "resumed_parts": result.resumed,
        "seconds": round(ended - begun, 2),
        "ms_per_pair": round(1000 * (ended - begun) / rows, 4),
        "driver_begins_mb": round(samples.taken[0][2], 1),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "phases": phases if not result.resumed else {},
        "manifest_bytes": (out / MANIFEST).stat().st_size,
        "footer_bytes": footer.serialized_size,
        "success_bytes": (out / SUCCESS).stat().st_size,
        "part_bytes": sum(part.stat().st_size for part in out.glob("part-*")),
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))))
