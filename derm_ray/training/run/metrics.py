"""Prometheus metrics of training, exported by Ray on every node's metrics port.

All are counters: a gauge is gone 20 s after it was set, and of a histogram's sum Ray exports an estimate. Labels are
the run's name, the rank and :data:`STAGES`, never data.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from ray.util.metrics import Counter

STAGES = ("load", "step", "validate", "report")

T = TypeVar("T")


class TrainingMetrics:
    """Metrics of one worker; values that are equal on all ranks are counted on rank 0."""

    def __init__(self, run: str, rank: int) -> None:
        self._first = rank == 0
        self._begun = perf_counter()

        def counter(name: str, description: str) -> Counter:
            return Counter(f"derm_ray_train_{name}", description, ("run",)).set_default_tags({"run": run})

        self._pairs = counter("pairs", "Pairs trained on.")
        self._steps = counter("steps", "Optimizer steps.")
        self._loss = counter("loss", "Sum of the steps' losses; divided by the steps it is their mean.")
        self._epochs = counter("epochs", "Epochs reported.")
        self._seconds = Counter(
            "derm_ray_train_seconds",
            "Seconds of a worker: waiting for batches, steps, validation, and reports with checkpoints.",
            ("run", "rank", "stage"),
        ).set_default_tags({"run": run, "rank": str(rank)})
        if self._first:
            counter("starts", "Starts of the run: the first one and each restart.").inc()

    def training(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches, timing how long each is waited for; :meth:`step` is to follow each."""
        self._begun = perf_counter()
        for batch in batches:
            self._took("load")
            yield batch
            self._begun = perf_counter()

    def step(self, pairs: int, loss: float) -> None:
        """Record a step of a global batch of pairs, whose mean loss this is."""
        self._took("step")
        if self._first:
            self._steps.inc()
            self._pairs.inc(pairs)
            if loss > 0:
                self._loss.inc(loss)

    def validating(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches, timing each with its use."""
        self._begun = perf_counter()
        for batch in batches:
            yield batch
            self._took("validate")

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Time an epoch's report and record the epoch."""
        self._begun = perf_counter()
        yield
        self._took("report")
        if self._first:
            self._epochs.inc()

    def _took(self, stage: str) -> None:
        """Count the time since the last one as one of :data:`STAGES`."""
        now = perf_counter()
        self._seconds.inc(max(now - self._begun, 1e-9), {"stage": stage})
        self._begun = now
