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
    """A file in an archive; ``refusal`` says why it is not accepted, ``unreadable`` how it is packed if that is it."""

    name: str
    address: "Address"
    refusal: str | None = None
    unreadable: str | None = None


@dataclass(frozen=True)
class Container:
    """A kind of archive: how it is known, listed and read.

    Attributes:
        title: what messages call it, such as ``a zip``.
        suffixes: how names of such files end, in lower case.
        address: type of its members' addresses.
        is_one: (first 512 bytes) -> whether a file is one.
        open: (addresses that will be read, most bytes of an image, what a process keeps between readers by kind) ->
            what reads one of them; thread-safe. Reading raises ``StorageError`` or ``ImageError``.
        members: (URI) -> its files, without folders; raises ``StorageError`` or ``Damaged``. ``None`` where rows of
            tables are read in place of files.
        sequential: it can only be read from its begin to its end, so that all addresses must be given to ``open``.
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
    """Return how the names of archives end, in any case."""
    return tuple(suffix for container in CONTAINERS.values() for suffix in container.suffixes)


def kind(uri: str) -> Container | None:
    """Return the kind of archive that a name promises, ``None`` where it is no archive's."""
    lowered = uri.lower()
    return next((container for container in CONTAINERS.values() if lowered.endswith(container.suffixes)), None)
