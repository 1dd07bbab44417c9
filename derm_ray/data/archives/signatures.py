"""Detecting containers by their first bytes, in case their name is wrong."""

import tarfile

from derm_ray.data.archives.address import Address, ParquetCell, StreamMember, TarMember, ZipMember
from derm_ray.data.archives.names import Damaged

HEAD = tarfile.BLOCKSIZE
"""Bytes that :func:`misnamed` looks at."""
_REPACK = "Repack it as .tar or .zip."
_KINDS: tuple[tuple[bytes, str, type[Address] | str], ...] = (
    (b"\x1f\x8b", "a gzip file", StreamMember),
    (b"PK\3\4", "a zip", ZipMember),
    (b"PK\5\6", "a zip", ZipMember),
    (b"PAR1", "a Parquet file", ParquetCell),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "Unpack it with `zstd -d`; a tar in it can be read plain or gzipped."),
    (b"BZh", "a bzip2 file", "Unpack it with `bunzip2`; a tar in it can be read plain or gzipped."),
    (b"\xfd7zXZ\0", "an xz file", "Unpack it with `unxz`; a tar in it can be read plain or gzipped."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _REPACK),
    (b"Rar!", "a RAR archive", _REPACK),
    (b"<", "a text file, such as the error page of a failed download", "Copy the archive again."),
)
_SUFFIX = {StreamMember: ".tar.gz", TarMember: ".tar", ZipMember: ".zip", ParquetCell: ".parquet"}


def misnamed(head: bytes, cls: type[Address]) -> Damaged | None:
    """Return the error for a misnamed container, or ``None`` if its first bytes are not conclusive.

    Args:
        head: the first :data:`HEAD` bytes, fewer of a shorter file.
        cls: the address type for its extension.
    """
    if not head:
        return Damaged("it is empty (0 bytes)")
    found: tuple[str, type[Address] | str] | None = next(
        ((name, what) for magic, name, what in _KINDS if head.startswith(magic)), None
    )
    if found is None and _is_tar(head):
        found = ("a plain tar", TarMember)
    if found is None or found[1] is cls:
        return None
    name, what = found
    fix = what if isinstance(what, str) else f"Rename it to end in {_SUFFIX[what]}."
    return Damaged(f"it is {name}, not a {_SUFFIX[cls]}", fix=fix)


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except Exception:  # tarfile raises anything from HeaderError to ValueError on invalid headers
        return False
    return True
