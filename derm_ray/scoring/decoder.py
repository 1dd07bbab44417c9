"""Decoding actor of a bulk run, with one CPU. It does not import torch, so that it starts quickly and stays small."""

from collections.abc import Iterator
from contextlib import closing

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.errors import DermRayError
from derm_ray.observability import WorkerLogs
from derm_ray.ray_rows import Row, packed, unpacked
from derm_ray.scoring.loader import BATCH_SIZE, ShardLoader, loading_times
from derm_ray.scoring.metrics import WorkMetrics
from derm_ray.scoring.parts import Chunk, ShardOutcome


def chunk_pairs(spec: Preprocessing, chunk_bytes: int) -> int:
    """Return the pairs of a chunk: whole batches if possible, so that the same pairs share a forward pass."""
    pairs = max(1, chunk_bytes // (2 * 3 * spec.size**2))
    return pairs // BATCH_SIZE * BATCH_SIZE or pairs


class DecodingActor:
    """A :class:`ShardLoader` for Ray Data; expected errors are returned as failed outcomes.

    A chunk holds ``chunk_bytes`` of pixels at most; a single pair may be larger.
    """

    def __init__(self, out_uri: str, spec: Preprocessing, chunk_bytes: int, logs: WorkerLogs = WorkerLogs()) -> None:
        logs.begin()
        self._metrics = WorkMetrics(out_uri)
        self._size = chunk_pairs(spec, chunk_bytes)
        self._loader = ShardLoader(out_uri, spec, min(BATCH_SIZE, self._size), decoding_threads=1)

    def __call__(self, row: Row) -> Iterator[Row]:
        """Yield the chunks of a shard.

        They do not depend on how the shard is loaded: Ray repeats a failed call, and skips the chunks that it already
        yielded by their position.
        """
        shard = unpacked(row)
        first = shard.start
        try:
            with closing(self._loader.chunks(shard, self._size)) as chunks:
                for batch in chunks:
                    out, first = packed(Chunk(shard, first, batch, loading_times(batch))), first + len(batch)
                    del batch
                    self._metrics.export()
                    yield out
        except DermRayError as error:
            yield packed(ShardOutcome(shard, failure=str(error)))
