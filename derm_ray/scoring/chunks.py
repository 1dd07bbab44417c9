"""Pieces of a shard that are passed between processes: pixels for the model, rows for a part."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from derm_ray.data.preprocessing import Preprocessing
from derm_ray.errors import ScoringError
from derm_ray.scoring.loader import BATCH_SIZE
from derm_ray.scoring.parts import PartWriter, ShardOutcome, StageTimes
from derm_ray.scoring.shards import Shard

CHUNK_BYTES = 32_000_000
"""Most pixels of a chunk; a single pair may be larger."""


def chunk_pairs(spec: Preprocessing, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Return the pairs of a chunk: whole batches if possible, so that the same pairs share a forward pass."""
    pairs = max(1, chunk_bytes // (2 * 3 * spec.size**2))
    return pairs // BATCH_SIZE * BATCH_SIZE or pairs


@dataclass(frozen=True)
class Chunk:
    """A piece of a shard.

    Attributes:
        shard: the whole.
        number, of: which piece, from 0, of how many.
        first: row of its first pair in the run.
        content: its pairs with their pixels, a :data:`derm_ray.scoring.loader.Batch`; or their rows of the part.
        times: durations so far.
    """

    shard: Shard
    number: int
    of: int
    first: int
    content: Any
    times: StageTimes


class Assembler:
    """Writes the part of a shard when all of its chunks have arrived, in any order.

    It keeps the rows of unfinished shards in memory, never pixels.

    Args:
        writer: of the parts.
    """

    def __init__(self, writer: PartWriter) -> None:
        self._writer = writer
        self._held: dict[Shard, dict[int, Chunk]] = {}
        self._written: set[Shard] = set()

    def add(self, chunk: Chunk) -> ShardOutcome | None:
        """Add a chunk of rows; return the shard's ledger row if it was the last chunk.

        Raises:
            ScoringError: the chunk is a repetition, or does not belong to its shard.
            StorageError, LeaseLostError: the part cannot be written.
        """
        shard, held = chunk.shard, self._held.setdefault(chunk.shard, {})
        if shard in self._written or chunk.number in held:
            raise ScoringError(f"chunk {chunk.number} came twice; nothing more was written.")
        held[chunk.number] = chunk
        if not 0 <= chunk.number < chunk.of or len({one.of for one in held.values()}) > 1:
            raise ScoringError(f"chunk {chunk.number} of {chunk.of} is not one of this shard; nothing was written.")
        if len(held) < chunk.of:
            return None
        chunks = [held[number] for number in range(chunk.of)]
        if (rows := sum(one.content.num_rows for one in chunks)) != len(shard):
            raise ScoringError(f"its chunks have {rows} rows instead of {len(shard)}; nothing was written.")
        times = StageTimes.total(one.times for one in chunks)
        outcome = self._writer.write(shard, [one.content for one in chunks], times)
        del self._held[shard]
        self._written.add(shard)
        return outcome

    def end(self, expected: Iterable[Shard]) -> None:
        """Check that all shards were written.

        Raises:
            ScoringError: chunks are missing.
        """
        missing = [shard for shard in expected if shard not in self._written]
        if missing:
            shard = missing[0]
            raise ScoringError(
                f"shard {shard.index}: {len(self._held.get(shard, {}))} of its chunks arrived; {len(missing)} "
                "shards were not written. The same command resumes the run."
            )
