"""Writing the part of a shard, and its ledger row."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from derm_ray import storage
from derm_ray.lease import LeaseLostError, is_taken
from derm_ray.observability import WORK
from derm_ray.scoring.ledger import RunDescription, part_name
from derm_ray.scoring.shards import Shard


class StageTimes(NamedTuple):
    """Seconds of a shard, or of a piece of one.

    Attributes:
        read_s, decode_s: summed over the loading threads, which run in parallel with the rest.
        infer_s, write_s: of the engine (and saliency), and of the part.
    """

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

    Attributes:
        shard: the whole.
        scored, errors: its rows by status.
        times: of its stages.
        failure: why the shard has no part; empty if it has one.
    """

    shard: Shard
    scored: int = 0
    errors: int = 0
    times: StageTimes = field(default_factory=StageTimes)
    failure: str = ""


class PartWriter:
    """Writes parts, each atomically; a repetition overwrites its own part.

    Args:
        out_uri: folder of the parts.
        description: the run's identity.
        lease_uri: the run's record in the folder's lease; nothing is written after another process took it.
    """

    def __init__(self, out_uri: str, description: RunDescription, lease_uri: str | None = None) -> None:
        self._out_uri = out_uri
        self._format = description.part_format
        self._lease_uri = lease_uri

    def write(self, shard: Shard, tables: Sequence[pa.Table], times: StageTimes) -> ShardOutcome:
        """Write a shard's rows and return its row of the ledger.

        Args:
            shard: complete.
            tables: its rows, in order.
            times: durations so far.

        Raises:
            LeaseLostError: another process has taken the folder.
            StorageError: it cannot be written.
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
