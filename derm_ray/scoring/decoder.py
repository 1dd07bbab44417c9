"""Decoding actor of a bulk run, with one CPU. It does not import torch, so that it starts quickly and stays small."""

from collections.abc import Iterator
from contextlib import closing

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.datasets import Row, packed, unpacked
from derm_ray.errors import DermRayError
from derm_ray.observability import WorkerLogs
from derm_ray.scoring.chunks import Chunk, chunk_pairs
from derm_ray.scoring.loader import BATCH_SIZE, ShardLoader, loading_times
from derm_ray.scoring.metrics import WorkMetrics
from derm_ray.scoring.parts import ShardOutcome


class DecodingActor:
    """A :class:`ShardLoader` for Ray Data; expected errors are returned as failed outcomes.

    Args:
        manifest_uri: the run's copy of its input.
        out_uri: folder of the run.
        spec: of the model.
        chunk_bytes: most pixels of a chunk.
        logs: how it logs.
    """

    def __init__(
        self,
        manifest_uri: str,
        out_uri: str,
        spec: Preprocessing,
        chunk_bytes: int,
        logs: WorkerLogs = WorkerLogs(),
    ) -> None:
        logs.begin()
        self._metrics = WorkMetrics(out_uri)
        self._size = chunk_pairs(spec, chunk_bytes)
        self._loader = ShardLoader(manifest_uri, out_uri, spec, min(BATCH_SIZE, self._size), decoding_threads=1)

    def __call__(self, row: Row) -> Iterator[Row]:
        """Yield the chunks of a shard."""
        shard = unpacked(row)
        # Known in advance and independent of how the shard is loaded: Ray repeats a failed call, and skips the chunks
        # that it already yielded by their position.
        of = -(-len(shard) // self._size)
        try:
            with closing(self._loader.chunks(shard, self._size)) as chunks:
                for number, batch in enumerate(chunks):
                    chunk = Chunk(shard, number, of, shard.start + number * self._size, batch, loading_times(batch[1]))
                    out = packed(chunk)
                    del batch, chunk
                    self._metrics.export()
                    yield out
        except DermRayError as error:
            yield packed(ShardOutcome(shard, failure=str(error)))
