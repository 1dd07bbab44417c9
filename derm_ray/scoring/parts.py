"""Writing the part of a shard, whole or from chunks, and its row of the run's ledger."""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from derm_ray import storage
from derm_ray.errors import DermRayError, ScoringError, counted
from derm_ray.lease import LeaseLostError, is_taken
from derm_ray.observability import WORK
from derm_ray.scoring.ledger import RunDescription, part_name
from derm_ray.scoring.shards import Shard


class StageTimes(NamedTuple):
    """Seconds of a shard or a piece of one; reading and decoding are summed over parallel threads."""

    read_s: float = 0.0
    decode_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0

    @classmethod
    def total(cls, times: Iterable["StageTimes"]) -> "StageTimes":
        """Return the sums."""
        return cls(*map(sum, zip(*times, strict=True)))


@dataclass(frozen=True)
class ShardOutcome:
    """One row of a run's ledger.

    ``scored`` and ``errors`` are its rows by status, ``failure`` is why it has no part, empty if it has one.
    """

    shard: Shard
    scored: int = 0
    errors: int = 0
    times: StageTimes = field(default_factory=StageTimes)
    failure: str = ""


class PartWriter:
    """Writes parts, atomically, unless another process took the folder's lease; a repetition overwrites its own."""

    def __init__(self, out_uri: str, description: RunDescription, lease_uri: str | None = None) -> None:
        self._out_uri = out_uri
        self._format = description.part_format
        self._lease_uri = lease_uri

    def write(self, shard: Shard, tables: Sequence[pa.Table], times: StageTimes) -> ShardOutcome:
        """Write all rows of a shard, in order, and return its row of the ledger.

        Raises:
            LeaseLostError, StorageError: another process has taken the folder, or it cannot be written.
        """
        begun = time.perf_counter()
        table = pa.concat_tables(tables)
        if self._lease_uri is not None and is_taken(self._lease_uri):
            raise LeaseLostError(f"another process now writes to {self._out_uri}; this one stopped.")
        data = self._format.encode(table)
        storage.write_bytes(storage.join(self._out_uri, part_name(shard, self._format.name)), data)
        WORK.add("bytes", "written", len(data))
        errors = table["error_code"].drop_null().length()
        times = times._replace(write_s=time.perf_counter() - begun)
        return ShardOutcome(shard, table.num_rows - errors, errors, times)


@dataclass(frozen=True)
class Chunk:
    """A piece of a shard between processes: pairs with their pixels (a :data:`derm_ray.scoring.loader.Batch`), later
    rows.

    ``first`` is the row of its first pair in the run.
    """

    shard: Shard
    first: int
    content: Any
    times: StageTimes


def assemble(
    arrived: Generator[Chunk | ShardOutcome], shards: Iterable[Shard], writer: PartWriter
) -> Generator[ShardOutcome]:
    """Write the part of a shard when all of its chunks have arrived, in any order; yield one outcome per shard.

    Rows of unfinished shards stay in memory, never pixels.

    Raises:
        ScoringError: chunks are missing.
    """
    unfinished: dict[Shard, list[Chunk]] = {shard: [] for shard in shards}
    with closing(arrived):
        for one in arrived:
            shard = one.shard
            if isinstance(one, ShardOutcome):  # its decoding or its scoring failed
                yield one
                continue
            chunks = unfinished.get(shard, [])
            chunks.append(one)
            if shard in unfinished and sum(chunk.content.num_rows for chunk in chunks) < len(shard):
                continue
            chunks.sort(key=lambda chunk: chunk.first)
            ends = [chunk.first + chunk.content.num_rows for chunk in chunks]
            try:
                if shard not in unfinished or [shard.start, *ends] != [*(c.first for c in chunks), shard.stop]:
                    raise ScoringError(f"the chunk of row {one.first} came twice; nothing more was written.")
                times = StageTimes.total(chunk.times for chunk in chunks)
                outcome = writer.write(shard, [chunk.content for chunk in chunks], times)
            except DermRayError as error:
                outcome = ShardOutcome(shard, failure=str(error))
            unfinished.pop(shard, None)
            yield outcome
    if unfinished:
        raise ScoringError(f"not written: {counted(len(unfinished), 'shard')}. The same command resumes the run.")
