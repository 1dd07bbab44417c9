"""What runs of bulk scoring were measured to cost, for :mod:`tests.cost_model`.

``python -m tests.measured_costs requests FOLDER`` counts what ``derm-ray score`` asks of an S3 endpoint and carries, at
several archive sizes, as JSON. ``python -m tests.measured_costs costs REQUESTS.json SCALE.jsonl`` joins that with lines
of ``python -m tests.scale`` to costs per run, shard and pair.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from derm_ray import storage
from derm_ray.lease import RENEW_S
from tests.cost_model import METHODS, Cost
from tests.faults.proxy import FaultProxy, Faults
from tests.scale import prepare

LARGE_ROWS = 20_000
"""Smaller runs hold less than a whole piece of their input in memory."""
RUNS = ((512, 256), (2048, 256), (2048, 64), (4096, 128))
"""Pairs and pairs a shard of the measured runs: not in proportion, so that shards and pairs can be told apart."""


def fit(runs: Sequence[tuple[int, int]], values: Sequence[float]) -> Cost:
    """Return the cost that comes nearest to what runs of (shards, pairs) were measured at; none of it is negative."""
    from scipy.optimize import nnls

    rows = np.array([(1.0, shards, pairs) for shards, pairs in runs])
    scale = rows.max(0)
    found, _ = nnls(rows / scale, np.array(values, float))
    run, shard, pair = (float(f"{value:.6g}") for value in np.where(found > 1e-9 * max(values), found, 0) / scale)
    return Cost(run, shard, pair)


@contextmanager
def _endpoint() -> Iterator[FaultProxy]:
    """An S3 endpoint behind a proxy that counts."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="archive")
    proxy = FaultProxy(f"http://{host}:{port}", Faults())
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()


def count_requests(folder: Path) -> dict[str, Any]:
    """Score archives of several sizes, and return requests and bytes by method and by what they were for."""
    runs = []
    with _endpoint() as proxy:
        place = "s3://archive"
        for pairs, shard_size in RUNS:
            _, manifest = prepare(folder, pairs)
            for path in [*folder.glob("*.jpg"), *folder.glob("model/*"), Path(manifest)]:
                storage.upload(str(path), storage.join(place, str(path.relative_to(folder))))
            proxy.log.clear()
            proxy.carried.clear()
            out = storage.join(place, f"out{pairs}-{shard_size}")
            arguments = ["--model", f"{place}/model", "--input", f"{place}/{pairs}.csv", "--out", out]
            arguments += ["--engine", "torch", "--shard-size", str(shard_size)]
            command = [sys.executable, "-m", "derm_ray", "score", *arguments]
            environment = os.environ | {"AWS_ENDPOINT_URL": proxy.url, "RAY_AUTH_MODE": "disabled"}
            began = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            seconds = time.perf_counter() - began
            record = storage.read_json(f"{out}/_run/invocations/000001.json")
            runs.append(
                _count(proxy, out, pairs, shard_size) | {"seconds": round(seconds, 1), "renewals": record["renewals"]}
            )
    return {"runs": runs}


def _count(proxy: FaultProxy, out: str, pairs: int, shard_size: int) -> dict[str, Any]:
    folder = "/" + out.split("://", 1)[1]
    requests: dict[str, Counter[str]] = {}
    carried: Counter[str] = Counter()
    for (method, path), count in proxy.log.items():
        what = _purpose(method, path, folder)
        requests.setdefault(what, Counter())[method] += count
        carried[f"{what} {'written' if method in ('PUT', 'POST') else 'read'}"] += proxy.carried[method, path]
    return {
        "pairs": pairs,
        "shards": math.ceil(pairs / shard_size),
        "requests": {what: dict(sorted(counts.items())) for what, counts in sorted(requests.items())},
        "bytes": dict(sorted(carried.items())),
    }


def _purpose(method: str, path: str, folder: str) -> str:
    """Name what a request was for."""
    inside = path.removeprefix(folder).lstrip("/") if path.startswith(folder) else None
    if inside is None:
        return "images" if path.endswith(".jpg") else "model and input"
    if method == "LIST" and not inside:
        return "folder"
    for prefix, name in (
        ("part-", "parts"),
        ("_run/invocations", "lease"),
        ("_run/attempts", "attempts"),
        ("_run/manifest", "copy"),
    ):
        if inside.startswith(prefix):
            return name
    return "run files"


def costs_of(runs: Sequence[Mapping[str, Any]], frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fit costs, as JSON types.

    Args:
        runs: of :func:`count_requests`.
        frames: of :mod:`tests.scale`, with their phases.
    """
    sizes = [(run["shards"], run["pairs"]) for run in runs]

    def total(run: Mapping[str, Any], method: str) -> int:
        counted = sum(
            counts.get(method, 0) for what, counts in run["requests"].items() if (what, method) != ("folder", "LIST")
        )
        return int(counted) - (run["renewals"] if method in ("LIST", "PUT") else 0)

    def moved(run: Mapping[str, Any], way: str) -> int:
        return sum(
            n for name, n in run["bytes"].items() if name.endswith(way) and not name.startswith(("images", "copy"))
        )

    return {
        "requests": {method: vars(fit(sizes, [total(run, method) for run in runs])) for method in METHODS},
        "folder_lists": float(np.mean([run["requests"]["folder"]["LIST"] for run in runs])),
        "read_bytes": vars(fit(sizes, [moved(run, "read") for run in runs])),
        "written_bytes": vars(fit(sizes, [moved(run, "written") for run in runs])),
        "image_bytes": runs[-1]["bytes"]["images read"] / runs[-1]["pairs"],
        "renewal_s": RENEW_S,
        **_frame_costs(frames),
    }


def _frame_costs(frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fit what :mod:`tests.scale` measured; a run that was stopped has no phases and tells its memory only."""
    whole = [frame for frame in frames if "phases" in frame]
    large = [frame for frame in frames if frame["rows"] >= LARGE_ROWS]

    def fitted(frames: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
        return vars(fit([(frame["shards"], frame["rows"]) for frame in frames], [of(frame) for frame in frames]))

    def scoring(frame: Mapping[str, Any], figure: str) -> float:
        return float(frame["phases"]["start"][figure] + frame["phases"]["score"][figure])

    rows = np.array([(frame["shards"], scoring(frame, "seconds")) for frame in whole])
    (dispatch_s, idle_share), *_ = np.linalg.lstsq(
        rows, [scoring(frame, "driver_cpu_s") for frame in whole], rcond=None
    )
    return {
        "plan_s": fitted(whole, lambda frame: frame["phases"]["plan"]["driver_cpu_s"]),
        "reconcile_s": fitted(whole, lambda frame: frame["phases"]["reconcile"]["driver_cpu_s"]),
        "dispatch_s": round(float(dispatch_s), 5),
        "idle_share": round(float(idle_share), 4),
        "driver_mb": fitted(large, lambda frame: frame["driver_peak_mb"]),
        "start_s": round(float(np.mean([frame["phases"]["start"]["seconds"] for frame in whole])), 1),
        "footer_bytes": fitted(whole, lambda frame: frame["footer_bytes"]),
    }


def main(what: str, *paths: str) -> None:
    if what == "requests":
        print(json.dumps(count_requests(Path(paths[0]))))
    else:
        frames = [json.loads(line) for line in Path(paths[1]).read_text().splitlines()]
        print(json.dumps(costs_of(json.loads(Path(paths[0]).read_text())["runs"], frames), indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
