"""Member addresses: an image inside an archive, as a fragment on the archive's URI.

    s3://b/a.tar#member=les%2Fclinical.jpg&offset=1536&size=3400
    s3://b/a.zip#member=les%2Fclinical.jpg&offset=0&size=3300&method=8&length=3400
    s3://b/a.tar.gz#member=les%2Fclinical.jpg&position=2&size=3400
    s3://b/a.parquet#column=clinical&group=3&row=17

Names are percent-encoded, so that they cannot affect the rest of the URI.
"""

from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, quote

from derm_ray.data.archives.containers import Container, kind
from derm_ray.errors import ImageError, ImageErrorCode

MAX_BYTES = 100_000_000
"""Encoded bytes of one image."""
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Address:
    """Position of a file in a container. The other fields are its name, then numbers."""

    container: str

    def __str__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self)[1:])
        return f"{self.container}#" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in values)


@dataclass(frozen=True, slots=True)
class TarMember(Address):
    """A file in a ``.tar``; ``offset`` is that of its data."""

    member: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ZipMember(Address):
    """A file in a ``.zip``; ``offset`` is that of its local header, ``size`` is packed, ``length`` unpacked."""

    member: str
    offset: int
    size: int
    method: int
    length: int


@dataclass(frozen=True, slots=True)
class StreamMember(Address):
    """A file in a ``.tar.gz``: the member number ``position``, counted from 0; can only be read in order."""

    member: str
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class ParquetCell(Address):
    """An image in a Parquet column: row ``row`` of row group ``group``, both counted from 0."""

    column: str
    group: int
    row: int


def parse(uri: str) -> Address | None:
    """Parse an address.

    Returns:
        The address, or ``None`` for the URI of an ordinary file, which may hold a ``#`` as well.

    Raises:
        ImageError: ``unsupported``: a fragment looks like an address but is malformed.
    """
    parts = _split(uri)
    if parts is None:
        return None
    archive_uri, found, fragment = parts
    cls: Any = found.address
    try:
        (_, name), *rest = parse_qsl(fragment, strict_parsing=True, errors="strict")
        numbers = [int(value) for _, value in rest]
        address: Address = cls(archive_uri, name, *numbers)
        if str(address) != uri or not all(0 <= number <= _LARGEST for number in numbers):
            raise ValueError("not in its canonical form")
    except (TypeError, ValueError) as error:
        form = "&".join(f"{field.name}=..." for field in fields(cls)[1:])
        raise ImageError(
            ImageErrorCode.UNSUPPORTED,
            f"{uri[:500]}: not a valid archive member; expected #{form}, the name percent-encoded, then numbers. "
            "Create addresses with `derm-ray data index`",
        ) from error
    return address


def container(uri: str) -> str:
    """Return the archive's URI of an address, any other URI as it is."""
    parts = _split(uri)
    return parts[0] if parts else uri


def is_sequential(uri: str) -> bool:
    """Return whether a URI is inside a container that can only be read sequentially."""
    parts = _split(uri)
    return parts is not None and parts[1].sequential


def _split(uri: str) -> tuple[str, Container, str] | None:
    archive_uri, mark, fragment = uri.rpartition("#")
    found = kind(archive_uri) if mark else None
    if found is None or not fragment.startswith(f"{fields(found.address)[1].name}="):
        return None
    return archive_uri, found, fragment


def changed(address: Address) -> ImageError:
    """Return the error for an archive that does not match the address."""
    return ImageError(
        ImageErrorCode.CORRUPT,
        f"{address}: the archive has no such member there. It is truncated or has changed; index it again",
    )


def require_size(uri: object, size: int) -> None:
    """Refuse an image of more than :data:`MAX_BYTES`."""
    if size > MAX_BYTES:
        raise ImageError(ImageErrorCode.TOO_LARGE, f"{uri}: the image has more than {MAX_BYTES:,} bytes. Shrink it")
