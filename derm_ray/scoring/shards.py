"""Shards: references to rows of the run's own copy of its input."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.data.archives.ranges import BLOCK, STREAM_BLOCK, open_ranges
from derm_ray.data.patient import NumberField, PatientEncoder
from derm_ray.domain import LesionPair
from derm_ray.errors import StorageError

SHARD_SIZE = 256
COLUMNS = ("pair_id", "lesion_id", "clinical_uri", "dermoscopy_uri")
PAIR_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])


@dataclass(frozen=True)
class Shard:
    """A reference to the rows ``start`` to ``stop``, without their content.

    ``index`` is its position in the run and its row group of the copy, ``digest`` the SHA-256 of the rows and of the
    run's model, engine and options.
    """

    index: int
    start: int
    stop: int
    digest: str

    @property
    def name(self) -> str:
        """Stem of the file that holds its scores."""
        return f"part-{self.index:06d}-{self.digest[:16]}"

    def __len__(self) -> int:
        return self.stop - self.start


def pair_schema(patient: PatientEncoder | None) -> pa.Schema:
    """Return the columns of a run's copy of its input: those of all runs, and the patient data that its model uses."""
    fields = patient.fields if patient is not None else ()
    kinds = ((of.name, pa.float64() if isinstance(of, NumberField) else pa.string()) for of in fields)
    return pa.schema([*PAIR_SCHEMA, *(pa.field(name, kind) for name, kind in kinds)])


def row_line(pair: LesionPair) -> bytes:
    """Return the bytes of a row for digests: its ids and image URIs, and its patient data, if any."""
    values: list[object] = [getattr(pair, name) for name in COLUMNS]
    if pair.patient:
        values.append(dict(pair.patient))
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


class PairReader:
    """Reads shards from the run's copy of its input; the file's footer is read once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._metadata: pq.FileMetaData | None = None

    def read(self, shard: Shard) -> list[LesionPair]:
        """Return a shard's pairs; a ``StorageError`` says that the copy cannot be read."""
        with self._open() as file:
            table = file.read_row_group(shard.index, use_threads=False)
        if table.num_rows != len(shard):
            raise StorageError(
                f"{self._uri}: row group {shard.index} does not match shard {shard.start}..{shard.stop}."
            )
        further = table.column_names[len(COLUMNS) :]
        if not further:
            return [LesionPair(**row) for row in table.to_pylist()]
        rows = table.to_pylist()
        patients = [{name: value for name in further if (value := row.pop(name)) is not None} for row in rows]
        return [LesionPair(**row, patient=patient) for row, patient in zip(rows, patients, strict=True)]

    def ids(self, shards: Iterator[Shard]) -> Iterator[tuple[Shard, pa.ChunkedArray]]:
        """Yield the ``pair_id`` column of one shard after the other."""
        with self._open(STREAM_BLOCK) as file:
            for shard in shards:
                yield shard, file.read_row_group(shard.index, columns=["pair_id"], use_threads=False)["pair_id"]

    @contextmanager
    def _open(self, block: int = BLOCK) -> Iterator[pq.ParquetFile]:
        try:
            with open_ranges(self._uri, block) as file, storage.translate_errors(self._uri):
                parquet = pq.ParquetFile(file, metadata=self._metadata)
                self._metadata = parquet.metadata
                yield parquet
        except pa.ArrowException as error:
            raise StorageError(
                f"{self._uri} is damaged ({error}). Restore it, or score into another folder."
            ) from error
