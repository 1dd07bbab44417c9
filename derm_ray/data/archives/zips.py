"""Zip archives: the central directory gives addresses, a range read gives a member."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from derm_ray import storage
from derm_ray.data.archives.address import ZipMember, changed, require_size
from derm_ray.data.archives.containers import HEAD, Container, Damaged, Member, misnamed
from derm_ray.data.archives.names import quoted
from derm_ray.data.archives.ranges import open_ranges, read_range
from derm_ray.data.archives.tars import MAX_MEMBERS
from derm_ray.data.archives.zip_names import UTF8, names, raw, spells
from derm_ray.errors import DermRayError, ImageError, ImageErrorCode

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BOMB_RATIO = 200
BOMB_FLOOR = 16 * 1024 * 1024
"""Declared bytes of a member from which :data:`BOMB_RATIO` counts."""
_LOCAL = struct.Struct("<4s5H3I2H")  # APPNOTE 4.3.7
_SLACK = 1024
"""Bytes of extra fields that the first read of a member allows for."""
_ENCRYPTED, _STREAMED = 0x1, 0x8
_END_SIZE, _LONGEST_END = 22, 22 + 65535  # APPNOTE 4.3.16
_REMOTE_CHECKS, _THREADS = 1000, 16
_PACKINGS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "BZip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


def entries(uri: str) -> Iterator[Member]:
    """Yield a zip's files: the central directory is read, and local headers are compared with it.

    All of them on local disk; elsewhere, where each is a request, at most 1,000 that are spread evenly. The others
    are compared when their member is read.
    """
    try:
        archive = zipfile.ZipFile(open_ranges(uri))
    except DermRayError:
        raise
    except Exception as error:  # zipfile raises anything from struct.error to OverflowError on broken directories
        raise Damaged(f"{type(error).__name__}: {error}") from error
    if len(archive.filelist) > MAX_MEMBERS:
        raise Damaged(f"it has more than {MAX_MEMBERS:,} members")
    _require_alone(uri, archive)
    members = [
        (info, name, _refusal(info, archive.start_dir))
        for info, name in zip(archive.filelist, names(archive.filelist), strict=True)
        if info.file_size or not name.endswith("/")
    ]
    differences = _differences(uri, [(info, name) for info, name, refusal in members if refusal is None])
    for info, name, refusal in members:
        address = ZipMember(uri, name, info.header_offset, info.compress_size, info.compress_type, info.file_size)
        refusal = refusal or differences.get(info.header_offset)
        if name.endswith("/"):
            refusal = "it is named like a folder but contains data"
        yield Member(name, address, refusal, _unreadable(info))


def _require_alone(uri: str, archive: zipfile.ZipFile) -> None:
    """Reject data before and after a zip, which zipfile would ignore."""
    file = archive.fp
    assert file is not None
    begin = max(0, file.seek(0, 2) - _LONGEST_END)
    file.seek(begin)
    end = file.read()
    record = end.rfind(b"PK\5\6")
    stop = record + _END_SIZE + int.from_bytes(end[record + _END_SIZE - 2 : record + _END_SIZE], "little")
    if any(end[stop:]):
        raise Damaged(
            f"after its end, from byte {begin + stop:,} on, there is data that is not part of it",
            fix=f"If nothing is missing, cut it off: head -c {begin + stop} OLD.zip > NEW.zip",
        )
    if min((info.header_offset for info in archive.filelist), default=0) > 0:
        head = read_range(uri, 0, HEAD)
        if other := misnamed(head, ZIP):  # such as a tar whose last member is a zip
            raise other
        if head.startswith(b"PK\3\4"):
            raise Damaged(
                "there is another zip, or a removed member, before its first member",
                fix="Unpack concatenated zips one by one, or repack it.",
            )


def _refusal(info: zipfile.ZipInfo, directory: int) -> str | None:
    if info.volume:
        return "it is in another volume; join the volumes first (zip -s 0 in.zip --out whole.zip)"
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "it is a link" if stat.S_ISLNK(mode) else "it is a device or a pipe"
    if info.header_offset < 0 or info.header_offset + _LOCAL.size + info.compress_size > directory:
        return "its data is outside the archive; the archive is broken"
    if info.file_size > max(BOMB_FLOOR, BOMB_RATIO * info.compress_size):
        return f"it expands {info.file_size / max(info.compress_size, 1):.0f} times, at most {BOMB_RATIO} are accepted"
    return None


def _unreadable(info: zipfile.ZipInfo) -> str | None:
    method = info.compress_type
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    return None if method in METHODS else f"packed by {_PACKINGS.get(method, 'an unknown method')} (method {method})"


def _differences(uri: str, members: Sequence[tuple[zipfile.ZipInfo, str]]) -> dict[int, str]:
    """Return problems of local headers: offset -> reason."""
    if storage.is_local(uri):
        with storage.translate_errors(uri), storage.open_read(uri) as file:
            found = {}
            for info, name in members:
                file.seek(info.header_offset)
                if why := _difference(info, name, file.read(_length(info.orig_filename))):
                    found[info.header_offset] = why
            return found

    def check(member: tuple[zipfile.ZipInfo, str]) -> str | None:
        begin = member[0].header_offset
        return _difference(*member, read_range(uri, begin, begin + _length(member[0].orig_filename)))

    chosen = members[:: -(-len(members) // _REMOTE_CHECKS) or 1]
    with ThreadPoolExecutor(_THREADS) as executor:
        reasons = executor.map(check, chosen)
        return {info.header_offset: why for (info, _), why in zip(chosen, reasons, strict=True) if why}


def _difference(info: zipfile.ZipInfo, path: str, data: bytes) -> str | None:
    if len(data) < _LOCAL.size or data[:4] != b"PK\3\4":
        return "there is no local header where the central directory says; the archive is broken"
    _, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(data)
    name, extra = _name_and_extra(data, name_size, extra_size)
    if name != raw(info) and not spells(name, flags, extra, path, strict=True):
        found = name.decode("utf-8" if flags & UTF8 else "cp437", "replace")
        return f"its local header names it {quoted(found)}; the archive is broken or made to mislead"
    return None if method == info.compress_type else "its local header has another method; the archive is broken"


def _length(name: str) -> int:
    """Return how many bytes of a local header are read."""
    return _LOCAL.size + len(name.encode(errors="surrogatepass")) + _SLACK


def _name_and_extra(data: bytes, name_size: int, extra_size: int) -> tuple[bytes, bytes]:
    """Return the name and the extra fields of a local header, as far as ``data`` holds them."""
    begin = _LOCAL.size + name_size
    return data[_LOCAL.size : begin], data[begin : begin + extra_size]


def read_member(address: ZipMember) -> bytes:
    """Return a member's content."""
    require_size(address, max(address.length, address.size))
    data = read_range(address.container, address.offset, address.offset + _length(address.member) + address.size)
    if len(data) < _LOCAL.size:
        raise changed(address)
    magic, _, flags, method, _, _, crc, _, _, name_size, extra_size = _LOCAL.unpack_from(data)
    start = _LOCAL.size + name_size + extra_size
    name, extra = _name_and_extra(data, name_size, extra_size)
    expected = magic == b"PK\3\4" and method == address.method and method in METHODS
    if not expected or not spells(name, flags, extra, address.member, strict=False):
        raise changed(address)
    packed = data[start : start + address.size]
    if len(packed) < address.size:
        begin = address.offset + start
        packed = read_range(address.container, begin, begin + address.size)
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


ZIP = Container(
    "a zip",
    (".zip",),
    ZipMember,
    lambda head: head.startswith((b"PK\3\4", b"PK\5\6")),
    lambda _wanted, _kept: read_member,
    entries,
)
