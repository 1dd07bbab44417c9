"""Relay of progress lines from workers to the driver."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)


class _ProgressRelay:
    """Carries progress lines from workers to the driver."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def relay_progress(name: str) -> Iterator[Any]:
    """Log workers' lines as they arrive, with the run's name, until the block ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_ProgressRelay).remote()
    ended = threading.Event()

    def forward() -> None:
        while True:
            last = ended.wait(0.5)
            for line in ray.get(actor.take.remote()):
                logger.info("%s  %s", name, line)
            if last:
                return

    thread = threading.Thread(target=copy_context().run, args=(forward,), daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join(timeout=10)
        ray.kill(actor)
