from typing import Any

from derm_ray.scoring.metrics import RunMetrics, WorkMetrics


def test_a_folder_may_have_any_name() -> None:
    row: dict[str, Any] = {"scored": 3, "errors": 1, "read_s": 0.1, "decode_s": 0.0, "infer_s": 0.2, "write_s": 0.1}
    for uri in ("s3://bucket/läsionen 2024 ✓", "/data/a", "s3://bucket"):
        WorkMetrics(uri).export()
        with RunMetrics(uri, 4) as metrics:
            metrics.shard(row)
