"""Member addresses: an image inside an archive, as a fragment on the archive's URI.

    s3://b/a.tar#member=les%2Fclinical.jpg&offset=1536&size=3400
    s3://b/a.zip#member=les%2Fclinical.jpg&offset=0&size=3300&method=8&length=3400
    s3://b/a.tar.gz#member=les%2Fclinical.jpg&position=2&size=3400
    s3://b/a.parquet#column=clinical&group=3&row=17

Names are percent-encoded, so that they cannot affect the rest of the URI.
"""

import re
from dataclasses import dataclass, fields
from urllib.parse import quote, unquote

from derm_ray.errors import ImageError, ImageErrorCode

METHODS = (0, 8)
"""How a zip's member may be packed: stored or deflated."""
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Member:
    container: str

    def __str__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self)[1:])
        return f"{self.container}#" + "&".join(f"{name}={_encode(value)}" for name, value in values)


@dataclass(frozen=True, slots=True)
class TarMember(_Member):
    """A file in a ``.tar``; ``offset`` is that of its data."""

    member: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ZipMember(_Member):
    """A file in a ``.zip``; ``offset`` is that of its local header, ``size`` is packed, ``length`` unpacked."""

    member: str
    offset: int
    size: int
    method: int
    length: int


@dataclass(frozen=True, slots=True)
class StreamMember(_Member):
    """A file in a ``.tar.gz``: the member number ``position``, counted from 0; can only be read in order."""

    member: str
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class ParquetCell(_Member):
    """An image in a Parquet column: row ``row`` of row group ``group``, both counted from 0."""

    column: str
    group: int
    row: int


Address = TarMember | ZipMember | StreamMember | ParquetCell

_KINDS: tuple[tuple[tuple[str, ...], type[Address]], ...] = (
    ((".tar.gz", ".tgz"), StreamMember),
    ((".tar",), TarMember),
    ((".zip",), ZipMember),
    ((".parquet",), ParquetCell),
)
SUFFIXES = tuple(suffix for suffixes, _ in _KINDS for suffix in suffixes)
"""How the names of archives end, in any case."""


def kind(uri: str) -> type[Address] | None:
    """Return the type of the addresses inside a container, or ``None`` if its name has no archive extension."""
    lowered = uri.lower()
    return next((kind for suffixes, kind in _KINDS if lowered.endswith(suffixes)), None)


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
    archive_uri, cls, fragment = parts
    names = [field.name for field in fields(cls)[1:]]
    pairs = [part.partition("=") for part in fragment.split("&")]
    if [name for name, _, _ in pairs] != names:
        raise _malformed(uri, f"expected the fields {', '.join(names)}, in this order")
    try:
        text, *numbers = (value for _, _, value in pairs)
        address = cls(archive_uri, _decode(text), *map(_number, numbers))
    except ValueError as error:
        raise _malformed(uri, str(error)) from error
    if isinstance(address, ZipMember) and address.method not in METHODS:
        raise _malformed(uri, f"method {address.method} is neither 0 (stored) nor 8 (deflate)")
    return address


def container(uri: str) -> str:
    """Return the archive's URI of an address, any other URI as it is."""
    parts = _split(uri)
    return parts[0] if parts else uri


def is_sequential(uri: str) -> bool:
    """Return whether a URI is inside a container that can only be read sequentially."""
    parts = _split(uri)
    return parts is not None and parts[1] is StreamMember


def _split(uri: str) -> tuple[str, type[Address], str] | None:
    archive_uri, mark, fragment = uri.rpartition("#")
    cls = kind(archive_uri) if mark else None
    if cls is None or not fragment.startswith("column=" if cls is ParquetCell else "member="):
        return None
    return archive_uri, cls, fragment


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
