"""``python -m tests.faults.small_store MODEL INPUT OUT``: scores with an object store of 200 MB; tells what spilled."""

import sys

import ray
from ray._private.internal_api import memory_summary

from derm_ray.data.inputs import open_input
from derm_ray.scoring.pipeline import score


def main(model: str, source: str, out: str) -> None:
    context = ray.init(num_cpus=3, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    score(model, open_input(source), out, engine="torch", shard_size=32)
    print(
        "spilled" if "Spilled" in memory_summary(context.address_info["gcs_address"], stats_only=True) else "no spill"
    )
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
