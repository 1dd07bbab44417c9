"""Kinds of archives, by name."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from derm_ray.registry import Registry

if TYPE_CHECKING:
    from derm_ray.data.archives.address import Address

Read = Callable[[Any], bytes]
"""Address -> content."""


class Member(NamedTuple):
    """A file in an archive; ``refusal`` is why it is not accepted, ``unreadable`` an unsupported packing."""

    name: str
    address: "Address"
    refusal: str | None = None
    unreadable: str | None = None


@dataclass(frozen=True)
class Container:
    """A kind of archive: how it is detected, listed and read.

    Attributes:
        title: its name in messages, such as ``a zip``.
        suffixes: file extensions, in lower case.
        address: type of its members' addresses.
        is_one: (first 512 bytes) -> whether a file is of this kind.
        open: (addresses to read, maximum bytes of an image, cache that the readers of a process share) -> a
            thread-safe function that reads one of them; it raises ``StorageError`` or ``ImageError``.
        members: (URI) -> its files, without folders; raises ``StorageError`` or ``Damaged``. ``None`` for tables,
            whose rows are read instead of files.
        sequential: can only be read from start to end, so that ``open`` needs all addresses.
    """

    title: str
    suffixes: tuple[str, ...]
    address: type["Address"]
    is_one: Callable[[bytes], bool]
    open: Callable[[Iterable[Any], int, dict[str, Any]], Read]
    members: Callable[[str], Iterator[Member]] | None = None
    sequential: bool = False


CONTAINERS: Registry[Container] = Registry(
    "container",
    {
        "tar.gz": "derm_ray.data.archives.streams:TAR_GZ",
        "tar": "derm_ray.data.archives.tars:TAR",
        "zip": "derm_ray.data.archives.zips:ZIP",
        "parquet": "derm_ray.data.archives.parquets:PARQUET",
    },
)


def suffixes() -> tuple[str, ...]:
    """Return the file extensions of archives, in lower case."""
    return tuple(suffix for container in CONTAINERS.values() for suffix in container.suffixes)


def kind(uri: str) -> Container | None:
    """Return the container for a file extension, or ``None`` if it is not an archive's."""
    lowered = uri.lower()
    return next((container for container in CONTAINERS.values() if lowered.endswith(container.suffixes)), None)
