"""Whether one more pair would be answered in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MEMORY = 0.99
"""Weight of each pair's past against its own: some 100 pairs are remembered, several batches."""


@dataclass
class Taken:
    """A pair under way; ``tells_speed`` becomes false where it needed no pass of the model."""

    tells_speed: bool = True


class Room:
    """Bounds the wait, whatever the speed of the machine: by Little's law it is pairs under way / pairs a second.

    Both are seen at this ingress alone; where others share the replicas, each sees its share of both. The speed is
    that of the last pairs, over the time in which there were any.

    Args:
        wait_s: the longest that is let in.
        clock: seconds, monotonic.
    """

    def __init__(self, wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._wait_s = wait_s
        self._clock = clock
        self._ongoing = 0
        self._busy_s = 0.0
        self._answered = 0.0
        self._seen = 0.0

    def expected_s(self) -> float:
        """Return how long a pair that comes now would wait; 0 as long as nothing is known."""
        return self._ongoing * self._busy_s / self._answered if self._answered else 0.0

    def retry_after_s(self) -> int:
        """Return 0 where there is room, else the whole seconds after which there should be."""
        return math.ceil(max(0.0, self.expected_s() - self._wait_s))

    @contextmanager
    def taken(self) -> Iterator[Taken]:
        """Count a pair as under way."""
        if self._ongoing == 0:
            self._seen = self._clock()
        self._ongoing += 1
        pair = Taken()
        try:
            yield pair
        except BaseException:
            pair.tells_speed = False
            raise
        finally:
            self._ongoing -= 1
            if pair.tells_speed:
                self._answer()

    def _answer(self) -> None:
        now = self._clock()
        self._busy_s = MEMORY * self._busy_s + now - self._seen
        self._answered = MEMORY * self._answered + 1
        self._seen = now
