from derm_ray.scoring.metrics import RunMetrics, WorkMetrics
from derm_ray.scoring.parts import ShardOutcome, StageTimes
from derm_ray.scoring.shards import Shard


def test_a_folder_may_have_any_name() -> None:
    times = StageTimes(0.1, 0.0, 0.2, 0.1)
    for uri in ("s3://bucket/läsionen 2024 ✓", "/data/a", "s3://bucket"):
        WorkMetrics(uri).export()
        with RunMetrics(uri, 4) as metrics:
            metrics.shard(ShardOutcome(Shard(0, 0, 4, "d"), 3, 1, times))
