"""Fixed slices of a manifest, named by a digest of all that decides their scores."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.data.manifest import SCHEMA, URI_COLUMNS, Manifest, conform
from derm_ray.errors import StorageError
from derm_ray.vocabulary import LesionPair

SHARD_SIZE = 256


@dataclass(frozen=True)
class Shard:
    """A reference to rows of the run's own copy of the manifest; it never carries the rows.

    Attributes:
        index: position in the run; also the row group of the copy.
        start, stop: rows.
        digest: SHA-256 of the rows and of the run's model, engine and options.
    """

    index: int
    start: int
    stop: int
    digest: str

    @property
    def part_name(self) -> str:
        """Name of the file that holds its scores."""
        return f"part-{self.index:06d}-{self.digest[:16]}.parquet"

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as JSON types."""
        return asdict(self)


def plan_shards(manifest: Manifest, run: dict[str, Any], shard_size: int) -> Iterator[Shard]:
    """Cut a manifest into shards of ``shard_size`` rows, the last one shorter.

    Args:
        manifest: image URIs absolute.
        run: model, engine and options, as JSON; part of every digest.
        shard_size: rows per shard.
    """
    run_digest = storage.digest(run)
    columns = [manifest.column(name) for name in ("pair_id", "lesion_id", *URI_COLUMNS)]
    for index, start in enumerate(range(0, len(manifest), shard_size)):
        stop = min(start + shard_size, len(manifest))
        rows = storage.digest([column[start:stop] for column in columns])
        yield Shard(index, start, stop, storage.digest([run_digest, rows]))


def freeze_manifest(manifest: Manifest, uri: str, shard_size: int) -> None:
    """Write the run's own copy of a manifest, one row group per shard, so that a shard is one read."""
    sink = BytesIO()
    pq.write_table(manifest.table.select(SCHEMA.names), sink, row_group_size=shard_size)
    storage.write_bytes(uri, sink.getvalue())


def read_shard(uri: str, shard: Shard) -> list[LesionPair]:
    """Return a shard's pairs from the run's copy of the manifest.

    Raises:
        StorageError: the copy cannot be read.
    """
    fs, path = storage.filesystem(uri)
    with storage.explained(uri), fs.open(path, "rb") as file:
        table = pq.ParquetFile(file).read_row_group(shard.index)
    if table.num_rows != shard.stop - shard.start:
        raise StorageError(f"{uri}: row group {shard.index} is not the shard {shard.start}..{shard.stop}.")
    return conform(table, uri).pairs()
