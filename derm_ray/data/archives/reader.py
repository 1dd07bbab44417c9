"""Bytes of images: ordinary files, and members of archives by their addresses."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Self

from derm_ray.data.archives.address import MAX_BYTES, Address, is_sequential, parse, require_size
from derm_ray.data.archives.containers import CONTAINERS
from derm_ray.data.archives.ranges import read_range
from derm_ray.data.archives.retry import image_error
from derm_ray.errors import ImageError, ImageErrorCode, StorageError


class ImageReader:
    """Reads images; thread-safe. Failed requests are retried, see :mod:`derm_ray.data.archives.retry`.

    Args:
        uris: what will be read; needed for members of a ``.tar.gz`` only, once per read.
        kept: cache that consecutive readers share, such as row groups of Parquet; empty for the first.
    """

    def __init__(self, uris: Iterable[str] = (), *, kept: dict[str, Any] | None = None) -> None:
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
            container.address: container.open(wanted[container.address], kept) for container in CONTAINERS.values()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._read_member.clear()

    def read(self, uri: str) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            ImageError: it cannot be read; the message names the URI. Codes ``missing``, ``forbidden``, ``storage`` and
                ``timeout`` are storage's, ``require_size``, ``bomb``, ``corrupt`` and ``unsupported`` the archive's.
        """
        try:
            address = parse(uri)
            if address is not None:
                return self._read_member[type(address)](address)
            data = read_range(uri, 0, MAX_BYTES + 1)
            require_size(uri, len(data))
            return data
        except StorageError as error:
            raise image_error(uri, error) from error
        except ValueError as error:  # such as a NUL in a local path
            raise ImageError(ImageErrorCode.UNSUPPORTED, f"{uri!r}: {error}") from error
