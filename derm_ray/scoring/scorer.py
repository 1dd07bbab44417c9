"""Scoring one shard: read, decode, predict, write. It does not know where it runs."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
import torch

from derm_ray import __version__, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.preprocessing import PairPixels, load_pairs
from derm_ray.errors import ImageError, ImageErrorCode, StorageError
from derm_ray.inference.engines import Engine
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.schema import score_table
from derm_ray.scoring.shards import Shard, read_shard
from derm_ray.vocabulary import LesionPair, Prediction

LOADING_THREADS = 8
Loaded = list[PairPixels | ImageError]


@dataclass(frozen=True)
class ShardOutcome:
    """One row of a run's ledger.

    Attributes:
        index: the shard's.
        scored, errors: its rows by status.
        seconds: from reading to the written part.
    """

    index: int
    scored: int
    errors: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON types."""
        return asdict(self)


class ShardScorer:
    """Scores shards with one model, one after the other.

    Args:
        model_uri: a bundle.
        engine: its resolved name, or an engine.
        manifest_uri: the run's copy of the manifest.
        out_uri: folder of the parts.
        branches: also write the probabilities of every prediction kind.
        use_gpu: run on the GPU; otherwise on CPU, also where a GPU is visible.
        batch_size: pairs per forward pass.
    """

    def __init__(
        self,
        model_uri: str,
        engine: str | Engine,
        manifest_uri: str,
        out_uri: str,
        *,
        branches: bool = False,
        use_gpu: bool = False,
        batch_size: int = 32,
    ) -> None:
        device = torch.device("cuda" if use_gpu else "cpu")
        self._predictor = Predictor(load_bundle(model_uri), engine, batch_size=batch_size, device=device)
        self._manifest_uri = manifest_uri
        self._out_uri = out_uri
        self._branches = branches

    def score(self, shard: Shard) -> ShardOutcome:
        """Score a shard and write its part, atomically; a repetition overwrites its own part.

        Raises:
            StorageError: storage does not answer, for an image, the manifest copy or the output. Nothing is
                written then, so that the shard is scored when storage is back; images that are missing,
                forbidden or broken become rows.
        """
        started = time.perf_counter()
        pairs = read_shard(self._manifest_uri, shard)
        results: list[Prediction | ImageError] = []
        for loaded in self._load(pairs):
            if outage := next((e for e in loaded if _is_outage(e)), None):
                raise StorageError(str(outage))
            predictions = iter(self._predictor.predict([p for p in loaded if isinstance(p, PairPixels)]))
            results += [p if isinstance(p, ImageError) else next(predictions) for p in loaded]
        bundle = self._predictor.bundle
        table = score_table(
            pairs,
            results,
            bundle.label_set,
            branches=self._branches,
            provenance={
                "model_digest": bundle.model_digest,
                "engine": self._predictor.engine.name,
                "derm_ray_version": __version__,
            },
            scored_at=datetime.now(UTC),
        )
        sink = BytesIO()
        pq.write_table(table, sink)
        storage.write_bytes(storage.join(self._out_uri, shard.part_name), sink.getvalue())
        errors = sum(isinstance(result, ImageError) for result in results)
        return ShardOutcome(shard.index, len(results) - errors, errors, time.perf_counter() - started)

    def _load(self, pairs: list[LesionPair]) -> Iterator[Loaded]:
        """Yield micro-batches; the next one is read and decoded while the caller predicts this one."""
        size, spec = self._predictor.batch_size, self._predictor.bundle.preprocessing
        with ThreadPoolExecutor(LOADING_THREADS) as images, ThreadPoolExecutor(1) as ahead:

            def begin(start: int) -> "Future[Loaded]":
                return ahead.submit(load_pairs, pairs[start : start + size], spec, images)

            following = begin(0)
            for start in range(size, len(pairs) + size, size):
                loaded = following.result()
                following = begin(start)
                yield loaded


def _is_outage(result: PairPixels | ImageError) -> bool:
    return isinstance(result, ImageError) and result.code is ImageErrorCode.STORAGE
