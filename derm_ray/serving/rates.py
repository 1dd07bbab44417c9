"""Rate limits: a token bucket per caller."""

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

    max_callers = 10_000

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def wait_s(self, caller: str) -> int:
        """Take one request and return 0, or return the seconds to wait, rounded up."""
        bucket = self._filled(caller)
        if bucket.left < 1:
            return math.ceil((1 - bucket.left) / self._per_s)
        bucket.left -= 1
        return 0

    def charge(self, caller: str, requests: int) -> None:
        """Charge an admitted request that contains several; the balance may become negative."""
        self._filled(caller).left -= requests

    def _filled(self, caller: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_s)
        bucket.at = now
        self._buckets[caller] = bucket  # the one that was used last is at the end
        while len(self._buckets) > self.max_callers:
            del self._buckets[next(iter(self._buckets))]
        return bucket
