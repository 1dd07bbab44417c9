"""Writing a manifest piece by piece, so that memory does not grow with its length."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.errors import ConfigError


def require_manifest_name(uri: str) -> None:
    """Check the file extension of a manifest.

    Raises:
        ConfigError: it does not end in a known suffix.
    """
    _format(uri)


def write_tables(tables: Iterable[pa.Table], uri: str) -> None:
    """Write tables of one schema as a manifest, atomically, in the format its name ends in.

    Raises:
        ConfigError: the name does not end in a known suffix.
        StorageError: it cannot be written.
    """
    write = _format(uri)
    with tempfile.TemporaryDirectory(prefix="derm_ray_") as folder:
        path = Path(folder) / "manifest"
        with storage.translate_errors(str(path)), path.open("xb") as file:
            write(tables, file)
        storage.upload(str(path), uri)


def _format(uri: str) -> Callable[[Iterable[pa.Table], BinaryIO], None]:
    for suffix, write in {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}.items():
        if uri.lower().endswith(suffix):
            return write
    raise ConfigError(f"{uri}: a manifest's name must end in one of .parquet, .csv, .jsonl.")


def _parquet(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _csv(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for number, table in enumerate(tables):
        pc.write_csv(table, file, pc.WriteOptions(include_header=number == 0, quoting_style="needed"))


def _jsonl(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for table in tables:
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
