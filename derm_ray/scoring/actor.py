"""A replica of a bulk run. It imports nothing of the driver's: a run begins when all this is imported."""

from typing import Any

import numpy as np

from derm_ray.errors import DermRayError
from derm_ray.scoring.parts import ShardOutcome
from derm_ray.scoring.scorer import ShardScorer
from derm_ray.scoring.shards import Shard


class ScoringActor:
    """A :class:`ShardScorer` as Ray Data calls it; what goes wrong on purpose is told in ``failure``."""

    def __init__(self, **scorer: Any) -> None:
        self._scorer: ShardScorer | None = None
        self._failure = ""
        try:
            self._scorer = ShardScorer(**scorer)
        except DermRayError as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Score the one shard of a batch and return its ledger row."""
        shard = Shard(
            **{name: column[0] if column.dtype == object else column[0].item() for name, column in batch.items()}
        )
        outcome, failure = ShardOutcome(shard.index), self._failure
        if self._scorer is not None:
            try:
                outcome = self._scorer.score(shard)
            except DermRayError as error:
                failure = str(error)
        return {name: [value] for name, value in outcome.to_json(failure).items()}
