"""Scoring actor of a bulk run. It imports little, since a run starts only after these imports."""

import logging
from typing import Any

import torch

from derm_ray.errors import DermRayError
from derm_ray.observability import WorkerLogs
from derm_ray.ray_rows import Row, packed, unpacked
from derm_ray.scoring.metrics import WorkMetrics
from derm_ray.scoring.parts import Chunk, ShardOutcome
from derm_ray.scoring.scorer import ShardScorer
from derm_ray.scoring.shards import Shard

logger = logging.getLogger(__name__)


class ScoringActor:
    """A :class:`ShardScorer` for Ray Data; expected errors are returned as failed outcomes.

    ``threads`` are those of torch, OpenVINO and decoding, regardless of ``OMP_NUM_THREADS``.
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

    def __call__(self, row: Row) -> Row:
        """Turn a shard into its outcome, or a decoded chunk into its rows of the part."""
        work: Shard | Chunk | ShardOutcome = unpacked(row)
        if isinstance(work, ShardOutcome):  # its decoding failed
            return row
        shard, failure = work if isinstance(work, Shard) else work.shard, self._failure
        if self._scorer is not None:
            try:
                return packed(self._scorer.score(work) if isinstance(work, Shard) else self._scorer.predict(work))
            except DermRayError as error:
                failure = str(error)
            finally:
                self._metrics.export()
        return packed(ShardOutcome(shard, failure=failure))
