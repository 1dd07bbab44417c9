"""The endpoint beside FastAPI, and beyond its capacity: ``python -m tests.load FOLDER`` prints a table for three models.

Both servers run on the same cores, sides in turn. What was measured is kept in the folder; the same command goes on
where it was stopped. The last line is JSON.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx

from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15
from derm_ray.models.factory import NetworkConfig
from derm_ray.runtime import machine_cpus
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.endpoint import endpoint
from derm_ray.serving.model import ANSWER_S
from derm_ray.storage import read_bytes, write_json
from tests.conftest import seal_untrained, unused_port
from tests.load.arrivals import Outcome, Request, closed_loop, open_loop, poisson

PAIRS, IMAGE_SIDE, TURNS = 32, 600, 5
SETTLE_S = 10.0
"""Serve's controller works hard in its first seconds."""


class Served(NamedTuple):
    """A model to measure with."""

    trunk: str
    size: int
    engine: str
    callers: int
    """Who wait for an answer at the peak: as many as are admitted, on a slow model."""


MODELS = {
    "slow": Served("vgg16", 224, "torch", 8),
    "middling": Served("vgg16", 160, "torch-bf16", 32),
    "quick": Served("tiny", 48, "torch", 32),
}


@contextmanager
def peer(uri: str, engine: str) -> Iterator[str]:
    """Run :mod:`tests.load.peer`; yield its address."""
    port = unused_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.load.peer", uri, engine, str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/openapi.json")
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def requests(url: str, folder: Path) -> list[Request]:
    """Return the requests of synthetic pairs, ready to send."""
    made = []
    for pair in synthesize(str(folder / "pairs"), PAIRS, PAPER15, size=IMAGE_SIDE).pairs():
        files = {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}
        request = httpx.Request("POST", f"{url}/v1/score", files=files)
        made.append(Request(str(request.url), request.read(), {"content-type": request.headers["content-type"]}))
    return made


def closed(of: list[Request], seconds: float, callers: int, rate: float) -> Outcome:
    """Run a closed loop for about so many seconds; nothing of it may be refused."""
    outcome = asyncio.run(closed_loop(of, max(callers, int(seconds * rate)), callers))
    assert set(outcome.statuses) == {200}, outcome.statuses
    return outcome


def compare(sides: dict[str, list[Request]], seconds: float, callers: int) -> dict[str, Any]:
    """Measure both sides in turn with so many callers, each for so many seconds in all."""
    rates = {side: closed(of, 0, callers, 0).goodput for side, of in sides.items()}
    seen = {side: Outcome() for side in sides}
    for turn in range(TURNS):
        for side in sorted(sides, reverse=bool(turn % 2)):
            seen[side].add(closed(sides[side], seconds / TURNS, callers, rates[side]))
    return {
        side: {"p50_ms": 1000 * outcome.percentile_s(50), "per_s": outcome.goodput} for side, outcome in seen.items()
    }


def beyond(of: list[Request], seconds: float, callers: int, rate: float) -> dict[str, Any]:
    """Send twice as many requests as are answered at the peak, which is measured before and after."""
    peaks = [closed(of, 10, callers, rate).goodput]
    outcome = asyncio.run(open_loop(of, poisson(2 * peaks[0], int(2 * peaks[0] * seconds), seed=0)))
    time.sleep(2)
    peaks.append(closed(of, 10, callers, rate).goodput)
    in_time = sum(latency <= ANSWER_S for latency in outcome.latencies_s)
    return {
        "peak_per_s": peaks,
        "offered_per_s": 2 * peaks[0],
        "seconds": outcome.seconds,
        "statuses": dict(outcome.statuses),
        "goodput_per_s": in_time / outcome.seconds,
        "ratio": in_time / outcome.seconds / (sum(peaks) / 2),
        "p50_p99_slowest_s": [outcome.percentile_s(50), outcome.percentile_s(99), max(outcome.latencies_s)],
        "refused_p50_p99_ms": [1000 * s for s in _percentiles(outcome.refused_s)],
        "without_retry_after": outcome.unannounced,
    }


def _percentiles(seconds: list[float]) -> list[float]:
    ordered = sorted(seconds)
    return [median(ordered), ordered[int(0.99 * (len(ordered) - 1))]]


def measure(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Measure one of :data:`MODELS`."""
    model = MODELS[name]
    uri = str(folder / name)
    if not Path(uri).exists():
        seal_untrained(uri, NetworkConfig(trunk=model.trunk), size=model.size)
    with (
        peer(uri, model.engine) as beside,
        endpoint(ServeArguments(model=uri, engine=model.engine), port=unused_port()) as served,
    ):
        sides = {"fastapi": requests(beside, folder), "endpoint": requests(served.url, folder)}
        time.sleep(SETTLE_S)
        alone = compare(sides, seconds / 2, callers=1)
        saturated = compare(sides, seconds / 2, callers=model.callers)
        return {
            "alone": alone | {"ratio": alone["endpoint"]["p50_ms"] / alone["fastapi"]["p50_ms"]},
            "saturated": saturated | {"ratio": saturated["endpoint"]["per_s"] / saturated["fastapi"]["per_s"]},
            "beyond": beyond(sides["endpoint"], seconds, model.callers, saturated["endpoint"]["per_s"]),
        }


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people, as Markdown."""
    lines = ["| model | | endpoint | FastAPI, or peak | ratio | wanted | |", "|---|---|---|---|---|---|---|"]
    for name, of in figures.items():
        alone, saturated, over = of["alone"], of["saturated"], of["beyond"]
        slowest, refused = over["p50_p99_slowest_s"][2], over["refused_p50_p99_ms"]
        known = {int(status) for status in over["statuses"]} <= {200, 429, 503} and not over["without_retry_after"]
        rows = [
            ("one caller, p50", f"{alone['endpoint']['p50_ms']:.1f} ms", f"{alone['fastapi']['p50_ms']:.1f} ms",
             f"{alone['ratio']:.2f}", "at most 1.25", alone["ratio"] <= 1.25),
            (f"{MODELS[name].callers} callers", f"{saturated['endpoint']['per_s']:.1f}/s", f"{saturated['fastapi']['per_s']:.1f}/s",
             f"{saturated['ratio']:.2f}", "at least 0.95", saturated["ratio"] >= 0.95),
            (f"{over['offered_per_s']:.1f}/s offered: answers within {ANSWER_S:g} s", f"{over['goodput_per_s']:.1f}/s",
             " and ".join(f"{peak:.1f}/s" for peak in over["peak_per_s"]), f"{over['ratio']:.2f}", "at least 0.90",
             over["ratio"] >= 0.9),
            ("slowest answer", f"{slowest:.1f} s", "", "", f"at most {ANSWER_S:g} s", slowest <= ANSWER_S),
            ("statuses; refusals p50, p99", ", ".join(f"{k}: {n}" for k, n in sorted(over["statuses"].items()))
             + "; " + ", ".join(f"{ms:.0f} ms" for ms in refused), "", "", "Retry-After in each refusal", known),
        ]  # fmt: skip
        lines += [
            f"| {name} | {what} | {measured} | {beside} | {ratio} | {wanted} | {'holds' if held else 'DOES NOT HOLD'} |"
            for what, measured, beside, ratio, wanted, held in rows
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="beyond capacity, and half of it for other points")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "load.json"
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name, model in MODELS.items():
        if name not in figures:
            print(f"{name}: {model}", file=sys.stderr, flush=True)
            figures[name] = measure(name, options.folder, options.seconds)
            write_json(str(kept), figures)
    print(f"{machine_cpus()} cores; " + "; ".join(f"{name}: {' '.join(map(str, m))}" for name, m in MODELS.items()))
    print(table(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
