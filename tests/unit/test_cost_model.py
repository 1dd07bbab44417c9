import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cost_model import Cost, Costs, Fleet, project, table
from tests.measured_costs import costs_of, fit

COSTS = Costs(
    requests={"GET": Cost(10, 2, 2), "PUT": Cost(5, 3, 0), "LIST": Cost(4, 1, 0), "DELETE": Cost(0, 1, 0)},
    folder_lists=6,
    read_bytes=Cost(0, 0, 100),
    written_bytes=Cost(0, 0, 200),
    image_bytes=1e6,
    renewal_s=5,
    plan_s=Cost(1, 0, 1e-5),
    reconcile_s=Cost(0, 1e-3, 1e-5),
    dispatch_s=2e-3,
    idle_share=0.02,
    driver_mb=Cost(500, 0.01, 1e-4),
    start_s=20,
    footer_bytes=Cost(1000, 500, 0),
)
FLEET = Fleet(nodes=10, pairs_per_s=100, replicas=4, mtbf_h=10, replace_s=300, request_s=0.001)
SHARD_S = 250 / 25 + 0.001 * 7
LOST = (300 + SHARD_S / 2) / 36_000


def test_a_run_is_calculated_as_by_hand() -> None:
    """1,000,000 pairs in shards of 250: 4,000 shards of 10 s and 7 requests on 40 replicas are 100 waves."""
    found = project(COSTS, 1_000_000, FLEET, 250)
    assert found.shards == 4000
    assert found.failure_share == pytest.approx(LOST)
    assert found.score_s == pytest.approx(100 * SHARD_S * (1 + LOST))
    assert (found.plan_s, found.reconcile_s) == (pytest.approx(11), pytest.approx(14))
    assert found.total_s == pytest.approx(11 + 20 + found.score_s + 14)
    assert found.failures == pytest.approx(10 * found.score_s / 36_000)
    assert found.repeated == pytest.approx(4 * found.failures)
    assert found.driver_share == pytest.approx(8 / found.score_s + 0.02)
    assert found.driver_mb == pytest.approx(500 + 40 + 100)
    assert found.footer_mb == pytest.approx(2.001)
    assert found.folder_pages == 4
    assert found.gets_per_s == pytest.approx(2_008_000 / found.score_s)
    assert found.puts_per_s == pytest.approx(16_000 / found.score_s)
    assert found.image_prefixes == 1
    assert found.requests["LIST"] == pytest.approx(4 + 4000 + found.repeated + 6 * 4 + found.total_s / 5)
    assert found.requests["GET"] == pytest.approx(10 + 8000 + 2_000_000 + found.repeated * (2 + 250))


def test_more_nodes_help_until_the_driver_or_the_last_shards_limit() -> None:
    many = project(COSTS, 1_000_000, replace(FLEET, nodes=1000), 250)
    assert many.score_s == pytest.approx(SHARD_S * (1 + LOST)), "one wave: each replica has one shard"
    slow = replace(COSTS, dispatch_s=0.01)
    limited = project(slow, 1_000_000, replace(FLEET, nodes=1000), 250)
    assert limited.score_s == pytest.approx(40 / 0.98)
    assert limited.driver_share > 1
    assert many.image_prefixes == 37


def test_slow_storage_bounds_a_replica_and_the_reconciliation() -> None:
    slow = project(COSTS, 1_000_000, replace(FLEET, request_s=1.0), 250)
    shard_s = 250 / (8 / 2) + 7
    assert slow.score_s == pytest.approx(100 * shard_s * (1 + (300 + shard_s / 2) / 36_000))
    assert slow.reconcile_s == pytest.approx(4000 / 8)


def test_costs_of_run_shard_and_pair_are_told_apart() -> None:
    runs = [(2, 512), (8, 2048), (32, 2048), (100, 400)]
    found = fit(runs, [7 + 3 * shards + 2 * pairs for shards, pairs in runs])
    assert (found.run, found.shard, found.pair) == (pytest.approx(7), pytest.approx(3), pytest.approx(2))


def test_renewals_are_no_part_of_a_run_s_own_requests() -> None:
    def run(shards: int, pairs: int, renewals: int) -> dict[str, object]:
        requests = {
            "lease": {"LIST": 3 + shards + renewals, "PUT": 2 + renewals},
            "images": {"GET": 2 * pairs},
            "folder": {"LIST": 6},
        }
        moved = {"images read": 1000 * pairs, "parts read": 10 * pairs, "parts written": 20 * pairs}
        return {"pairs": pairs, "shards": shards, "renewals": renewals, "requests": requests, "bytes": moved}

    def frame(shards: int, pairs: int) -> dict[str, object]:
        seconds = 0.01 * pairs
        phase = {"seconds": seconds, "driver_cpu_s": (0.005 * shards + 0.02 * 2 * seconds) / 2}
        phases = dict.fromkeys(("plan", "start", "score", "reconcile"), phase)
        memory = 100 + 0.01 * shards + 1e-4 * pairs
        return {
            "rows": pairs,
            "shards": shards,
            "phases": phases,
            "driver_peak_mb": memory,
            "footer_bytes": 10 * shards,
        }

    frames = [frame(400, 100_000), frame(5_000, 40_000), frame(10, 4_000)]
    stopped = {"rows": 1_000_000, "shards": 4_000, "driver_peak_mb": 100 + 40 + 100}
    found = Costs.from_json(costs_of([run(2, 512, 1), run(8, 2048, 5), run(32, 2048, 9)], [*frames, stopped]))
    assert found.requests["LIST"].shard == pytest.approx(1)
    assert found.requests["LIST"].run == pytest.approx(3)
    assert found.requests["PUT"] == Cost(pytest.approx(2), pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert found.requests["GET"].pair == pytest.approx(2)
    assert found.folder_lists == 6
    assert found.image_bytes == 1000
    assert found.read_bytes.pair == pytest.approx(10)
    assert (found.dispatch_s, found.idle_share) == (pytest.approx(0.005), pytest.approx(0.02))
    assert (found.driver_mb.shard, found.driver_mb.pair) == (pytest.approx(0.01), pytest.approx(1e-4))


def test_the_documented_table_is_what_the_measurements_say() -> None:
    docs = Path(__file__).parents[2] / "docs" / "benchmarks"
    kept = docs / "scaling"
    frames = [json.loads(line) for line in (kept / "frames.jsonl").read_text().splitlines()]
    measured = costs_of(json.loads((kept / "requests.json").read_text())["runs"], frames)
    costs = Costs.from_json(json.loads((kept / "costs.json").read_text()))
    assert project(Costs.from_json(measured), 10**8, FLEET, 256).total_s == pytest.approx(
        project(costs, 10**8, FLEET, 256).total_s, rel=1e-6
    )
    assert table(costs) in (docs / "scaling.md").read_text()
