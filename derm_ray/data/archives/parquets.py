"""Images inside Parquet: chunks of image bytes, read once and shared, and what the other columns say."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray.data.archives.address import ParquetCell
from derm_ray.data.archives.names import Damaged
from derm_ray.data.archives.ranges import open_ranges
from derm_ray.data.archives.refusals import changed, too_large
from derm_ray.data.manifest import conform
from derm_ray.errors import DermRayError, ImageError, ImageErrorCode
from derm_ray.vocabulary import Modality

MAX_CHUNK_BYTES = 512 * 1024 * 1024
"""Bytes of one image column in one row group, unpacked."""
CACHE_BYTES = 2 * MAX_CHUNK_BYTES
"""Bytes of chunks that are kept: a pair's two fit."""

_Key = tuple[str, str, int]
Chunk = list[bytes | None]


class ChunkCache:
    """Column chunks by (file, column, row group), least recently used go first; thread-safe.

    Several threads that want the same chunk wait for one read.
    """

    def __init__(self) -> None:
        self._chunks: OrderedDict[_Key, Future[Chunk]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, cell: ParquetCell, max_bytes: int) -> bytes:
        """Return one image.

        Raises:
            StorageError: storage failed.
            ImageError: ``too_large`` or ``corrupt``.
        """
        chunk = self._chunk((cell.container, cell.column, cell.group), cell)
        data = chunk[cell.row] if cell.row < len(chunk) else None
        if data is None:
            raise changed(cell)
        if len(data) > max_bytes:
            raise too_large(cell, len(data), max_bytes)
        return data

    def _chunk(self, key: _Key, cell: ParquetCell) -> Chunk:
        with self._lock:
            future = self._chunks.get(key)
            mine = future is None
            if future is None:
                future = self._chunks[key] = Future()
            self._chunks.move_to_end(key)
        if mine:
            try:
                future.set_result(_read_chunk(cell))
            except BaseException as error:
                with self._lock:
                    del self._chunks[key]
                future.set_exception(error)
            else:
                self._evict(key)
        return future.result()

    def _evict(self, newest: _Key) -> None:
        with self._lock:
            sizes = {key: _bytes(future.result()) for key, future in self._chunks.items() if future.done()}
            for key, size in list(sizes.items()):
                if sum(sizes.values()) <= CACHE_BYTES:
                    break
                if key != newest and size:
                    del self._chunks[key], sizes[key]


def _bytes(chunk: Chunk) -> int:
    return sum(len(data) for data in chunk if data is not None)


@contextmanager
def opened(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Raises:
        StorageError: storage failed.
        Damaged: it is no Parquet file, or broken.
    """
    try:
        with open_ranges(uri) as file:
            yield pq.ParquetFile(file)
    except (DermRayError, Damaged):
        raise
    except Exception as error:  # Arrow raises its own and Python's errors on broken files
        raise Damaged(f"cannot be read as Parquet: {error}") from error


def image_leaves(file: pq.ParquetFile) -> dict[str, int]:
    """Return the image columns, binary or ``{bytes, path}``, with the number of the column that holds their bytes."""
    leaves = {file.schema.column(i).path: i for i in range(len(file.schema))}
    found = {}
    for field in file.schema_arrow:
        if _is_binary(field.type):
            found[field.name] = leaves[field.name]
        elif pa.types.is_struct(field.type) and any(f.name == "bytes" and _is_binary(f.type) for f in field.type):
            found[field.name] = leaves[f"{field.name}.bytes"]
    return found


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_chunk(cell: ParquetCell) -> Chunk:
    try:
        with opened(cell.container) as file:
            leaf = image_leaves(file).get(cell.column)
            if leaf is None or cell.group >= file.num_row_groups:
                raise changed(cell)
            return list(_cells(file, cell, leaf))
    except Damaged as error:
        raise ImageError(ImageErrorCode.CORRUPT, f"{cell}: {error}") from error


def _cells(file: pq.ParquetFile, cell: ParquetCell, leaf: int) -> Iterator[bytes | None]:
    declared = file.metadata.row_group(cell.group).column(leaf).total_uncompressed_size
    if declared > MAX_CHUNK_BYTES:
        raise _too_large_chunk(cell)
    path = file.schema.column(leaf).path
    total = 0
    # One row at a time: with a dictionary a few bytes of the file can stand for the same large image many times.
    for batch in file.iter_batches(1, row_groups=[cell.group], columns=[path], use_threads=False):
        column = batch.column(0)
        if pa.types.is_struct(column.type):
            column = column.field("bytes")
        data = column[0].as_py()
        total += len(data or b"")
        if total > MAX_CHUNK_BYTES:
            raise _too_large_chunk(cell)
        yield data


def _too_large_chunk(cell: ParquetCell) -> ImageError:
    return ImageError(
        ImageErrorCode.TOO_LARGE,
        f"{cell}: row group {cell.group} holds more than {MAX_CHUNK_BYTES:,} bytes of images; write the file again "
        "with fewer rows in a row group",
    )


def has_images(uri: str) -> bool:
    """Tell whether a Parquet file has a column of images.

    Raises:
        StorageError: storage failed.
        Damaged: it is no Parquet file, or broken.
    """
    with opened(uri) as file:
        return any(str(modality) in image_leaves(file) for modality in Modality)


def index_tables(uri: str) -> Iterator[pa.Table]:
    """Yield one manifest table for every row group; only the other columns are read where statistics tell of nulls.

    Columns that are neither image nor known to manifests are kept as text, nested ones are not.

    Raises:
        StorageError: storage failed.
        Damaged: it is broken, has no image column or too large row groups.
        ManifestError: it has no id column, or a column of the wrong type.
    """
    with opened(uri) as file:
        leaves = image_leaves(file)
        images = {m: leaf for m in Modality if (leaf := leaves.get(m)) is not None}
        if not images:
            raise Damaged("it has no binary column 'clinical' or 'dermoscopy'")
        others = [f.name for f in file.schema_arrow if not pa.types.is_nested(f.type) and not _is_binary(f.type)]
        for group in range(file.num_row_groups):
            for leaf in images.values():
                if file.metadata.row_group(group).column(leaf).total_uncompressed_size > MAX_CHUNK_BYTES:
                    raise Damaged(
                        f"row group {group} holds more than {MAX_CHUNK_BYTES:,} bytes of images; write the file again "
                        "with fewer rows in a row group"
                    )
            table = file.read_row_group(group, columns=others, use_threads=False)
            for modality, leaf in images.items():
                table = table.drop_columns([name for name in [f"{modality}_uri"] if name in table.column_names])
                there = _present(file, group, leaf)
                cells = [
                    str(ParquetCell(uri, modality, group, row)) if there[row] else None for row in range(len(there))
                ]
                table = table.append_column(f"{modality}_uri", pa.array(cells, pa.string()))
            yield conform(table, uri).table


def _present(file: pq.ParquetFile, group: int, leaf: int) -> list[bool]:
    """Tell which rows have an image, from statistics where they say so."""
    chunk = file.metadata.row_group(group).column(leaf)
    statistics = chunk.statistics
    if statistics is not None and statistics.has_null_count and statistics.null_count in (0, chunk.num_values):
        return [statistics.null_count == 0] * file.metadata.row_group(group).num_rows
    there: list[bool] = []
    path = file.schema.column(leaf).path
    for batch in file.iter_batches(1, row_groups=[group], columns=[path], use_threads=False):
        column = batch.column(0)
        there += (column.field("bytes") if pa.types.is_struct(column.type) else column).is_valid().to_pylist()
    return there
