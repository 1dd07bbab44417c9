"""Atomic and exclusive writes on local disk, for :mod:`derm_ray.storage`."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write(path: str, data: bytes) -> None:
    """Write a whole file and sync it; a reader sees the old file or the new one."""
    with _temporary(path) as temporary:
        _write_synced(temporary, data)
        os.replace(temporary, path)


def copy(source: str, path: str) -> None:
    """Copy a file; a reader sees the old file or the new one."""
    with _temporary(path) as temporary:
        shutil.copyfile(source, temporary)
        os.replace(temporary, path)


def create(path: str, data: bytes) -> None:
    """Write a whole file that must not exist.

    Raises:
        FileExistsError: it exists.
    """
    with _temporary(path) as temporary:
        _write_synced(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links, such as exFAT
            _write_synced(path, data)


def remove_temporary(folder: str) -> None:
    """Remove the temporary files that killed writers left in a folder and below it."""
    for path in Path(folder).rglob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def _temporary(path: str) -> Iterator[str]:
    """Yield a temporary name in a file's folder; it is removed at the end if it still exists."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _write_synced(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
