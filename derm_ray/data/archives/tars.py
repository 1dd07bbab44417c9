"""Tar archives, plain and gzipped, read forwards: headers by :mod:`tarfile`, with limits on memory."""

import gzip
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from derm_ray.data.archives.address import TarMember, changed, require_size
from derm_ray.data.archives.containers import Container, Damaged, Member
from derm_ray.data.archives.ranges import STREAM_BLOCK, open_ranges, read_range
from derm_ray.errors import DermRayError, ImageErrorCode

MAX_HEADER = 64 * 1024
"""Bytes of an extended (pax, GNU long name) header; :mod:`tarfile` reads it whole."""
MAX_MEMBERS = 20_000_000
MAX_PADDING = 1024**3
"""Zero bytes after the end marker; writers pad by some MB at most."""
BOMB_RATIO = 200
BOMB_FLOOR = 64 * 1024 * 1024
"""Bytes a gzip may expand to before :data:`BOMB_RATIO` counts."""
_BLOCK = 512
_SKIP = 1024 * 1024
_IGNORED = (tarfile.DIRTYPE, b"V", b"D")  # folders, GNU volume labels, GNU lists of folders


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One member: ``offset`` is that of its data, ``position`` counts members from 0.

    ``refusal`` is the reason why a member that is not a plain file is rejected.
    """

    name: str
    offset: int
    size: int
    position: int
    refusal: str | None


class TarFile:
    """A tar archive, plain or gzipped (``packed``); archives that were concatenated are one, as for ``tar -i``."""

    def __init__(self, uri: str, *, packed: bool) -> None:
        self._file = _Forward(_Gunzip(uri) if packed else open_ranges(uri))

    def entries(self) -> Iterator[TarEntry]:
        """Yield the members but folders."""
        position = 0
        ended = 0  # zero blocks since the last member
        tar: tarfile.TarFile | None = None
        while True:
            with _explained(first=tar is None):
                if tar is None:
                    file = cast("Any", self._file)
                    tar = tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8", errors="surrogateescape")
                info = tar.next()
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
            if info is None:
                block = self._file.last
                if not any(block) and (ended or len(block) == _BLOCK):
                    if len(block) < _BLOCK:
                        return
                    ended += 1
                    if ended * _BLOCK > MAX_PADDING:
                        raise Damaged(f"it has more than {MAX_PADDING:,} zero bytes after its end marker")
                    tar.offset = self._file.tell()  # tarfile continues there, with padding or another tar
                    continue
                if not ended:
                    raise Damaged("it ends, or has a broken header, before its end marker")
                begin = self._file.tell() - len(block)
                raise Damaged(
                    f"after its end marker, from byte {begin:,} on, there is data that is neither padding nor another "
                    "tar",
                    fix=f"If nothing is missing, cut it off: head -c {begin} OLD.tar > NEW.tar (unpack a .tar.gz "
                    "first).",
                )
            ended = 0
            if info.size < 0:
                raise Damaged(f"member {position} has a negative size")
            if info.type not in _IGNORED:
                yield TarEntry(info.name, info.offset_data, info.size, position, _refusal(info))
            position += 1
            if position > MAX_MEMBERS:
                raise Damaged(f"it has more than {MAX_MEMBERS:,} members")

    def data(self, entry: TarEntry) -> bytes:
        """Return the content of the member that :meth:`entries` yielded last."""
        with _explained():
            self._file.seek(entry.offset)
            data = self._file.take(entry.size)
        if len(data) < entry.size:
            raise Damaged("it ends in the middle of a member")
        return data


@contextmanager
def _explained(*, first: bool = False) -> Iterator[None]:
    """Turn what tarfile, gzip and zlib raise on broken archives (of any type) into :class:`Damaged`."""
    try:
        yield
    except (DermRayError, Damaged):
        raise
    except EOFError as error:
        raise Damaged("it is truncated") from error
    except Exception as error:
        if first and isinstance(error, tarfile.ReadError):
            raise Damaged(f"it does not start with a tar header ({error})") from error
        raise Damaged(f"{type(error).__name__}: {error}") from error


def _refusal(info: tarfile.TarInfo) -> str | None:
    if info.issparse():
        return "it is a sparse file; repack with plain files"
    if info.issym() or info.islnk():
        return "it is a link"
    if info.ischr() or info.isblk() or info.isfifo():
        return "it is a device or a pipe"
    if info.type == b"M":
        return "it is continued from another volume; join the volumes first"
    return None if info.isreg() else f"it is of unknown type {info.type!r}"


class _Forward:
    """A forward-only view of an archive for tarfile, with headers of bounded length."""

    def __init__(self, file: "BinaryIO | _Gunzip") -> None:
        self._file = file
        self.last = b""

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> None:
        if position < self.tell():
            raise Damaged("a header points backwards")
        self._file.seek(position)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise Damaged(f"an extended header of {size:,} bytes; at most {MAX_HEADER:,} are accepted")
        data = self._file.read(size)
        if size > _BLOCK and re.search(rb"\d{200}", data):
            # tarfile's search of a pax header takes quadratic time on digits (CVE-2024-6232).
            raise Damaged("an extended header full of digits")
        if size == _BLOCK:
            self.last = data
        return data

    def take(self, size: int) -> bytes:
        return self._file.read(size)


class _Gunzip:
    """A gzipped file's content, forward only; stops at a decompression bomb."""

    def __init__(self, uri: str) -> None:
        self._packed = open_ranges(uri, STREAM_BLOCK)
        self._file = gzip.GzipFile(fileobj=self._packed, mode="rb")

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> None:
        while (left := position - self.tell()) > 0:
            if not self.read(min(left, _SKIP)):
                return

    def read(self, size: int) -> bytes:
        parts = []
        while size and (part := self._part(min(size, _SKIP))):
            parts.append(part)
            size -= len(part)
            self._check()
        return b"".join(parts)

    def _part(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except gzip.BadGzipFile as error:
            if self.tell() == 0 or not str(error).startswith("Not a gzipped file"):
                raise
            raise Damaged(
                f"after {self.tell():,} unpacked bytes, there is data that is not gzip",
                fix="If nothing is missing, cut it off: gzip -dc OLD.tar.gz | gzip > NEW.tar.gz",
            ) from error

    def _check(self) -> None:
        unpacked, packed = self._file.tell(), self._packed.tell()
        if unpacked > BOMB_FLOOR and unpacked > BOMB_RATIO * packed:
            ratio = unpacked / max(packed, 1)
            raise Damaged(f"it expands {ratio:.0f} times, at most {BOMB_RATIO} are accepted", ImageErrorCode.BOMB)


def read_member(address: TarMember) -> bytes:
    """Return a member of an uncompressed tar by its address, its header checked against it."""
    require_size(address, address.size)
    data = read_range(address.container, address.offset - _BLOCK, address.offset + address.size)
    try:
        header = tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise changed(address) from error
    # A long name, or one that is not ASCII, stands in an extended header before this one.
    named = len(address.member) > 100 or not address.member.isascii() or header.name == address.member
    if not named or header.size not in (0, address.size) or len(data) < _BLOCK + address.size:
        raise changed(address)
    return data[_BLOCK:]


def _members(uri: str) -> Iterator[Member]:
    for entry in TarFile(uri, packed=False).entries():
        yield Member(entry.name, TarMember(uri, entry.name, entry.offset, entry.size), entry.refusal)


def is_header(block: bytes) -> bool:
    """Return whether these bytes are the start of a tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except Exception:  # tarfile raises anything from HeaderError to ValueError on invalid headers
        return False
    return True


TAR = Container("a plain tar", (".tar",), TarMember, is_header, lambda _wanted, _kept: read_member, _members)
