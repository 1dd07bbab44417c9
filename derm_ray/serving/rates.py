"""How often one caller may ask: a token bucket each."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Bucket:
    left: float
    at: float


class RateLimit:
    """A token bucket per caller.

    Args:
        per_s: requests per second that a caller may keep up.
        burst: requests that a caller may send at once.
        clock: seconds, monotonic.
    """

    most_callers = 10_000

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def wait_s(self, caller: str, cost: float = 1.0) -> int:
        """Take ``cost`` requests and return 0, or return the whole seconds after which they are there."""
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_s)
        bucket.at = now
        self._buckets[caller] = bucket  # the one that was used last is at the end
        while len(self._buckets) > self.most_callers:
            del self._buckets[next(iter(self._buckets))]
        short = cost - bucket.left
        if short > 0:
            return math.ceil(short / self._per_s)
        bucket.left -= cost
        return 0
