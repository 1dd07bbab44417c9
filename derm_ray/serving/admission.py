"""Admission control: whether one more pair would be answered in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MEMORY = 0.99
"""Weight of each pair's past against its own: some 100 pairs are remembered, several batches."""


class Admission:
    """Bounds the pairs under way at one replica, in number and in expected wait.

    By Little's law the expected wait is pairs under way / pairs a second, whatever the speed of the machine. The speed
    is that of the last pairs, over the time in which there were any.

    Args:
        wait_s: the longest expected wait with which a pair is admitted.
        most: pairs under way.
        clock: seconds, monotonic.
    """

    def __init__(self, wait_s: float, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._wait_s = wait_s
        self._most = most
        self._clock = clock
        self._ongoing = 0
        self._busy_s = 0.0
        self._answered = 0.0
        self._seen = 0.0

    def expected_s(self) -> float:
        """Return how long a pair that comes now would wait; 0 as long as nothing is known."""
        return self._ongoing * self._busy_s / self._answered if self._answered else 0.0

    def retry_after_s(self) -> int:
        """Return 0 where a pair is admitted, else the whole seconds after which one should be."""
        excess_s = self.expected_s() - self._wait_s
        if self._ongoing < self._most and excess_s <= 0:
            return 0
        return max(1, math.ceil(excess_s))

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a pair as under way; one that ends with an exception says nothing about the speed."""
        if self._ongoing == 0:
            self._seen = self._clock()
        self._ongoing += 1
        try:
            yield
            self._answer()
        finally:
            self._ongoing -= 1

    def _answer(self) -> None:
        now = self._clock()
        self._busy_s = MEMORY * self._busy_s + now - self._seen
        self._answered = MEMORY * self._answered + 1
        self._seen = now
