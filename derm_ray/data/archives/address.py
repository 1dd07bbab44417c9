"""Member addresses: an image inside an archive, as a fragment on the archive's URI.

    s3://b/a.tar#member=les%2Fclinical.jpg&offset=1536&size=3400
    s3://b/a.zip#member=les%2Fclinical.jpg&offset=0&size=3300&method=8&length=3400
    s3://b/a.tar.gz#member=les%2Fclinical.jpg&position=2&size=3400
    s3://b/a.parquet#column=clinical&group=3&row=17

Names are percent-encoded, so that they cannot affect the rest of the URI.
"""

import re
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote, unquote

from derm_ray.data.archives.containers import Container, kind
from derm_ray.errors import ImageError, ImageErrorCode

METHODS = (0, 8)
"""How a zip's member may be packed: stored or deflated."""
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Address:
    """Position of a file in a container. The other fields are its name, then numbers."""

    container: str

    def problem(self) -> str | None:
        """Return why the address is invalid, or ``None``."""
        return None

    def __str__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self)[1:])
        return f"{self.container}#" + "&".join(f"{name}={_encode(value)}" for name, value in values)


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

    def problem(self) -> str | None:
        """See :class:`Address`."""
        return None if self.method in METHODS else f"method {self.method} is neither 0 (stored) nor 8 (deflate)"


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
    names = [field.name for field in fields(cls)[1:]]
    pairs = [part.partition("=") for part in fragment.split("&")]
    if [name for name, _, _ in pairs] != names:
        raise _malformed(uri, f"expected the fields {', '.join(names)}, in this order")
    try:
        text, *numbers = (value for _, _, value in pairs)
        address: Address = cls(archive_uri, _decode(text), *map(_number, numbers))
    except ValueError as error:
        raise _malformed(uri, str(error)) from error
    if problem := address.problem():
        raise _malformed(uri, problem)
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


def _encode(value: str | int) -> str:
    return quote(value, safe="") if isinstance(value, str) else str(value)


def _decode(text: str) -> str:
    name = unquote(text, errors="strict")
    if not name or quote(name, safe="") != text:
        raise ValueError("the name is not percent-encoded")
    return name


def _number(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) > _LARGEST:
        raise ValueError(f"{text[:30]!r} is not a number from 0 to 2^63 - 1")
    return int(text)


def _malformed(uri: str, why: str) -> ImageError:
    hint = "Create addresses with `derm-ray data index`"
    return ImageError(ImageErrorCode.UNSUPPORTED, f"{uri}: not a valid archive member: {why}. {hint}")
