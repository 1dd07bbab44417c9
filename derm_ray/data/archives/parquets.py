"""Images inside Parquet: chunks of image bytes, read once and shared."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray.data.archives.address import ParquetCell, changed, require_size
from derm_ray.data.archives.containers import Container, Damaged, Read
from derm_ray.data.archives.parquet_columns import image_leaves
from derm_ray.data.archives.ranges import open_ranges
from derm_ray.errors import DermRayError, ImageError, ImageErrorCode

MAX_CHUNK_BYTES = 512 * 1024 * 1024
"""Bytes of one image column in one row group, unpacked."""
FEWER_ROWS = "write the file again with fewer rows per row group"
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

    def read(self, cell: ParquetCell) -> bytes:
        """Return one image."""
        chunk = self._chunk((cell.container, cell.column, cell.group), cell)
        data = chunk[cell.row] if cell.row < len(chunk) else None
        if data is None:
            raise changed(cell)
        require_size(cell, len(data))
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
    """Open a Parquet file."""
    try:
        with open_ranges(uri) as file:
            yield pq.ParquetFile(file)
    except (DermRayError, Damaged):
        raise
    except Exception as error:  # Arrow raises its own and Python's errors on broken files
        raise Damaged(f"cannot be read as Parquet: {error}") from error


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
        column = batch.column(cell.column)  # a path may be that of another column with a dot in its name as well
        if pa.types.is_struct(column.type):
            column = column.field("bytes")
        data = column[0].as_py()
        total += len(data or b"")
        if total > MAX_CHUNK_BYTES:
            raise _too_large_chunk(cell)
        yield data


def _too_large_chunk(cell: ParquetCell) -> ImageError:
    return ImageError(ImageErrorCode.TOO_LARGE, f"{cell}: {too_large_group(cell.group)}; {FEWER_ROWS}")


def too_large_group(group: int) -> str:
    """Return the message for a row group that holds too many bytes of images."""
    return f"row group {group} contains more than {MAX_CHUNK_BYTES:,} bytes of images"


def _open(_wanted: object, kept: dict[str, Any]) -> Read:
    chunks: ChunkCache = kept.setdefault("parquet", ChunkCache())
    return chunks.read


PARQUET = Container(
    "a Parquet file", (".parquet",), ParquetCell, lambda head: head.startswith(b"PAR1"), _open, members=None
)
