"""Names of zip members: encodings and separators are resolved like Info-ZIP's unzip does."""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence

UTF8 = 0x800
"""The flag of a name in UTF-8 (APPNOTE 4.4.4, bit 11)."""
_UNICODE_PATH = 0x7075
_WINDOWS, _UNIX = (0, 10, 14), (3, 19)  # FAT, NTFS, VFAT; Unix, macOS (APPNOTE 4.4.2.2)


def names(members: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    r"""Yield the path of every member, in order.

    UTF-8 where the flag says so; then the Unicode Path of Info-ZIP, if its CRC is that of the name; then UTF-8 of what
    was made on Unix, where it is valid; then CP437. A ``\`` separates folders in what was made on Windows, and in an
    archive without any ``/``.
    """
    flat = not any("/" in info.orig_filename for info in members)
    for info in members:
        name = _name(info)
        yield name.replace("\\", "/") if flat or info.create_system in _WINDOWS else name


def raw(info: zipfile.ZipInfo) -> bytes:
    """Return a name's bytes as they stand in the central directory; zipfile decodes them without loss."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & UTF8 else "cp437")


def _name(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename
    if info.flag_bits & UTF8 or (name.isascii() and not info.extra):
        return name
    path = _unicode_path(raw(info), info.extra)
    if path is None and info.create_system in _UNIX:
        path = _decoded(raw(info))
    return name if path is None else path


def spells(name: bytes, flags: int, extra: bytes, path: str, *, strict: bool) -> bool:
    """Return whether a local header names this path, in any encoding and with any separators.

    Args:
        name: as it stands in the local header.
        flags: of the local header.
        extra: its extra fields.
        path: of :func:`names`.
        strict: ``False`` compares ASCII segments only where the Unicode Path may stand in the central directory alone.
    """
    readings = (_decoded(name), None if flags & UTF8 else name.decode("cp437"), _unicode_path(name, extra))
    segments = path.replace("\\", "/").split("/")
    found = [reading.replace("\\", "/").split("/") for reading in readings if reading is not None]
    if segments in found or strict:
        return segments in found
    return not flags & UTF8 and any(
        len(other) == len(segments)
        and all(mine == yours or not mine.isascii() for mine, yours in zip(segments, other, strict=True))
        for other in found
    )


def _decoded(name: bytes) -> str | None:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _unicode_path(name: bytes, extra: bytes) -> str | None:
    """Return the name in an Info-ZIP Unicode Path Extra Field (APPNOTE 4.6.9) that belongs to this name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and len(field) == size > 5 and field[0] == 1:
            crc = int.from_bytes(field[1:5], "little")
            return _decoded(field[5:]) if crc == zlib.crc32(name) else None
    return None
