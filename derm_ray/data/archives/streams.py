"""Members of a ``.tar.gz``, delivered in any order while the stream is read once."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from derm_ray.data.archives.address import MAX_BYTES, StreamMember, changed, require_size
from derm_ray.data.archives.containers import Container, Damaged, Member, Read
from derm_ray.data.archives.retry import image_error
from derm_ray.data.archives.tars import TarEntry, TarFile
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

MAX_HELD_BYTES = 512 * 1024 * 1024
"""Limit of buffered members, in bytes."""


class MemberStream:
    """One pass over a ``.tar.gz``; thread-safe.

    A wanted member that is passed is kept until it is read as often as it was announced; others are skipped.
    """

    def __init__(self, uri: str, wanted: Iterable[StreamMember]) -> None:
        self._uri = uri
        self._wanted = Counter(wanted)
        self._at = {address.position: address for address in self._wanted}
        self._held: dict[int, bytes | ImageError] = {}
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._tar = TarFile(uri, packed=True)
        self._entries: Iterator[TarEntry] = self._tar.entries()
        self._pending: TarEntry | None = None
        self._end: ImageError | None = None

    def read(self, address: StreamMember) -> bytes:
        """Return a wanted member."""
        with self._lock:
            if self._wanted[address] == 0:
                raise ImageError(
                    ImageErrorCode.UNSUPPORTED,
                    f"{address}: a .tar.gz has no random access; repack it as .tar",
                )
            while address.position not in self._held:
                self._advance(address)
            found = self._held[address.position]
            self._wanted[address] -= 1
            if self._wanted[address] == 0:
                del self._held[address.position]
                self._held_bytes -= len(found) if isinstance(found, bytes) else 0
        if isinstance(found, ImageError):
            raise found
        return found

    def _advance(self, address: StreamMember) -> None:
        """Read the next member, or raise why that is impossible; buffered members stay readable."""
        if self._end is not None:
            raise ImageError(self._end.code, f"{address}: {self._end.message}")
        try:
            entry = self._pending or next(self._entries, None)
            self._pending = entry
            if entry is None:
                raise Damaged("it has no such member; index it again")
            if wanted := self._at.get(entry.position):
                self._hold(entry, wanted, address)
            self._pending = None
        except Damaged as error:
            self._end = ImageError(error.code, f"the archive cannot be read further: {error}")
        except StorageError as error:
            self._end = image_error(self._uri, error)

    def _hold(self, entry: TarEntry, wanted: StreamMember, asked: StreamMember) -> None:
        if (entry.name, entry.size) != (wanted.member, wanted.size):
            self._held[entry.position] = changed(wanted)
            return
        if self._held and self._held_bytes + entry.size > MAX_HELD_BYTES:
            raise ImageError(
                ImageErrorCode.TOO_LARGE,
                f"{asked}: more than {MAX_HELD_BYTES:,} bytes of the .tar.gz would have to be buffered;"
                " repack it as .tar",
            )
        self._held[entry.position] = self._tar.data(entry)
        self._held_bytes += entry.size


def _members(uri: str) -> Iterator[Member]:
    for entry in TarFile(uri, packed=True).entries():
        yield Member(entry.name, StreamMember(uri, entry.name, entry.position, entry.size), entry.refusal)


def _open(wanted: Iterable[StreamMember], _kept: object) -> Read:
    announced: dict[str, list[StreamMember]] = defaultdict(list)
    for address in wanted:
        if address.size <= MAX_BYTES:
            announced[address.container].append(address)
    streams = {uri: MemberStream(uri, members) for uri, members in announced.items()}

    def read(address: StreamMember) -> bytes:
        require_size(address, address.size)
        return (streams.get(address.container) or MemberStream(address.container, ())).read(address)

    return read


TAR_GZ = Container(
    "a gzip file",
    (".tar.gz", ".tgz"),
    StreamMember,
    lambda head: head.startswith(b"\x1f\x8b"),
    _open,
    _members,
    sequential=True,
)
