"""``python -m tests.faults.lost_node MODEL INPUT OUT``: scores on two local nodes and kills the second one's raylet."""

import os
import signal
import sys
import threading
import time

import ray
from ray.cluster_utils import Cluster

from derm_ray import storage
from derm_ray.data.inputs import open_input
from derm_ray.scoring.pipeline import ScoringOptions, score


def main(model: str, source: str, out: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    def kill() -> None:
        while sum(name.startswith("part-") for name in storage.list_folder(out)) < 10:
            time.sleep(0.05)
        os.kill(second.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    ray.init(address=cluster.address, log_to_driver=False)
    options = ScoringOptions(replicas=2)
    result = score(model, open_input(source), out, engine="torch", shard_size=32, options=options)
    alive = sum(node["Alive"] for node in ray.nodes())
    print(f"{result.counts.pairs} pairs, {alive} node alive")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
