"""Detecting containers by their first bytes, in case their name is wrong."""

import tarfile

from derm_ray.data.archives.containers import CONTAINERS, Container
from derm_ray.data.archives.names import Damaged

HEAD = tarfile.BLOCKSIZE
"""Bytes that :func:`misnamed` looks at."""
_REPACK = "Repack it as .tar or .zip."
_OTHERS = (
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "Unpack it with `zstd -d`; a tar in it can be read plain or gzipped."),
    (b"BZh", "a bzip2 file", "Unpack it with `bunzip2`; a tar in it can be read plain or gzipped."),
    (b"\xfd7zXZ\0", "an xz file", "Unpack it with `unxz`; a tar in it can be read plain or gzipped."),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _REPACK),
    (b"Rar!", "a RAR archive", _REPACK),
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
    found = next((container for container in CONTAINERS.values() if container.is_one(head)), None)
    if found is promised:
        return None
    if found is not None:
        title, fix = found.title, f"Rename it to end in {found.suffixes[0]}."
    elif other := next(((title, fix) for magic, title, fix in _OTHERS if head.startswith(magic)), None):
        title, fix = other
    else:
        return None
    return Damaged(f"it is {title}, not a {promised.suffixes[0]}", fix=fix)
