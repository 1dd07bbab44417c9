"""What bulk scoring costs at scale, projected to archives and clusters from the costs of measured runs.

``python -m tests.cost_model COSTS.json`` turns what :mod:`tests.measured_costs` printed into the table of
``docs/benchmarks/scaling.md``.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from derm_ray.observability import format_duration
from derm_ray.scoring.loader import LOADING_THREADS
from derm_ray.scoring.reconcile import READERS

GETS_PER_S = 5_500
"""GET and HEAD that S3 documents for each prefix of a bucket."""
PAGE = 1_000
"""Keys in one answer to LIST."""
METHODS = ("GET", "HEAD", "LIST", "PUT", "DELETE", "POST")


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
        """Read what ``tests.measured_costs`` printed."""

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


if __name__ == "__main__":
    print(table(Costs.from_json(json.loads(Path(sys.argv[1]).read_text()))))
