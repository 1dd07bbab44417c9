"""What it costs bulk scoring that its metrics are scraped each second: ``python -m tests.scrape_cost [--pairs N] [--repetitions N]``.

Runs of the real pipeline on the CPU, in one Ray, in turn with and without a scraper (A B B A). A run's figure is its pairs a
second from its first part to its last one. That varies by some percent from run to run, so the CPU time of a scrape is counted as
well. The last line is JSON; exit code 1 where the whole interval is not within 2%.
Run it on a quiet machine.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import psutil

from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15
from derm_ray.models.factory import NetworkConfig
from derm_ray.runtime import machine_cpus, ray_session
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.studies.benchmark.comparison import to_row, turns
from tests.conftest import seal_untrained
from tests.inputs import MemoryInput
from tests.monitored import metrics_url

SHARD, SIZE, IMAGE_SIDE = 32, 128, 600
BOUND = 0.98


@contextmanager
def scraped(took_s: list[float], every_s: float = 1.0) -> Iterator[None]:
    """Fetch the metrics each second while a block runs."""
    ended, url = threading.Event(), metrics_url()

    def scrape() -> None:
        with httpx.Client(timeout=10) as client:
            while not ended.wait(every_s):
                begun = time.perf_counter()
                client.get(url).raise_for_status()
                took_s.append(time.perf_counter() - begun)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def cpu_of_a_scrape(times: int = 30) -> float:
    """Return the CPU seconds that a scrape costs the process which shows the metrics, scraped each second and not at all."""
    port = urlsplit(metrics_url()).port
    listeners = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    (pid,) = {one.pid for one in listeners if one.laddr[1] == port}
    process = psutil.Process(pid)

    def spent(block: Callable[[], None]) -> float:
        before = process.cpu_times()
        block()
        after = process.cpu_times()
        return after.user + after.system - before.user - before.system

    def scrape() -> None:
        with scraped([]):
            time.sleep(times)

    return max(0.0, spent(scrape) - spent(lambda: time.sleep(times))) / times


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    took_s: list[float] = []
    numbers = count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = MemoryInput(synthesize(str(folder / "pairs"), arguments.pairs, PAPER15, size=IMAGE_SIDE))
        model = seal_untrained(str(folder / "model"), NetworkConfig(trunk="vgg16"), size=SIZE)

        def rate() -> float:
            out, options = str(folder / f"out{next(numbers)}"), ScoringOptions(replicas=1)
            times = score(model, source, out, engine="torch", shard_size=SHARD, options=options).counts.times
            pairs = sum(rows for _, rows in times[1:])
            print(f"{pairs / (times[-1][0] - times[0][0]):.3f} pairs/s", file=sys.stderr)
            return pairs / (times[-1][0] - times[0][0])

        def rate_scraped() -> float:
            with scraped(took_s):
                return rate()

        with ray_session(num_cpus=machine_cpus() + 1, local=True):
            rate()
            figures = [(ours, other) for ours, other in turns((rate_scraped, rate), arguments.repetitions)]
            size = len(httpx.get(metrics_url()).content)
            cpu_s = cpu_of_a_scrape()
    row = to_row("scraped", "metrics fetched each second / never", figures, unit="pairs/s", threshold=BOUND)
    print(f"{row.ours:.2f} / {row.baseline:.2f} {row.unit}, ratio {row.ratio:.4f} ({row.low:.4f} to {row.high:.4f})")
    share = cpu_s / machine_cpus()
    print(
        f"a scrape: {size / 1000:.0f} kB, {1000 * median(took_s):.0f} ms, of the node's CPU {1000 * cpu_s:.1f} ms: {share:.2%} a second"
    )
    scrape = {
        "bytes": size,
        "ms": round(1000 * median(took_s), 1),
        "cpu_ms": round(1000 * cpu_s, 2),
        "share": round(share, 5),
    }
    print(json.dumps(row.to_json() | {"scrape": scrape}))
    sys.exit(0 if row.passed else 1)


if __name__ == "__main__":
    main()
