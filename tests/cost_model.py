"""What bulk scoring costs at scale: measured per run, shard and pair, and projected to archives and clusters.

``python -m tests.cost_model requests FOLDER`` counts what ``derm-ray score`` asks of an S3 endpoint and carries, at
several archive sizes, as JSON. ``python -m tests.cost_model costs REQUESTS.json SCALE.jsonl`` joins that with lines of
``python -m tests.scale`` to costs per run, shard and pair. ``python -m tests.cost_model project COSTS.json`` turns them
into the table of ``docs/benchmarks/scaling.md``.
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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from derm_ray.observability import format_duration
from derm_ray.scoring.loader import LOADING_THREADS
from derm_ray.scoring.reconcile import READERS
from tests.faults.proxy import FaultProxy, Faults

PUTS_PER_S, GETS_PER_S = 3_500, 5_500
"""What S3 documents for each prefix of a bucket: PUT, COPY, POST and DELETE; GET and HEAD."""
PAGE = 1_000
"""Keys in one answer to LIST."""
METHODS = ("GET", "HEAD", "LIST", "PUT", "DELETE", "POST")
LARGE_ROWS = 20_000
"""Smaller runs hold less than a whole piece of their input in memory."""
RUNS = ((512, 256), (2048, 256), (2048, 64), (4096, 128))
"""Pairs and pairs a shard of the measured runs: not in proportion, so that shards and pairs can be told apart."""


@dataclass(frozen=True)
class Cost:
    """A number that grows with the run: so much at all, for each shard and for each pair."""

    run: float = 0.0
    shard: float = 0.0
    pair: float = 0.0

    def of(self, shards: int, pairs: int) -> float:
        """Return it for a run."""
        return self.run + self.shard * shards + self.pair * pairs


@dataclass(frozen=True)
class Costs:
    """What a run costs.

    Attributes:
        requests: by method; ``LIST`` without those of the output folder.
        folder_lists: listings of the output folder, each of a page per 1,000 parts.
        read_bytes, written_bytes: without the images and the run's copy of its input; of that a shard reads one block.
        image_bytes: of one pair.
        renewal_s: seconds between renewals of the lease, each a LIST and a PUT.
        plan_s, reconcile_s: of the driver.
        dispatch_s: the driver's CPU seconds for one shard, while shards are scored.
        idle_share: of a core, what the driver takes then besides.
        driver_mb: its peak memory.
        start_s: from the plan's end to the first actor at work.
        footer_bytes: of the run's copy of its input, read by each replica once.
    """

    requests: Mapping[str, Cost]
    folder_lists: float
    read_bytes: Cost
    written_bytes: Cost
    image_bytes: float
    renewal_s: float
    plan_s: Cost
    reconcile_s: Cost
    dispatch_s: float
    idle_share: float
    driver_mb: Cost
    start_s: float
    footer_bytes: Cost

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Costs":
        """Read what ``costs`` printed."""

        def read(value: Any) -> Any:
            if not isinstance(value, Mapping):
                return value
            return Cost(**value) if set(value) == {"run", "shard", "pair"} else {k: read(v) for k, v in value.items()}

        return cls(**{field.name: read(values[field.name]) for field in fields(cls)})


@dataclass(frozen=True)
class Fleet:
    """A cluster.

    Attributes:
        nodes: that score.
        pairs_per_s: of one node.
        replicas: on each node.
        mtbf_h: mean hours between failures of one node.
        replace_s: from a node's death until another one scores in its place.
        request_s: mean time of a request to storage.
    """

    nodes: int
    pairs_per_s: float
    replicas: int
    mtbf_h: float
    replace_s: float
    request_s: float


@dataclass(frozen=True)
class Projection:
    """A run on a cluster, calculated.

    Attributes:
        shards: in all.
        plan_s, score_s, reconcile_s: of its phases; ``total_s`` with the start.
        driver_share: of one core, while shards are scored; above 1 the driver is what limits.
        failures: nodes lost while shards are scored.
        repeated: shards begun again because of them.
        failure_share: of the nodes' time that is lost to failures.
        requests: by method, in all.
        gets_per_s, puts_per_s: while shards are scored; GET and HEAD, and PUT and DELETE.
        image_prefixes: among which the archive has to be spread for S3's documented rate.
        driver_mb: its peak memory.
        footer_mb: read by each replica before its first shard.
        folder_pages: LIST requests of one look at the output folder.
    """

    shards: int
    plan_s: float
    score_s: float
    reconcile_s: float
    total_s: float
    driver_share: float
    failures: float
    repeated: float
    failure_share: float
    requests: Mapping[str, float]
    gets_per_s: float
    puts_per_s: float
    image_prefixes: int
    driver_mb: float
    footer_mb: float
    folder_pages: int


def project(costs: Costs, pairs: int, fleet: Fleet, shard_size: int) -> Projection:
    """Calculate a run; nodes are equally fast, fail independently of each other, and are always replaced."""
    shards = math.ceil(pairs / shard_size)
    replica_per_s = min(fleet.pairs_per_s / fleet.replicas, LOADING_THREADS / (2 * fleet.request_s))
    shard_s = shard_size / replica_per_s + fleet.request_s * sum(cost.shard for cost in costs.requests.values())
    waves = math.ceil(shards / (fleet.nodes * fleet.replicas))
    # A node that dies takes the shards of its replicas with it, half-way on average.
    failure_share = (fleet.replace_s + shard_s / 2) / (3600 * fleet.mtbf_h)
    dispatch_s = costs.dispatch_s * shards
    unhindered_s = waves * shard_s * (1 + failure_share)
    score_s = max(unhindered_s, dispatch_s / (1 - costs.idle_share))
    failures = fleet.nodes * score_s / (3600 * fleet.mtbf_h)
    repeated = failures * fleet.replicas
    plan_s = costs.plan_s.of(shards, pairs)
    reconcile_s = max(costs.reconcile_s.of(shards, pairs), shards * fleet.request_s / READERS)
    pages = max(1, math.ceil(shards / PAGE))
    renewals = (plan_s + costs.start_s + score_s + reconcile_s) / costs.renewal_s
    requests = {}
    for method in METHODS:
        cost = costs.requests.get(method, Cost())
        again = repeated * (cost.shard + cost.pair * shard_size / 2)
        requests[method] = cost.of(shards, pairs) + again
    requests["LIST"] += costs.folder_lists * pages + renewals
    requests["PUT"] += renewals

    def per_s(*methods: str) -> float:
        each = [costs.requests.get(method, Cost()) for method in methods]
        return sum(cost.shard * shards + cost.pair * pairs for cost in each) / score_s

    gets = per_s("GET", "HEAD")
    return Projection(
        shards=shards,
        plan_s=plan_s,
        score_s=score_s,
        reconcile_s=reconcile_s,
        total_s=plan_s + costs.start_s + score_s + reconcile_s,
        driver_share=dispatch_s / unhindered_s + costs.idle_share,
        failures=failures,
        repeated=repeated,
        failure_share=failure_share,
        requests=requests,
        gets_per_s=gets,
        puts_per_s=per_s("PUT", "DELETE", "POST"),
        image_prefixes=math.ceil(gets / GETS_PER_S),
        driver_mb=costs.driver_mb.of(shards, pairs),
        footer_mb=costs.footer_bytes.of(shards, pairs) / 1e6,
        folder_pages=pages,
    )


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
    from derm_ray import storage
    from tests.scale import prepare

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
            command = [
                sys.executable,
                "-m",
                "derm_ray",
                "score",
                *arguments,
                "--engine",
                "torch",
                "--shard-size",
                str(shard_size),
            ]
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
    from derm_ray.lease import RENEW_S

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


NODE = {"pairs_per_s": 37.4, "replicas": 8, "replace_s": 300.0, "request_s": 0.03}
"""A node of eight cores, each with a replica at the speed of docs/benchmarks/engines.md (int8, 224 px): assumed, not run."""
CASES = [
    (pairs, nodes, mtbf_h, shard_size)
    for pairs, shard_size in ((10_000_000, 256), (100_000_000, 256), (100_000_000, 2048))
    for nodes in (10, 100, 1000)
    for mtbf_h in ((24.0,) if nodes < 1000 else (24.0, 1000.0))
]


def table(costs: Costs) -> str:
    """Return the cases as a Markdown table."""
    lines = [
        "| pairs | a shard | nodes | MTBF of a node | plan | score | reconcile | in all | driver | nodes lost | shards repeated | GET/s | PUT/s | prefixes |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pairs, nodes, mtbf_h, shard_size in CASES:
        found = project(costs, pairs, Fleet(nodes, mtbf_h=mtbf_h, **NODE), shard_size)
        cells = [
            f"{pairs / 1e6:g} M",
            f"{shard_size:,}",
            f"{nodes:,}",
            f"{mtbf_h:g} h",
            *(format_duration(s) for s in (found.plan_s, found.score_s, found.reconcile_s, found.total_s)),
            f"{found.driver_share:.0%}",
            f"{found.failures:,.1f}",
            f"{found.repeated:,.0f}",
            f"{found.gets_per_s:,.0f}",
            f"{found.puts_per_s:,.1f}",
            f"{found.image_prefixes}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(what: str, *paths: str) -> None:
    if what == "requests":
        print(json.dumps(count_requests(Path(paths[0]))))
    elif what == "costs":
        frames = [json.loads(line) for line in Path(paths[1]).read_text().splitlines()]
        print(json.dumps(costs_of(json.loads(Path(paths[0]).read_text())["runs"], frames), indent=2))
    else:
        print(table(Costs.from_json(json.loads(Path(paths[0]).read_text()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
