"""Bytes of images: ordinary files, and members of archives by their addresses."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Self

from derm_ray.data.archives.address import Address, is_sequential, parse, too_large
from derm_ray.data.archives.containers import CONTAINERS
from derm_ray.data.archives.ranges import read_range
from derm_ray.data.archives.retry import image_error
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

MAX_BYTES = 100_000_000
"""Encoded bytes of one image."""


class ImageReader:
    """Reads images; thread-safe. Failed requests are retried, see :mod:`derm_ray.data.archives.retry`.

    Args:
        uris: what will be read; needed for members of a ``.tar.gz`` only, once per read.
        max_bytes: most encoded bytes of one image.
        kept: cache that consecutive readers share, such as row groups of Parquet; empty for the first.
    """

    def __init__(
        self, uris: Iterable[str] = (), *, max_bytes: int = MAX_BYTES, kept: dict[str, Any] | None = None
    ) -> None:
        self._max_bytes = max_bytes
        kept = {} if kept is None else kept
        wanted: dict[type[Address], list[Address]] = defaultdict(list)
        for uri in filter(is_sequential, uris):
            try:
                address = parse(uri)
            except ImageError:
                continue  # reported when it is read
            if address is not None:
                wanted[type(address)].append(address)
        self._read_member = {
            container.address: container.open(wanted[container.address], max_bytes, kept)
            for container in CONTAINERS.values()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._read_member.clear()

    def read(self, uri: str) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            ImageError: it cannot be read; the message names the URI. Codes ``missing``, ``forbidden``, ``storage`` and
                ``timeout`` are storage's, ``too_large``, ``bomb``, ``corrupt`` and ``unsupported`` the archive's.
        """
        try:
            address = parse(uri)
            return self._read_file(uri) if address is None else self._read_member[type(address)](address)
        except StorageError as error:
            raise image_error(uri, error) from error
        except ValueError as error:  # such as a NUL in a local path
            raise ImageError(ImageErrorCode.UNSUPPORTED, f"{uri!r}: {error}") from error

    def _read_file(self, uri: str) -> bytes:
        data = read_range(uri, 0, self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise too_large(uri, None, self._max_bytes)
        return data
