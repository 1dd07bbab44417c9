"""The file formats of parts."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from derm_ray.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class PartFormat:
    """How a table becomes bytes and back; ``name`` is also the suffix of the files.

    ``decode`` returns the named columns of bytes with a schema, or raises ``ValueError``.
    """

    name: str
    write: Callable[[pa.Table, BinaryIO], None]
    decode: Callable[[bytes, pa.Schema, Sequence[str]], pa.Table]

    def encode(self, table: pa.Table) -> bytes:
        """Return a table as the bytes of a file."""
        sink = io.BytesIO()
        self.write(table, sink)
        return sink.getvalue()


def part_format(name: str) -> PartFormat:
    """Return a format by name; a ``ConfigError`` lists the known ones."""
    if name not in FORMATS:
        raise ConfigError(unknown_name("format", name, tuple(FORMATS)))
    return FORMATS[name]


def _from_parquet(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(data))
    if not file.schema_arrow.equals(schema):
        raise ValueError("its columns are not those of this run")
    return file.read(list(names), use_threads=False)


def _from_csv(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    table = pacsv.read_csv(
        io.BytesIO(data),
        pacsv.ReadOptions(use_threads=False),
        pacsv.ParseOptions(newlines_in_values=True),
        pacsv.ConvertOptions(
            column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
        ),
    )
    if table.column_names != schema.names:
        raise ValueError("its columns are not those of this run")
    return table.select(list(names))


def _to_jsonl(table: pa.Table, sink: BinaryIO) -> None:
    for row in table.to_pylist():
        sink.write(json.dumps(row, ensure_ascii=False, default=datetime.isoformat).encode() + b"\n")


def _from_jsonl(data: bytes, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    rows: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]
    if any(not isinstance(row, dict) or list(row) != schema.names for row in rows):
        raise ValueError("its columns are not those of this run")
    for row in rows:
        row["scored_at"] = datetime.fromisoformat(row["scored_at"])
    return pa.Table.from_pylist(rows, schema=schema).select(list(names))


FORMATS = {
    "parquet": PartFormat("parquet", pq.write_table, _from_parquet),
    "csv": PartFormat("csv", pacsv.write_csv, _from_csv),
    "jsonl": PartFormat("jsonl", _to_jsonl, _from_jsonl),
}
