"""Kinds of archives, by name and by their first bytes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from derm_ray.errors import ImageErrorCode
from derm_ray.registry import Registry

if TYPE_CHECKING:
    from derm_ray.data.archives.address import Address

Read = Callable[[Any], bytes]
"""Address -> content."""


class Damaged(Exception):  # noqa: N818
    """A broken or hostile archive; ``fix`` suggests what to do."""

    def __init__(self, message: str, code: ImageErrorCode = ImageErrorCode.CORRUPT, fix: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix or "Copy the archive again or repack it. If it was split, join the parts first."


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
        is_one: (first :data:`HEAD` bytes) -> whether a file is of this kind.
        open: (addresses to read, cache that the readers of a process share) -> a thread-safe function that reads one
            of them; it raises ``StorageError`` or ``ImageError``.
        members: (URI) -> its files, without folders; raises ``StorageError`` or ``Damaged``. ``None`` for tables,
            whose rows are read instead of files.
        sequential: can only be read from start to end, so that ``open`` needs all addresses.
    """

    title: str
    suffixes: tuple[str, ...]
    address: type["Address"]
    is_one: Callable[[bytes], bool]
    open: Callable[[Iterable[Any], dict[str, Any]], Read]
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


HEAD = 512
"""Bytes that :func:`misnamed` looks at."""
_UNPACK = "a tar in it can be read plain or gzipped."
_OTHERS = (
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", f"Unpack it with `zstd -d`; {_UNPACK}"),
    (b"BZh", "a bzip2 file", f"Unpack it with `bunzip2`; {_UNPACK}"),
    (b"\xfd7zXZ\0", "an xz file", f"Unpack it with `unxz`; {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Repack it as .tar or .zip."),
    (b"Rar!", "a RAR archive", "Repack it as .tar or .zip."),
    (b"<", "a text file, such as the error page of a failed download", "Copy the archive again."),
)


def misnamed(head: bytes, promised: Container) -> Damaged | None:
    """Return the error for a misnamed container, or ``None`` if its first bytes are not conclusive.

    Args:
        head: the first :data:`HEAD` bytes, fewer of a shorter file.
        promised: the container for its extension.
    """
    if not head:
        return Damaged("it is empty (0 bytes)")
    kinds = [(one.title, f"Rename it to end in {one.suffixes[0]}.") for one in CONTAINERS.values() if one.is_one(head)]
    kinds += [(title, fix) for magic, title, fix in _OTHERS if head.startswith(magic)]
    if not kinds or promised.is_one(head):
        return None
    title, fix = kinds[0]
    return Damaged(f"it is {title}, not a {promised.suffixes[0]}", fix=fix)
