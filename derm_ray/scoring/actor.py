"""Scoring actors of a bulk run. They import little, since a run starts only after these imports."""

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from derm_ray.errors import DermRayError
from derm_ray.observability import WorkerLogs
from derm_ray.scoring.chunks import Chunk
from derm_ray.scoring.metrics import WorkMetrics
from derm_ray.scoring.parts import ShardOutcome
from derm_ray.scoring.scorer import ShardScorer
from derm_ray.scoring.shard_predictor import ShardPredictor
from derm_ray.scoring.shards import Shard

logger = logging.getLogger(__name__)


class ScoringActor:
    """A :class:`ShardScorer` for Ray Data; expected errors are returned in ``failure``.

    Args:
        threads: of torch, OpenVINO and decoding, regardless of ``OMP_NUM_THREADS``.
        logs: how it logs.
        scorer: the scorer's arguments.
    """

    def __init__(self, *, threads: int, logs: WorkerLogs = WorkerLogs(), **scorer: Any) -> None:
        logs.begin()
        torch.set_num_threads(threads)
        self._metrics = WorkMetrics(scorer["out_uri"])
        self._scorer: ShardScorer | None = None
        self._failure = ""
        try:
            self._scorer = ShardScorer(**scorer, on_batch=self._metrics.export)
            logger.info("ready to score, %d threads", threads)
        except DermRayError as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Score the one shard of a batch and return its ledger row."""
        shard = Shard.from_batch(batch)
        outcome, failure = ShardOutcome(shard.index), self._failure
        if self._scorer is not None:
            try:
                outcome = self._scorer.score(shard)
            except DermRayError as error:
                failure = str(error)
        self._metrics.export()
        return {name: [value] for name, value in outcome.to_json(failure).items()}


class PredictingActor:
    """A :class:`ShardPredictor` for Ray Data; expected errors are returned in ``failure``.

    Args:
        threads, logs: as of :class:`ScoringActor`.
        predictor: the predictor's arguments.
    """

    def __init__(self, *, threads: int, logs: WorkerLogs = WorkerLogs(), **predictor: Any) -> None:
        logs.begin()
        torch.set_num_threads(threads)
        self._metrics = WorkMetrics(predictor["out_uri"])
        self._predictor: ShardPredictor | None = None
        self._failure = ""
        try:
            self._predictor = ShardPredictor(**predictor)
            logger.info("ready to predict, %d threads", threads)
        except DermRayError as error:
            self._failure = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict the one chunk of a batch, pixels, and return it with its rows of the part."""
        chunk = Chunk.from_row(batch)
        failure = chunk.failure or self._failure
        if self._predictor is not None and not failure:
            try:
                return self._predictor.chunk(chunk).to_row()
            except DermRayError as error:
                failure = str(error)
            finally:
                self._metrics.export()
        return Chunk(chunk.shard, failure=failure).to_row()
