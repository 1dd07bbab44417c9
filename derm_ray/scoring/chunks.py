"""Pieces of a shard that are passed between processes: pixels for the model, rows for a part."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from derm_ray.data.preprocessing import PairPixels, Preprocessing
from derm_ray.domain import LesionPair
from derm_ray.errors import ImageError, ImageErrorCode, ScoringError
from derm_ray.scoring.loader import BATCH_SIZE, Batch
from derm_ray.scoring.parts import PartWriter, ShardOutcome, StageTimes
from derm_ray.scoring.shards import PAIR_SCHEMA, SHARD_SCHEMA, Shard

CHUNK_BYTES = 32_000_000
"""Most pixels of a chunk; a single pair may be larger."""
PIXELS_SCHEMA = pa.schema(
    [
        *PAIR_SCHEMA,
        ("clinical", pa.large_binary()),
        ("dermoscopy", pa.large_binary()),
        ("flags", pa.list_(pa.string())),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
    ]
)


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
        table: its pairs with their pixels, or their rows of the part.
        times: durations so far.
        failure: why the shard cannot be scored; the table is empty then.
    """

    shard: Shard
    number: int = 0
    of: int = 0
    first: int = 0
    table: pa.Table = field(default_factory=lambda: pa.table({}))
    times: StageTimes = field(default_factory=StageTimes)
    failure: str = ""

    def to_row(self) -> pa.Table:
        """Return the chunk as one row, whose ``table`` is an Arrow stream."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        buffer = sink.getvalue()
        offsets = pa.py_buffer(np.array([0, buffer.size], np.int64))
        payload = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])
        own = {"number": self.number, "of": self.of, "first": self.first, **asdict(self.times), "failure": self.failure}
        row = pa.Table.from_pylist([{**self.shard.to_json(), **own}])
        return row.append_column("table", payload)

    @classmethod
    def from_row(cls, row: pa.Table) -> "Chunk":
        """Read it back; the pixels are not copied."""
        values: dict[str, Any] = row.drop_columns("table").to_pylist()[0]
        with pa.ipc.open_stream(row["table"][0].as_buffer()) as reader:
            table = reader.read_all()
        return cls(
            Shard(**{name: values[name] for name in SHARD_SCHEMA.names}),
            values["number"],
            values["of"],
            values["first"],
            table,
            StageTimes(**{name: values[name] for name in asdict(StageTimes())}),
            values["failure"],
        )


def pixels_table(batch: Batch) -> pa.Table:
    """Return pairs with their pixels, (size, size, 3) uint8 as bytes, or with their error."""
    rows = []
    for pair, one in zip(*batch, strict=True):
        row = {name: getattr(pair, name) for name in PAIR_SCHEMA.names}
        if isinstance(one, ImageError):
            row |= {"error_code": str(one.code), "error_message": one.message}
        else:
            images = {"clinical": one.clinical, "dermoscopy": one.dermoscopy}
            row |= {name: None if image is None else image.tobytes() for name, image in images.items()}
            row["flags"] = list(one.flags)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=PIXELS_SCHEMA)


def read_pixels(table: pa.Table, size: int) -> Batch:
    """Read back what :func:`pixels_table` returned; the pixels are not copied and cannot be written to.

    Args:
        table: of any rows.
        size: side of the images, pixels.
    """

    def image(value: pa.Scalar) -> Any:
        return np.frombuffer(value.as_buffer(), np.uint8).reshape(size, size, 3) if value.is_valid else None

    pairs = [LesionPair(**row) for row in table.select(PAIR_SCHEMA.names).to_pylist()]
    others = table.select(["flags", "error_code", "error_message"]).to_pylist()
    return pairs, [
        PairPixels(image(clinical), image(dermoscopy), tuple(row["flags"]))
        if row["error_code"] is None
        else ImageError(ImageErrorCode(row["error_code"]), row["error_message"])
        for clinical, dermoscopy, row in zip(table["clinical"], table["dermoscopy"], others, strict=True)
    ]


class Assembler:
    """Writes the part of a shard when all of its chunks have arrived, in any order.

    It keeps the rows of unfinished shards in memory, never pixels.

    Args:
        writer: of the parts.
    """

    def __init__(self, writer: PartWriter) -> None:
        self._writer = writer
        self._held: dict[Shard, dict[int, Chunk]] = {}
        self._written: set[int] = set()

    def add(self, chunk: Chunk) -> ShardOutcome | None:
        """Add a chunk of rows; return the shard's ledger row if it was the last chunk.

        Raises:
            ScoringError: the chunk is a repetition, or does not belong to its shard.
            StorageError, LeaseLostError: the part cannot be written.
        """
        shard, held = chunk.shard, self._held.setdefault(chunk.shard, {})
        if shard.index in self._written or chunk.number in held:
            raise ScoringError(f"chunk {chunk.number} came twice; nothing more was written.")
        held[chunk.number] = chunk
        if not 0 <= chunk.number < chunk.of or len({one.of for one in held.values()}) > 1:
            raise ScoringError(f"chunk {chunk.number} of {chunk.of} is not one of this shard; nothing was written.")
        if len(held) < chunk.of:
            return None
        chunks = [held[number] for number in range(chunk.of)]
        if (rows := sum(one.table.num_rows for one in chunks)) != len(shard):
            raise ScoringError(f"its chunks have {rows} rows instead of {len(shard)}; nothing was written.")
        times = StageTimes.total(one.times for one in chunks)
        outcome = self._writer.write(shard, [one.table for one in chunks], times)
        del self._held[shard]
        self._written.add(shard.index)
        return outcome

    def end(self, expected: Iterable[Shard]) -> None:
        """Check that all shards were written.

        Raises:
            ScoringError: chunks are missing.
        """
        missing = [shard for shard in expected if shard.index not in self._written]
        if missing:
            shard = missing[0]
            raise ScoringError(
                f"shard {shard.index}: {len(self._held.get(shard, {}))} of its chunks arrived; {len(missing)} "
                "shards were not written. The same command resumes the run."
            )
