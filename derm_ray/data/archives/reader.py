"""Bytes of images: ordinary files, and members of archives by their addresses."""

from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from derm_ray.data.archives.address import Address, ParquetCell, StreamMember, TarMember, is_sequential, parse
from derm_ray.data.archives.parquets import ChunkCache
from derm_ray.data.archives.ranges import read_range
from derm_ray.data.archives.refusals import too_large
from derm_ray.data.archives.retry import image_error
from derm_ray.data.archives.streams import MemberStream
from derm_ray.data.archives.tars import read_member as read_tar_member
from derm_ray.data.archives.zips import read_member
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

MAX_BYTES = 100_000_000
"""Encoded bytes of one image."""


class ImageReader:
    """Reads images; thread-safe. Failed requests are retried, see :mod:`derm_ray.data.archives.retry`.

    Args:
        uris: what will be read; needed for members of a ``.tar.gz`` only, once per read.
        max_bytes: most encoded bytes of one image.
        chunks: row groups of Parquet that were read; to be shared by readers that follow one another.
    """

    def __init__(
        self, uris: Iterable[str] = (), *, max_bytes: int = MAX_BYTES, chunks: ChunkCache | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._chunks = chunks or ChunkCache()
        wanted: dict[str, list[StreamMember]] = defaultdict(list)
        for uri in filter(is_sequential, uris):
            try:
                address = parse(uri)
            except ImageError:
                continue  # reported when it is read
            if isinstance(address, StreamMember):
                wanted[address.container].append(address)
        self._streams = {
            container: MemberStream(container, members, max_bytes) for container, members in wanted.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.clear()
        self._chunks = ChunkCache()

    def read(self, uri: str) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            ImageError: it cannot be read; the message names the URI. Codes ``missing``, ``forbidden``, ``storage`` and
                ``timeout`` are storage's, ``too_large``, ``bomb``, ``corrupt`` and ``unsupported`` the archive's.
        """
        try:
            address = parse(uri)
            return self._read_file(uri) if address is None else self._read_member(address)
        except StorageError as error:
            raise image_error(uri, error) from error
        except ValueError as error:  # such as a NUL in a local path
            raise ImageError(ImageErrorCode.UNSUPPORTED, f"{uri!r}: {error}") from error

    def _read_file(self, uri: str) -> bytes:
        data = read_range(uri, 0, self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise too_large(uri, None, self._max_bytes)
        return data

    def _read_member(self, address: Address) -> bytes:
        if isinstance(address, ParquetCell):
            return self._chunks.read(address, self._max_bytes)
        if address.size > self._max_bytes:
            raise too_large(address, address.size, self._max_bytes)
        if isinstance(address, TarMember):
            return read_tar_member(address)
        if isinstance(address, StreamMember):
            stream = self._streams.get(address.container)
            return (stream or MemberStream(address.container, (), self._max_bytes)).read(address)
        return read_member(address, self._max_bytes)
