"""A run's history as TensorBoard reads it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

_KEYS = ("epoch", "step", "elapsed_s")


def tensorboard_events(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return an event file of the losses by step and of every metric by epoch, the lines of ``metrics.jsonl``."""
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            steps = 0
            for line in history:
                steps += "step" in line
                for name, value in line.items():
                    if name not in _KEYS:
                        tag, at = (f"step/{name}", steps) if "step" in line else (f"epoch/{name}", line["epoch"])
                        writer.add_scalar(tag, value, at)
        return next(Path(folder).iterdir()).read_bytes()
