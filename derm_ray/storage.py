"""URIs to filesystems, atomic writes and digests. Any fsspec URI works; a bare path is local."""

import errno
import hashlib
import json
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from derm_ray import local_files
from derm_ray.errors import StorageError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15
S3FS_ATTEMPTS = 4
_WINDOWS = re.compile(r"[A-Za-z]:[\\/](?!/)|\\\\")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 3, "mode": "standard"},
        }
    },
}
_OPTIONS["s3a"] = _OPTIONS["s3"]
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure"}
"""Packages whose exceptions are failures of storage."""


def scheme(uri: str) -> str:
    """Return the URI's scheme, or ``""`` for a bare path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def is_local(uri: str) -> bool:
    """Return whether a URI is local to this machine."""
    return scheme(uri) in ("", "file", "local")


def is_windows_path(uri: str) -> bool:
    """Return whether a path begins with a Windows drive or share."""
    return bool(_WINDOWS.match(uri))


def absolute(uri: str) -> str:
    """Return the URI with a bare or ``file:`` path made absolute; other URIs lose a trailing slash."""
    if is_local(uri):
        return os.path.abspath(uri.split("://", 1)[-1])
    return uri.rstrip("/")


def join(base: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def parent(uri: str) -> str:
    """Return the folder that holds ``uri``."""
    return absolute(uri).rpartition("/")[0] or "/"


def resolve(uri: str, base: str) -> str:
    """Resolve a possibly relative URI, also with ``.`` and ``..``, against the folder ``base``."""
    if scheme(uri) or uri.startswith("/") or is_windows_path(uri):
        return uri
    protocol, separator, path = base.rpartition("://")
    return protocol + separator + posixpath.normpath(posixpath.join(path, uri))


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of a URI and the path on it.

    Raises:
        StorageError: the scheme is unknown or its package is not installed.
    """
    try:
        fs, path = url_to_fs(absolute(uri), **_OPTIONS.get(scheme(uri), {}))
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: unsupported storage: {error}") from error
    except OSError as error:  # such as a client library that is not there; a retry would not help
        raise StorageError(f"{uri}: unsupported storage: {error}") from None
    if scheme(uri) in ("s3", "s3a"):
        fs.retries = S3FS_ATTEMPTS  # of bodies that break off; what botocore repeats is repeated as often again
    return fs, path


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn filesystem errors into one :class:`StorageError` that names the URI and the fix."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: not found. Correct the path; for object storage, check the bucket too.") from error
    except PermissionError as error:
        raise StorageError(f"{uri}: access denied. Check the credentials and the file's permissions.") from error
    except IsADirectoryError as error:
        raise StorageError(
            f"{uri}: is a folder, but a file is needed. Give a file in it, or merge its files into one."
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _CLIENTS:
            raise  # a bug
        if is_local(uri):
            raise StorageError(f"{uri}: {error}. Check the disk and the path.") from error
        raise StorageError(
            f"{uri}: storage unreachable ({type(error).__name__}: {error}). "
            "Check the network, the endpoint (AWS_ENDPOINT_URL) and the credentials."
        ) from error


@contextmanager
def _located(uri: str, *, fresh: bool = False) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """Yield filesystem and path of a URI, with the block's errors translated.

    Args:
        uri: to locate.
        fresh: forget earlier listings, which other processes may have changed.
    """
    fs, path = filesystem(uri)
    with translate_errors(uri):
        if fresh:
            fs.invalidate_cache()
        yield fs, path


def kind(uri: str) -> str | None:
    """Return ``file``, ``directory`` or another kind of object at a URI, ``None`` if it does not exist."""
    with _located(uri, fresh=True) as (fs, path):
        try:
            return str(fs.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise


def exists(uri: str) -> bool:
    """Return whether a file or a non-empty folder exists."""
    with _located(uri, fresh=True) as (fs, path):
        return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """Return a whole file.

    Raises:
        StorageError: it is missing, forbidden or unreachable.
    """
    with _located(uri) as (fs, path):
        return fs.cat_file(path)  # type: ignore[no-any-return]


def read_range(uri: str, start: int, stop: int) -> bytes:
    """Return the bytes ``start <= i < stop`` of a file, fewer at its end.

    Raises:
        StorageError: it is missing, forbidden or unreachable.
    """
    if start >= stop:
        return b""
    with _located(uri) as (fs, path):
        if is_local(uri) and not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
            raise StorageError(f"{uri}: a pipe or a device, not a file.")
        try:
            return fs.cat_file(path, start=start, end=stop)  # type: ignore[no-any-return]
        except OSError as error:
            # S3 returns 416 if ``start`` is at or after the end, also for empty objects; disks fail on invalid offsets.
            if error.errno == errno.EINVAL and (is_local(uri) or "range" in str(error).lower()):
                return b""
            raise


def size(uri: str) -> int:
    """Return a file's length in bytes.

    Raises:
        StorageError: it is missing, forbidden or unreachable.
    """
    with _located(uri, fresh=True) as (fs, path):
        return int(fs.info(path)["size"])


@contextmanager
def open_read(uri: str) -> Iterator[BinaryIO]:
    """Open a file for reading, seekable; only the parts read are fetched.

    Raises:
        StorageError: it is missing, forbidden or unreachable.
    """
    with _located(uri) as (fs, path):
        file = fs.open(path, "rb")
    with file:
        yield file


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file atomically: a reader sees the old file or the new one, never a part.

    Local files go through a temporary file and a rename; object stores take one PUT or one completed
    multipart upload.
    """
    with _located(uri) as (fs, path):
        if is_local(uri):
            local_files.write(path, data)
        else:
            fs.pipe_file(path, data)
            fs.invalidate_cache(path)


def create(uri: str, data: bytes) -> bool:
    """Create a file exclusively; return whether this call created it.

    Exclusive on local disk and where the filesystem has conditional writes (S3: ``If-None-Match``).

    Args:
        uri: of the file.
        data: unlike what any other caller writes, such as by holding a random id.
    """
    with _located(uri) as (fs, path):
        try:
            if is_local(uri):
                local_files.create(path, data)
            else:
                fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            if is_local(uri) and Path(parent(uri)).is_file():
                raise
            return False
        except OSError:
            # The condition failed, or a response was lost: the content shows who created the file.
            if not exists(uri):
                raise
            return read_bytes(uri) == data
    return True


def upload(local_path: str, uri: str) -> None:
    """Copy a local file to a URI, atomically."""
    with _located(uri) as (fs, path):
        if is_local(uri):
            local_files.copy(local_path, path)
        else:
            fs.put_file(local_path, path)
            fs.invalidate_cache(path)


def read_json(uri: str) -> Any:
    """Return a parsed JSON file.

    Raises:
        StorageError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise StorageError(f"{uri}: not valid JSON ({error}).") from error


def write_json(uri: str, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes(uri, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def list_files(uri: str) -> list[str]:
    """Return the absolute URIs of all files below a folder, sorted; empty where there is none."""
    with _located(uri, fresh=True) as (fs, path):
        if not fs.exists(path):
            return []
        found = fs.find(path)
    return sorted(str(name) if is_local(uri) else str(fs.unstrip_protocol(name)) for name in found)


def list_folder(uri: str) -> list[str]:
    """Return the names directly in a folder, sorted, those of folders with a slash; empty where there is none."""
    with _located(uri, fresh=True) as (fs, path):
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
    found = {str(entry["name"]).rstrip("/"): entry["type"] for entry in entries}
    found.pop(path.rstrip("/"), None)  # object stores may hold an empty object that stands for the folder
    return sorted(name.rpartition("/")[2] + ("/" if kind == "directory" else "") for name, kind in found.items())


def fingerprint(uri: str) -> str:
    """Return a digest of metadata, without reading: names, sizes and ETags, or modification times.

    Args:
        uri: a file, or a folder with all files in it.
    """
    with _located(uri, fresh=True) as (fs, path):
        info = fs.info(path)
        found = fs.find(path, detail=True) if info["type"] == "directory" else {path: info}
    stamps = ("ETag", "etag", "mtime", "LastModified", "last_modified")
    return digest(
        [
            [name, entry.get("size"), next((str(entry[key]) for key in stamps if key in entry), "")]
            for name, entry in sorted(found.items())
        ]
    )


def modified(uri: str) -> float | None:
    """Return when a file was last written by its storage's clock, in seconds since 1970; ``None`` where unknown.

    Raises:
        StorageError: see :func:`filesystem`.
    """
    with _located(uri) as (fs, path), suppress(NotImplementedError):
        return float(fs.modified(path).timestamp())
    return None


def remove(uri: str) -> None:
    """Remove a file; nothing happens where there is none."""
    with _located(uri) as (fs, path), suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_tree(uri: str) -> None:
    """Remove a folder and all below it; nothing happens where there is none."""
    with _located(uri, fresh=True) as (fs, path):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
