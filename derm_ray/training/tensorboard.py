"""A run's history as TensorBoard reads it."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

_KEYS = ("epoch", "step", "elapsed_s")

Point = tuple[str, int, float]
"""Tag, position and value."""


def points(history: Sequence[Mapping[str, Any]]) -> Iterator[list[Point]]:
    """Yield the points of each line of ``metrics.jsonl``: ``step/loss`` by step from 1 over all epochs, or every metric
    of an epoch.
    """
    steps = 0
    for line in history:
        steps += "step" in line
        kind, at = ("step", steps) if "step" in line else ("epoch", int(line["epoch"]))
        yield [(f"{kind}/{name}", at, value) for name, value in line.items() if name not in _KEYS]


def tensorboard_events(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return an event file of the losses by step and of every metric by epoch, the lines of ``metrics.jsonl``."""
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for tag, at, value in (point for line in points(history) for point in line):
                writer.add_scalar(tag, value, at)
        return next(Path(folder).iterdir()).read_bytes()
