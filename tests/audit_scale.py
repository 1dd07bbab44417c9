"""What the audit takes of many images: ``python -m tests.audit_scale MILK10K IMAGES ROWS``.

Reads, hashes and measures IMAGES photos on a local Ray (MILK10k's, again and again), and prints the rate and the memory
of all processes. Then finds the groups of a manifest of ROWS pairs, a tenth of them duplicates, from hashes drawn at
random, and prints time and memory; the search for neighbors runs for some of these, and its time is extrapolated.
"""

import resource
import sys
import threading
import time

import numpy as np
import psutil
import pyarrow as pa

from derm_ray.audit.audit import require_libraries
from derm_ray.audit.findings import Images, distinct, duplicate_groups, lesion_codes
from derm_ray.audit.fingerprint import CROPS, HASH_BYTES
from derm_ray.audit.matching import QUERIES, nearest
from derm_ray.audit.running import fingerprint_all
from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.manifest import URI_COLUMNS, Manifest, normalize_schema
from derm_ray.data.summary import summarize
from derm_ray.data.validation import validate
from derm_ray.domain import MILK10K
from derm_ray.runtime import machine_cpus, ray_session

EVERY_S = 10


def _memory() -> tuple[float, float]:
    """Return MB of this process, and of its Ray's workers together, without what they share."""
    mine = psutil.Process()
    used = 0
    for process in mine.children(recursive=True):
        try:
            used += process.memory_full_info().uss if "ray::" in " ".join(process.cmdline()) else 0
        except psutil.Error:
            continue
    return mine.memory_info().rss / 1e6, used / 1e6


def hash_many(milk10k: str, count: int) -> None:
    """Print rate and memory of hashing."""
    manifest = import_milk10k(milk10k, MILK10K, "m.parquet").manifest.absolute()
    given = [uri for name in URI_COLUMNS for uri in manifest.column(name) if uri]
    uris = (given * (count // len(given) + 1))[:count]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_S):
            driver, workers = _memory()
            print(
                f"  {time.perf_counter() - started:5.0f} s: driver {driver:,.0f} MB, workers {workers:,.0f} MB",
                flush=True,
            )

    with ray_session():
        started = time.perf_counter()
        watching = threading.Thread(target=watch)
        watching.start()
        found = fingerprint_all(uris)
        seconds = time.perf_counter() - started
        done.set()
        watching.join()
    assert not found.errors
    print(f"{count:,} images in {seconds:.0f} s, {count / seconds:.0f} images/s on {machine_cpus()} CPUs")


def group_many(rows: int) -> None:
    """Print time and memory of what runs in the driver, and of the search."""
    generator = np.random.default_rng(0)
    manifest = _rows(rows)
    started = time.perf_counter()
    validate(manifest, leaks=True)
    summarize(manifest)
    images = Images.of(manifest)
    count = len(images.uris)
    hashes = generator.integers(0, 256, (count, len(CROPS), HASH_BYTES), dtype=np.uint8)
    digests = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    copies = generator.permutation(count)[: count // 20].reshape(2, -1)
    digests[copies[0]] = digests[copies[1]]
    chosen, place = distinct(digests, np.ones(count, bool))
    lesion_codes(manifest, images, place, len(chosen))
    near = generator.permutation(len(chosen))[: len(chosen) // 20].reshape(2, -1)
    groups = duplicate_groups(manifest, images, place, near[0], near[1], None)
    driver_s = time.perf_counter() - started
    started = time.perf_counter()
    nearest(hashes, 0, QUERIES)
    search_s = (time.perf_counter() - started) * count / QUERIES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{rows:,} rows, {count:,} images, {len(groups):,} groups: {driver_s:.0f} s in the driver, search "
        f"{search_s:,.0f} s of one CPU (from {QUERIES:,} images), peak {peak:,.0f} MB"
    )


def _rows(rows: int) -> Manifest:
    ids = [f"lesion_{row:07d}" for row in range(rows)]
    columns = {name: pa.array([f"s3://bucket/images/{one}/{name}.jpg" for one in ids]) for name in URI_COLUMNS}
    names = MILK10K.class_names
    table = pa.table(
        {
            "lesion_id": ids,
            **columns,
            "diagnosis": [names[row % len(names)] for row in range(rows)],
            "split": [("train", "val", "test")[row % 3] for row in range(rows)],
        }
    )
    return normalize_schema(table, "s3://bucket/m.parquet")


if __name__ == "__main__":
    require_libraries()
    if images := int(sys.argv[2]):
        hash_many(sys.argv[1], images)
    if rows := int(sys.argv[3]):
        group_many(rows)
