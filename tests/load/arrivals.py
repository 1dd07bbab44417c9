"""Open-loop load: requests leave when a Poisson process says so, whether or not earlier ones were answered."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

import aiohttp
import numpy as np

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Request:
    """One request, ready to send: building it costs nothing while time is taken."""

    url: str
    body: bytes
    headers: dict[str, str]


@dataclass
class Outcome:
    """What became of the requests of one run.

    Attributes:
        latencies_s: of answers with status 200, from the intended start to the last byte.
        statuses: how often each status came; 0 for none at all.
        refused_s: latencies of refusals.
        unannounced: refusals without Retry-After.
        seconds: from the first intended start to the last answer.
    """

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    unannounced: int = 0
    seconds: float = 0.0

    def add(self, later: "Outcome") -> None:
        """Take in what became of further requests."""
        self.latencies_s += later.latencies_s
        self.statuses += later.statuses
        self.refused_s += later.refused_s
        self.unannounced += later.unannounced
        self.seconds += later.seconds

    def percentile_s(self, share: float) -> float:
        return float(np.percentile(self.latencies_s, share))

    @property
    def goodput(self) -> float:
        """Answers per second."""
        return self.statuses[200] / self.seconds


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """Return ``count`` arrival times in seconds, ``rate`` a second on average."""
    return [float(t) for t in np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))]


async def open_loop(requests: list[Request], starts_s: list[float]) -> Outcome:
    """Send one request at each of the times."""
    outcome, sources = Outcome(), cycle(requests)
    async with _session() as session:
        begun = time.perf_counter()

        async def one(start_s: float, request: Request) -> None:
            await asyncio.sleep(begun + start_s - time.perf_counter())
            await _send(session, request, begun + start_s, outcome)

        await asyncio.gather(*(one(start_s, request) for start_s, request in zip(starts_s, sources, strict=False)))
        outcome.seconds = time.perf_counter() - begun
    return outcome


async def closed_loop(requests: list[Request], count: int, callers: int) -> Outcome:
    """Send ``count`` requests from callers who each wait for their answer."""
    outcome, sources = Outcome(), iter(request for request, _ in zip(cycle(requests), range(count), strict=False))
    async with _session() as session:
        begun = time.perf_counter()

        async def caller(mine: Iterator[Request]) -> None:
            for request in mine:
                await _send(session, request, time.perf_counter(), outcome)

        await asyncio.gather(*(caller(sources) for _ in range(callers)))
        outcome.seconds = time.perf_counter() - begun
    return outcome


@asynccontextmanager
async def _session():  # type: ignore[no-untyped-def]
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield session


async def _send(session: aiohttp.ClientSession, request: Request, intended: float, outcome: Outcome) -> None:
    try:
        async with session.post(request.url, data=request.body, headers=request.headers) as answer:
            await answer.read()
            status, announced = answer.status, "retry-after" in answer.headers
    except (aiohttp.ClientError, TimeoutError):
        status, announced = 0, False
    took = time.perf_counter() - intended
    outcome.statuses[status] += 1
    if status == 200:
        outcome.latencies_s.append(took)
    else:
        outcome.refused_s.append(took)
        outcome.unannounced += not announced
