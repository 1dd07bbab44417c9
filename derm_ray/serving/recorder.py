"""Metrics and access lines, recorded by a thread of their own.

Ray's metrics and a log's stream release the GIL at every record. Beside threads that compute, an event loop waits long
to get it back, several times a request; figures are in ``docs/benchmarks/serving.md``.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ray.serve import metrics

logger = logging.getLogger(__name__)

FLUSH_S = 1.0
"""Seconds for which records are gathered."""


class Recorder:
    """Records later, once in :data:`FLUSH_S`; any thread may call it."""

    def __init__(self, flush_s: float = FLUSH_S) -> None:
        self._flush_s = flush_s
        self._counts: deque[tuple[metrics.Counter, tuple[tuple[str, str], ...]]] = deque()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._flushing = threading.Lock()
        threading.Thread(target=self._run, name="recorder", daemon=True).start()

    def count(self, counter: metrics.Counter, tags: dict[str, str]) -> None:
        """Add one to a counter; equal tags become one increment."""
        self._counts.append((counter, tuple(tags.items())))

    def later(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function, after those that came before."""
        self._calls.append((function, args))

    def flush(self) -> None:
        """Record what was gathered; return when that is done."""
        with self._flushing:
            sums: Counter[tuple[metrics.Counter, tuple[tuple[str, str], ...]]] = Counter()
            while self._counts:
                sums[self._counts.popleft()] += 1
            for (counter, tags), count in sums.items():
                self._calls.append((counter.inc, (count, dict(tags))))
            while self._calls:
                function, args = self._calls.popleft()
                try:
                    function(*args)
                except Exception as error:  # one record must not end all
                    logger.error("a record failed: %s", type(error).__name__)

    def _run(self) -> None:
        while True:
            time.sleep(self._flush_s)
            self.flush()
