"""A file in storage as a Python file: every read is one range request, retried on failure."""

import errno
import io
import os
from typing import TYPE_CHECKING

from derm_ray import storage
from derm_ray.data.archives.retry import persistently
from derm_ray.observability import WORK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 256 * 1024
"""Bytes a jump fetches: the next headers of small members come with it, most of a large member does not."""
STREAM_BLOCK = 4 * 1024 * 1024
"""Bytes per request in sequential reads."""


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Return the bytes ``start <= i < stop`` of a file, fewer at its end."""
    data = persistently(lambda: storage.read_range(uri, start, stop))
    WORK.add("bytes", "read", len(data))
    return data


def open_ranges(uri: str, block: int = BLOCK) -> io.BufferedReader:
    """Open a file for reading, ``block`` bytes a request at least."""
    return io.BufferedReader(_RangeFile(uri), block)


class _RangeFile(io.RawIOBase):
    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._position = 0
        self._size: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            if self._size is None:
                self._size = persistently(lambda: storage.size(self._uri))
            offset += self._size
        if offset < 0:
            raise OSError(errno.EINVAL, f"position {offset} is before the start of the file", self._uri)
        self._position = offset
        return offset

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        data = read_range(self._uri, self._position, self._position + len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
