"""Bulk scoring, compared with a hand-written loop and with the engine alone."""

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import count
from math import ceil
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import time
from typing import NamedTuple

import numpy as np

from derm_ray.bundle import Bundle
from derm_ray.data.inputs import ManifestInput
from derm_ray.data.patient import Vectors
from derm_ray.domain import PredictionKind
from derm_ray.errors import WorkError
from derm_ray.inference.engines.engine import Images, Probabilities
from derm_ray.inference.engines.selection import make_engine
from derm_ray.models.factory import NetworkConfig
from derm_ray.runtime import machine_cpus, ray_session
from derm_ray.scoring.loader import BATCH_SIZE
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.studies.benchmark.comparison import Effort, Row, to_row, turns
from derm_ray.studies.benchmark.computing import CPU, pairs_per_s
from derm_ray.studies.benchmark.materials import draw_pairs, untrained

SHARD = 128
MIN_SHARDS = 3
PROJECTED_S = 600.0
FEW = 1_000
FEW_RUNS = 4
FRAME_SHARD = 100
FRAME_SIDE = 32


class RunTimes(NamedTuple):
    """Durations of a whole run.

    ``rate`` is pairs per second from the first part to the last; ``started_s`` and ``ended_s`` are the seconds of its
    process before work at that rate began, and after the last part.
    """

    rate: float
    started_s: float
    ended_s: float

    def seconds(self, pairs: int) -> float:
        """Return how long a run of that many pairs takes."""
        return self.started_s + pairs / self.rate + self.ended_s

    def pairs_within(self, seconds: float) -> float:
        """Return how many pairs a run of that length scores, its start and end included."""
        return self.rate * (seconds - self.started_s - self.ended_s)


def against_plain_loop(bundle: Bundle, engine: str, effort: Effort) -> list[Row]:
    """Compare ``derm-ray score`` with a loop written by hand and with the engine alone, same bytes, engine, threads."""
    alone = pairs_per_s(make_engine(bundle, engine, CPU).run, bundle, effort.run_seconds / 6, batch=BATCH_SIZE)
    shards = max(MIN_SHARDS, ceil(alone() * effort.run_seconds / SHARD))
    with TemporaryDirectory() as folder:
        manifest = draw_pairs(Path(folder), shards * SHARD)
        numbers = count()

        def ours() -> RunTimes:
            out = Path(folder) / f"out{next(numbers)}"
            options = ["--model", bundle.uri, "--input", manifest.uri, "--out", str(out), "--engine", engine]
            return _timed(["-m", "derm_ray", "score", *options, "--shard-size", str(SHARD)], out)

        def plain() -> RunTimes:
            out = Path(folder) / f"out{next(numbers)}"
            arguments = [bundle.uri, manifest.uri, str(out), engine, str(SHARD)]
            return _timed(["-m", "derm_ray.studies.benchmark.plain_scoring", *arguments], out)

        figures = turns((ours, plain, lambda: RunTimes(alone(), 0.0, 0.0)), effort.run_repetitions)
    return [
        to_row(
            "bulk",
            f"derm-ray score / a loop written by hand, engine {engine}, steady state",
            [(mine.rate, hand.rate) for mine, hand, _ in figures],
            unit="pairs/s",
            threshold=0.90,
        ),
        to_row(
            "bulk-10min",
            "the same with start and end, projected to 10 minutes",
            [(mine.pairs_within(PROJECTED_S), hand.pairs_within(PROJECTED_S)) for mine, hand, _ in figures],
            unit="pairs",
            threshold=0.80,
        ),
        to_row(
            "bulk-engine",
            f"derm-ray score / engine {engine} alone on decoded images of 0.36 megapixels",
            [(mine.rate, engine_alone.rate) for mine, _, engine_alone in figures],
            unit="pairs/s",
            threshold=0.90,
        ),
    ]


def _timed(arguments: Sequence[str], out: Path) -> RunTimes:
    """Run a Python program that writes parts, and read its times off these."""
    began = time()
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise WorkError(f"{' '.join(arguments[:3])} failed: {done.stderr.strip()}")
    return _times(out, SHARD, began, time())


def _times(out: Path, shard: int, began: float, ended: float, replicas: int = 1) -> RunTimes:
    """Return a run's times; work begins to count when each replica has written its first part."""
    written = sorted(part.stat().st_mtime for part in out.glob("part-*"))
    first = written[replicas - 1]
    rate = shard * (len(written) - replicas) / (written[-1] - first)
    return RunTimes(rate, first - began - replicas * shard / rate, ended - written[-1])


class NoEngine:
    """Answers at once, always the same."""

    name = "none"

    def run(
        self, clinical: Images | None, dermoscopy: Images | None, patient: Vectors | None = None
    ) -> dict[PredictionKind, Probabilities]:
        """See :class:`derm_ray.inference.engines.engine.Engine`."""
        del patient
        given = next(images for images in (clinical, dermoscopy) if images is not None)
        return dict.fromkeys(PredictionKind, np.full((len(given), 15), 1 / 15, np.float32))


def cost_at_scale(effort: Effort) -> Row:
    """Compare the cost per pair of a large and a small run, with an engine that does nothing.

    The large run counts with its plan, reconciliation and report, but without the start of a small run. The small runs
    count from their first to their last part.
    """
    many = effort.max_pairs
    with TemporaryDirectory() as folder, ray_session(num_cpus=machine_cpus() + 1, local=True):
        place = Path(folder)
        model = untrained(str(place / "model"), NetworkConfig(trunk="tiny"), FRAME_SIDE)
        numbers = count()
        large, small = (partial(_frame, model, place, pairs, numbers) for pairs in (many, FEW))
        small()
        figures = turns((lambda: [large()], lambda: [small() for _ in range(FEW_RUNS)]), effort.run_repetitions)
    costs = []
    for (all_of_it,), parts in figures:
        start_s, rate = mean(part.started_s for part in parts), mean(part.rate for part in parts)
        costs.append((1000 * (all_of_it.seconds(many) - start_s) / many, 1000 / rate))
    what = f"a pair's cost in a run of {many:,}, plan and reconciliation included / of {FEW:,}, first to last part"
    return to_row("scale", f"{what}; an engine that does nothing", costs, unit="ms", threshold=1.1, at_most=True)


def _frame(model: str, folder: Path, pairs: int, numbers: "count[int]") -> RunTimes:
    """Time a run in which all but the engine is real."""
    source = folder / f"{pairs}"
    if not source.exists():
        draw_pairs(source, pairs, FRAME_SIDE)
    out = folder / f"out{next(numbers)}"
    began = time()
    score(
        model,
        ManifestInput(str(source / "pairs.parquet")),
        str(out),
        engine=NoEngine(),
        shard_size=FRAME_SHARD,
        options=ScoringOptions(replicas=machine_cpus()),
    )
    return _times(out, FRAME_SHARD, began, time(), machine_cpus())
