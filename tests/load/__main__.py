"""The endpoint under load, beside the predictor it is made of: ``python -m tests.load FOLDER`` prints a table.

Everything runs in one process tree on the same cores, sides in turn. What a point measured is kept in the folder; the
same command goes on where it was stopped. The last line is JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from httpx import Request as HttpRequest

from derm_ray.bundle import load_bundle
from derm_ray.data.preprocessing import pixels_from_bytes
from derm_ray.data.synthetic import synthesize
from derm_ray.inference.engines.selection import resolve_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.models.zoo import NetworkConfig
from derm_ray.runtime import machine_cpus
from derm_ray.serving.endpoint import endpoint
from derm_ray.serving.model import MAX_BATCH
from derm_ray.serving.tokens import new_token, parse_tokens
from derm_ray.storage import read_bytes, write_json
from derm_ray.vocabulary import PAPER15
from tests.conftest import seal_untrained, unused_port
from tests.load.arrivals import Outcome, Request, closed_loop, open_loop, poisson
from tests.load.simulation import simulate

PAIRS, IMAGE_SIDE, TOKENS, BLOCKS, TURNS, SEEDS, REPEATS = 32, 600, 20, 10, 5, 20, 3
SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
CALLERS = 2 * MAX_BATCH
Files = dict[str, bytes]


class Bench:
    """Both sides, and what was measured."""

    def __init__(self, folder: Path, size: int, requests: int) -> None:
        self.requests = requests
        self._kept = folder / f"load_{size}_{requests}.json"
        self.figures: dict[str, Any] = json.loads(self._kept.read_text()) if self._kept.exists() else {}
        self.model_uri = str(folder / f"bundle_{size}")
        if not Path(self.model_uri).exists():
            seal_untrained(self.model_uri, NetworkConfig(trunk="vgg16"), size=size)
        manifest = synthesize(str(folder / "pairs"), PAIRS, PAPER15, size=IMAGE_SIDE)
        self.files: list[Files] = [
            {"clinical": read_bytes(str(p.clinical_uri)), "dermoscopy": read_bytes(str(p.dermoscopy_uri))}
            for p in manifest.pairs()
        ]
        torch.set_num_threads(machine_cpus())
        self.engine = resolve_engine(load_bundle(self.model_uri), "auto", torch.device("cpu"))
        self._predictor = Predictor(load_bundle(self.model_uri), self.engine, batch_size=MAX_BATCH)
        self._threads = ThreadPoolExecutor(machine_cpus())

    def point(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure a point unless that was done."""
        if name not in self.figures:
            began = time.perf_counter()
            self.figures[name] = measure()
            write_json(str(self._kept), self.figures)
            print(f"{name}: {time.perf_counter() - began:.0f} s {self.figures[name]}", file=sys.stderr, flush=True)

    def direct(self, batch: list[Files]) -> float:
        """Return the seconds in which the predictor answers for a batch, from the same bytes."""
        began = time.perf_counter()
        spec = self._predictor.bundle.preprocessing
        pixels = self._threads.map(lambda f: pixels_from_bytes(f["clinical"], f["dermoscopy"], spec), batch)
        self._predictor.predict(list(pixels))
        return time.perf_counter() - began

    def batch(self, size: int, start: int = 0) -> list[Files]:
        return [self.files[(start + i) % PAIRS] for i in range(size)]

    def alone(self, requests: list[Request]) -> dict[str, Any]:
        """One caller: the endpoint and the predictor in turn."""
        direct: list[float] = []
        online: list[float] = []
        block = self.requests // (2 * BLOCKS)
        for turn in range(2 * BLOCKS):
            for side in ("direct", "online") if turn % 2 else ("online", "direct"):
                if side == "online":
                    outcome = asyncio.run(closed_loop(requests, block, callers=1))
                    assert outcome.statuses == {200: block}, outcome.statuses
                    online += outcome.latencies_s
                else:
                    direct += [self.direct(self.batch(1, i)) for i in range(block // 4)]
        p50 = {"direct_ms": 1000 * median(direct), "online_ms": 1000 * median(online)}
        return p50 | {"ratio": p50["online_ms"] / p50["direct_ms"]}

    def saturated(self, requests: list[Request]) -> dict[str, Any]:
        """More callers than a batch: the endpoint's throughput and the predictor's in turn."""
        rates: dict[str, list[float]] = {"direct": [], "online": []}
        block = self.requests // BLOCKS
        for turn in range(BLOCKS):
            for side in ("direct", "online") if turn % 2 else ("online", "direct"):
                if side == "online":
                    outcome = asyncio.run(closed_loop(requests, block, callers=CALLERS))
                    assert outcome.statuses == {200: block}, outcome.statuses
                    rates[side].append(outcome.goodput)
                else:
                    batches = max(2, block // (4 * MAX_BATCH))
                    seconds = sum(self.direct(self.batch(MAX_BATCH, at)) for at in range(batches))
                    rates[side].append(batches * MAX_BATCH / seconds)
        ratios = [online / direct for online, direct in zip(rates["online"], rates["direct"], strict=True)]
        return {"per_s": median(rates["online"]), "direct_per_s": median(rates["direct"]), "ratio": median(ratios)}

    def services(self) -> dict[int, list[float]]:
        """Return how many seconds the predictor takes now for batches of every size."""
        seconds: dict[int, list[float]] = {size: [] for size in SIZES}
        for turn in range(REPEATS):
            for size in SIZES:
                seconds[size].append(self.direct(self.batch(size, turn)))
        return seconds

    def below(self, requests: list[Request], share: float) -> dict[str, Any]:
        """Poisson arrivals at a share of capacity, beside the simulated queue of the same arrivals.

        Machines get faster and slower: services are measured before and after each block, and its rate follows.
        """
        outcome, after = Outcome(), self.services()
        simulated: list[list[float]] = [[] for _ in range(SEEDS)]
        blocks = []
        for turn in range(TURNS):
            before = after
            rate = share * self.figures["saturated"]["ratio"] * MAX_BATCH / median(before[MAX_BATCH])
            starts = poisson(rate, self.requests // TURNS, seed=turn)
            block = asyncio.run(open_loop(requests, starts))
            outcome.add(block)
            after = self.services()
            service = {size: before[size] + after[size] for size in SIZES}
            queues = [simulate(starts, service, MAX_BATCH, seed) for seed in range(SEEDS)]
            for latencies, queue in zip(simulated, queues, strict=True):
                latencies += queue
            blocks.append(
                {
                    "per_s": rate,
                    "alone_ms": [1000 * median(before[1]), 1000 * median(after[1])],
                    "p50_p99_ms": [1000 * block.percentile_s(share) for share in (50, 99)],
                    "simulated_p50_p99_ms": [1000 * float(np.percentile(queues, share)) for share in (50, 99)],
                }
            )
        p50, p99 = np.median([np.percentile(latencies, [50, 99]) for latencies in simulated], axis=0)
        return _told(outcome) | {
            "simulated_p50_ms": 1000 * float(p50),
            "simulated_p99_ms": 1000 * float(p99),
            "ratio": outcome.percentile_s(99) / float(p99),
            "blocks": blocks,
        }

    def beyond(self, requests: list[Request], share: float) -> dict[str, Any]:
        """Poisson arrivals beyond capacity, in turn with the peak; the replicas' memory before and after."""
        before, outcome, ratios = _replica_bytes(), Outcome(), []
        for turn in range(TURNS):
            peak = asyncio.run(closed_loop(requests, self.requests // BLOCKS, callers=CALLERS)).goodput
            starts = poisson(share * peak, self.requests // TURNS, seed=turn)
            block = asyncio.run(open_loop(requests, starts))
            ratios.append(block.goodput / peak)
            outcome.add(block)
        return _told(outcome) | {"ratio": median(ratios), "memory_ratio": _replica_bytes() / before}


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "statuses": dict(outcome.statuses),
        "per_s": outcome.goodput,
        "p50_ms": 1000 * outcome.percentile_s(50),
        "p99_ms": 1000 * outcome.percentile_s(99),
        "slowest_ms": 1000 * max(outcome.latencies_s),
        "refused_p50_p99_ms": [1000 * float(s) for s in np.percentile(outcome.refused_s, [50, 99])]
        if outcome.refused_s
        else [],
        "without_retry_after": outcome.unannounced,
    }


def _replica_bytes() -> int:
    """Return the memory of the model replicas, without what they share with others."""
    replicas = [p for p in psutil.process_iter(["cmdline"]) if ":ModelReplica" in " ".join(p.info["cmdline"] or ())]
    assert replicas
    return sum(process.memory_full_info().uss for process in replicas)


def _requests(url: str, files: list[Files], secrets: list[str]) -> list[Request]:
    """Spread the requests over tokens: one alone may ask only so often."""
    made = []
    for row in range(len(files) * len(secrets)):
        request = HttpRequest("POST", f"{url}/v1/score", files=files[row % len(files)])
        headers = {
            "content-type": request.headers["content-type"],
            "authorization": f"Bearer {secrets[row % len(secrets)]}",
        }
        made.append(Request(str(request.url), request.read(), headers))
    return made


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people, as Markdown."""
    alone, saturated = figures["alone"], figures["saturated"]
    below, beyond = figures["at 0.7"], figures["at 2"]
    rows = [
        ("one caller, p50: endpoint / predictor", f"{alone['online_ms']:.1f} / {alone['direct_ms']:.1f} ms",
         alone["ratio"], "at most 1.10", alone["ratio"] <= 1.10),
        ("saturated: endpoint / predictor in batches", f"{saturated['per_s']:.2f} / {saturated['direct_per_s']:.2f} a second",
         saturated["ratio"], "at least 0.90", saturated["ratio"] >= 0.90),
        ("0.7 of capacity, p99: endpoint / simulated queue", f"{below['p99_ms']:.0f} / {below['simulated_p99_ms']:.0f} ms",
         below["ratio"], "at most 1.5", below["ratio"] <= 1.5),
        ("0.7 of capacity: answers that are not 200", str(sum(n for s, n in below["statuses"].items() if int(s) != 200)),
         None, "none", set(map(int, below["statuses"])) == {200}),
        ("2 x capacity, goodput / peak", f"{beyond['per_s']:.2f} a second", beyond["ratio"], "at least 0.90",
         beyond["ratio"] >= 0.90),
        ("2 x capacity, answers by status", ", ".join(f"{s}: {n}" for s, n in sorted(beyond["statuses"].items(), key=str)),
         None, "200, 429, 503", set(map(int, beyond["statuses"])) <= {200, 429, 503}),
        ("2 x capacity, slowest answer", f"{beyond['slowest_ms']:.0f} ms", None, "30 s", beyond["slowest_ms"] < 30_000),
        ("2 x capacity, refusals: p50, p99", ", ".join(f"{ms:.0f} ms" for ms in beyond["refused_p50_p99_ms"]), None,
         "Retry-After in each", beyond["without_retry_after"] == 0),
        ("2 x capacity, replica's memory after / before", "", beyond["memory_ratio"], "below 1.10",
         beyond["memory_ratio"] < 1.10),
    ]  # fmt: skip
    lines = ["| | measured | ratio | wanted | |", "|---|---|---|---|---|"]
    for what, measured, ratio, wanted, held in rows:
        shown = "" if ratio is None else f"{ratio:.3f}"
        lines.append(f"| {what} | {measured} | {shown} | {wanted} | {'holds' if held else 'DOES NOT HOLD'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224, help="input side of the Triple-Net (VGG-16), pixels")
    parser.add_argument("--requests", type=int, default=2000, help="of each point")
    parser.add_argument("--only-alone", action="store_true", help="measure one caller and nothing else")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.folder, options.size, options.requests)
    made = [new_token(f"caller-{n}") for n in range(TOKENS)]
    tokens = parse_tokens("\n".join(line for _, line in made), "tokens")
    with endpoint(bench.model_uri, engine=bench.engine, port=unused_port(), tokens=tokens) as served:
        requests = _requests(served.url, bench.files, [secret for secret, _ in made])
        asyncio.run(closed_loop(requests, CALLERS, callers=MAX_BATCH))
        for size in SIZES:
            bench.direct(bench.batch(size))
        bench.point("alone", lambda: bench.alone(requests))
        if options.only_alone:
            print(json.dumps(bench.figures["alone"]))
            return
        bench.point("saturated", lambda: bench.saturated(requests))
        bench.point("at 0.7", lambda: bench.below(requests, 0.7))
        bench.point("at 2", lambda: bench.beyond(requests, 2.0))
    print(
        f"Triple-Net, VGG-16, {options.size} px, {bench.engine}, {machine_cpus()} cores, {options.requests} requests a point"
    )
    print(table(bench.figures))
    print(json.dumps(bench.figures))


if __name__ == "__main__":
    main()
