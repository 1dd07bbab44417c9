"""Zip archives: the central directory gives addresses, a range read gives a member."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from derm_ray.data.archives.address import METHODS, ZipMember
from derm_ray.data.archives.names import Damaged
from derm_ray.data.archives.ranges import open_ranges, read_range
from derm_ray.data.archives.refusals import changed, too_large
from derm_ray.data.archives.tars import MAX_MEMBERS
from derm_ray.errors import DermRayError, ImageError, ImageErrorCode

BOMB_RATIO = 200
BOMB_FLOOR = 16 * 1024 * 1024
"""Declared bytes of a member from which :data:`BOMB_RATIO` counts."""
_LOCAL = struct.Struct("<4s5H3I2H")  # APPNOTE 4.3.7
_SLACK = 1024
"""Bytes of name and extra fields that the first read of a member allows for."""
_ENCRYPTED, _STREAMED, _UTF8 = 0x1, 0x8, 0x800


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file; ``refusal`` says why it is not accepted, ``left_out`` why it cannot be addressed."""

    name: str
    address: ZipMember
    refusal: str | None
    left_out: str | None


def entries(uri: str) -> Iterator[ZipEntry]:
    """Yield a zip's files; only its central directory is read.

    Raises:
        StorageError: storage failed.
        Damaged: it is no zip, or broken.
    """
    try:
        archive = zipfile.ZipFile(open_ranges(uri))
    except DermRayError:
        raise
    except Exception as error:  # zipfile raises anything from struct.error to OverflowError on broken directories
        raise Damaged(f"{type(error).__name__}: {error}") from error
    if len(archive.filelist) > MAX_MEMBERS:
        raise Damaged(f"it has more than {MAX_MEMBERS:,} members")
    for info in archive.filelist:
        if not info.is_dir():
            address = ZipMember(
                uri, info.orig_filename, info.header_offset, info.compress_size, info.compress_type, info.file_size
            )
            yield ZipEntry(info.orig_filename, address, _refusal(info, archive.start_dir), _left_out(info))


def _refusal(info: zipfile.ZipInfo, directory: int) -> str | None:
    if info.volume:
        return "it lies in another volume; join the volumes first (zip -s 0 in.zip --out whole.zip)"
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "it is a link" if stat.S_ISLNK(mode) else "it is a device or a pipe"
    if info.header_offset < 0 or info.header_offset + _LOCAL.size + info.compress_size > directory:
        return "its data lie outside the archive; the archive is broken"
    if info.file_size > max(BOMB_FLOOR, BOMB_RATIO * info.compress_size):
        return f"it expands {info.file_size / max(info.compress_size, 1):.0f} times, at most {BOMB_RATIO} are accepted"
    return None


def _left_out(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    return None if info.compress_type in METHODS else "packed by a method other than deflate"


def read_member(address: ZipMember, max_bytes: int) -> bytes:
    """Return a member's content.

    Raises:
        StorageError: storage failed.
        ImageError: ``too_large``, ``bomb`` or ``corrupt``.
    """
    if max(address.length, address.size) > max_bytes:
        raise too_large(address, max(address.length, address.size), max_bytes)
    data = read_range(address.container, address.offset, address.offset + _LOCAL.size + _SLACK + address.size)
    if len(data) < _LOCAL.size:
        raise changed(address)
    magic, _, flags, method, _, _, crc, _, _, name_size, extra_size = _LOCAL.unpack_from(data)
    start = _LOCAL.size + name_size + extra_size
    name = data[_LOCAL.size : _LOCAL.size + name_size].decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    if (magic, name, method) != (b"PK\3\4", address.member, address.method):
        raise changed(address)
    packed = data[start : start + address.size]
    if len(packed) < address.size:
        begin = address.offset + start
        packed = read_range(address.container, begin, begin + address.size)
    if len(packed) < address.size:
        raise changed(address)
    content = _inflate(packed, address) if address.method else packed
    if len(content) != address.length:
        raise changed(address)
    if not flags & _STREAMED and zlib.crc32(content) != crc:
        raise ImageError(ImageErrorCode.CORRUPT, f"{address}: its checksum is wrong; copy the archive again")
    return content


def _inflate(packed: bytes, address: ZipMember) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(packed, address.length + 1)
    except zlib.error as error:
        raise ImageError(ImageErrorCode.CORRUPT, f"{address}: {error}; copy the archive again") from error
    if len(content) > address.length:
        raise ImageError(
            ImageErrorCode.BOMB, f"{address}: it expands to more than the {address.length:,} bytes it declares"
        )
    return content
