"""Scoring one shard: read, decode, predict, write. Independent of Ray."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch

from derm_ray import __version__, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.preprocessing import PairPixels
from derm_ray.errors import BundleError, ImageError
from derm_ray.inference.engines.engine import Engine
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import SaliencyMapper, overlay_files
from derm_ray.observability import WORK
from derm_ray.scoring.ledger import SALIENCY, RunDescription
from derm_ray.scoring.loader import BATCH_SIZE, LOADING_THREADS, Batch, ShardLoader, loading_times
from derm_ray.scoring.parts import Chunk, PartWriter, ShardOutcome, StageTimes
from derm_ray.scoring.schema import error_columns, prediction_columns
from derm_ray.scoring.shards import Shard


class ShardScorer:
    """Scores shards with one model, one after the other, in one process.

    Args:
        model_uri: a bundle.
        engine: its resolved name, or an engine.
        out_uri: folder of the run.
        description: the run's identity.
        use_gpu: run on the GPU; otherwise on CPU, also where a GPU is visible.
        lease_uri: the run's record in the folder's lease; nothing is written after another process took it.
        on_batch: called after each batch.

    Raises:
        BundleError: the bundle no longer holds the run's model and engine.
    """

    def __init__(
        self,
        model_uri: str,
        engine: str | Engine,
        out_uri: str,
        description: RunDescription,
        *,
        use_gpu: bool = False,
        batch_size: int = BATCH_SIZE,
        lease_uri: str | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        device = torch.device("cuda" if use_gpu else "cpu")
        self._bundle = load_bundle(model_uri)
        if self._bundle.model_digest != description.model_digest:
            raise BundleError(f"{model_uri} changed during the run. Restore the model and resume.")
        self._predictor = Predictor(self._bundle, engine, batch_size=batch_size, device=device)
        if self._predictor.engine.name != description.engine:
            raise BundleError(
                f"{model_uri} now contains {self._predictor.engine.name}, but the run started with "
                f"{description.engine}. Restore it and resume."
            )
        self._mapper = SaliencyMapper(self._bundle, device) if description.saliency else None
        self._out_uri = out_uri
        self._schema = description.schema
        self._loader = ShardLoader(
            out_uri,
            self._bundle.preprocessing,
            batch_size,
            decoding_threads=LOADING_THREADS if use_gpu else torch.get_num_threads(),
        )
        self._writer = PartWriter(out_uri, description, lease_uri)
        self._on_batch = on_batch

    def score(self, shard: Shard) -> ShardOutcome:
        """Score a shard and write its part, atomically; a repetition overwrites its own part.

        Raises:
            StorageError: storage does not respond. Nothing is written then, so that a later call scores the shard.
        """
        tables: list[pa.Table] = []
        times: list[StageTimes] = []
        row = shard.start
        with closing(self._loader.batches(shard)) as batches:
            for batch in batches:
                begun = time.perf_counter()
                tables.append(self._table(shard, row, batch))
                times.append(loading_times(batch)._replace(infer_s=time.perf_counter() - begun))
                row += len(batch)
                self._on_batch()
        return self._writer.write(shard, tables, StageTimes.total(times))

    def predict(self, chunk: Chunk) -> Chunk:
        """Return a chunk of pixels as the chunk of its rows, predicted in the batches of :meth:`score`."""
        begun = time.perf_counter()
        tables = [
            self._table(chunk.shard, chunk.first + at, chunk.content[at : at + BATCH_SIZE])
            for at in range(0, len(chunk.content), BATCH_SIZE)
        ]
        times = chunk.times._replace(infer_s=time.perf_counter() - begun)
        return replace(chunk, content=pa.concat_tables(tables), times=times)

    def _table(self, shard: Shard, first: int, batch: Batch) -> pa.Table:
        """Return the rows of a batch, whose first pair has this row in the run, and write their overlays."""
        predictions = iter(self._predictor.predict([pixels for _, pixels in batch if isinstance(pixels, PairPixels)]))
        same = {
            "model_digest": self._bundle.model_digest,
            "engine": self._predictor.engine.name,
            "derm_ray_version": __version__,
            "scored_at": datetime.now(UTC),
        }
        rows = []
        for row, (pair, result) in enumerate(batch, first):
            if isinstance(result, ImageError):
                WORK.add("errors", str(result.code))
                own = error_columns(result)
            else:
                own = prediction_columns(next(predictions), self._bundle.label_set)
                own |= {"flags": " ".join(result.flags) or None, **self._overlays(result, shard, row)}
            rows.append({"pair_id": pair.pair_id, "lesion_id": pair.lesion_id, **own, **same})
        return pa.Table.from_pylist(rows, schema=self._schema)

    def _overlays(self, pixels: PairPixels, shard: Shard, row: int) -> dict[str, Any]:
        """Write the overlays of one pair, named by its row, and return the columns of their paths."""
        columns = {}
        for modality, png in overlay_files(self._mapper, pixels).items() if self._mapper else ():
            path = columns[f"{modality}_saliency"] = f"{SALIENCY}/{shard.index:06d}/{row:09d}-{modality}.png"
            storage.write_bytes(storage.join(self._out_uri, path), png)
        return columns
