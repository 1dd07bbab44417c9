"""Scoring one shard: read, decode, predict, write. Independent of Ray."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import torch

from derm_ray.inference.engines.engine import Engine
from derm_ray.scoring.ledger import RunDescription
from derm_ray.scoring.loader import BATCH_SIZE, LOADING_THREADS, ShardLoader
from derm_ray.scoring.parts import PartWriter, ShardOutcome, StageTimes
from derm_ray.scoring.shard_predictor import ShardPredictor
from derm_ray.scoring.shards import Shard


class ShardScorer:
    """Scores shards with one model, one after the other, in one process.

    Args:
        model_uri: a bundle.
        engine: its resolved name, or an engine.
        manifest_uri: the run's copy of its input.
        out_uri: folder of the parts.
        description: the run's identity.
        use_gpu: run on the GPU; otherwise on CPU, also where a GPU is visible.
        batch_size: pairs per forward pass.
        lease_uri: the run's record in the folder's lease; nothing is written after another process took it.
        on_batch: called after each batch.

    Raises:
        BundleError: the bundle has changed since the start of the run.
    """

    def __init__(
        self,
        model_uri: str,
        engine: str | Engine,
        manifest_uri: str,
        out_uri: str,
        description: RunDescription,
        *,
        use_gpu: bool = False,
        batch_size: int = BATCH_SIZE,
        lease_uri: str | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_batch = on_batch
        self._predictor = ShardPredictor(
            model_uri, engine, out_uri, description, use_gpu=use_gpu, batch_size=batch_size
        )
        self._loader = ShardLoader(
            manifest_uri,
            out_uri,
            self._predictor.bundle.preprocessing,
            batch_size,
            decoding_threads=LOADING_THREADS if use_gpu else torch.get_num_threads(),
        )
        self._writer = PartWriter(out_uri, description, lease_uri)

    def score(self, shard: Shard) -> ShardOutcome:
        """Score a shard and write its part, atomically; a repetition overwrites its own part.

        Raises:
            StorageError: storage does not respond, for the images, the input's copy or the output. Nothing is
                written then, so that the shard is scored when storage recovers.
        """
        tables: list[pa.Table] = []
        times: list[StageTimes] = []
        row = shard.start
        with closing(self._loader.batches(shard)) as batches:
            for pairs, loaded in batches:
                begun = time.perf_counter()
                tables.append(self._predictor.table(shard, row, pairs, loaded))
                times.append(replace(StageTimes.of_loading(loaded), infer_s=time.perf_counter() - begun))
                row += len(pairs)
                self._on_batch()
        return self._writer.write(shard, tables, StageTimes.total(times))
