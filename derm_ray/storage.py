"""URIs to filesystems, atomic writes and digests. Any fsspec URI works; a bare path is local."""

import hashlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.core import url_to_fs

from derm_ray.errors import StorageError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
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


def scheme(uri: str) -> str:
    """Return the URI's scheme, or ``""`` for a bare path."""
    return urlsplit(uri).scheme if "://" in uri else ""


def is_local(uri: str) -> bool:
    """Tell whether a URI names a file on this machine."""
    return scheme(uri) in ("", "file", "local")


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
    head, _, _ = absolute(uri).rpartition("/")
    return head or "/"


def resolve(uri: str, base: str) -> str:
    """Resolve a possibly relative URI, also with ``.`` and ``..``, against the folder ``base``."""
    if scheme(uri) or uri.startswith("/"):
        return uri
    protocol, separator, path = base.rpartition("://")
    return protocol + separator + posixpath.normpath(posixpath.join(path, uri))


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of a URI and the path on it.

    Raises:
        StorageError: the scheme is unknown or its package is not installed.
    """
    try:
        return url_to_fs(absolute(uri), **_OPTIONS.get(scheme(uri), {}))  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: cannot open this kind of storage: {error}") from error


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what filesystems raise into one :class:`StorageError` that names the URI and the mend."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: not found. Check the path, and the bucket for object storage.") from error
    except PermissionError as error:
        raise StorageError(f"{uri}: access denied. Check the credentials and the file's permissions.") from error
    except IsADirectoryError as error:
        raise StorageError(f"{uri}: is a folder, a file was expected.") from error
    except Exception as error:
        if not _is_storage_failure(error):
            raise
        if is_local(uri):
            raise StorageError(f"{uri}: {error}. Check the disk and the path.") from error
        raise StorageError(
            f"{uri}: storage unreachable ({type(error).__name__}: {error}). "
            "Check the network, the endpoint (AWS_ENDPOINT_URL) and the credentials."
        ) from error


def _is_storage_failure(error: Exception) -> bool:
    """Tell I/O errors, and those of client libraries that are not OSErrors, from bugs."""
    package = type(error).__module__.split(".")[0]
    return isinstance(error, OSError) or package in {"botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure"}


def exists(uri: str) -> bool:
    """Tell whether a file or a non-empty folder is there."""
    fs, path = filesystem(uri)
    with explained(uri):
        fs.invalidate_cache()
        return bool(fs.exists(path))


def read_bytes(uri: str) -> bytes:
    """Return a whole file.

    Raises:
        StorageError: it is missing, forbidden or unreachable.
    """
    fs, path = filesystem(uri)
    with explained(uri):
        return fs.cat_file(path)  # type: ignore[no-any-return]


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file atomically: a reader sees the old file or the new one, never a part.

    Local files go through a temporary file and a rename; object stores take one PUT or one completed
    multipart upload.
    """
    fs, path = filesystem(uri)
    with explained(uri):
        if is_local(uri):
            _write_local(path, data)
        else:
            fs.pipe_file(path, data)
            fs.invalidate_cache(path)


def _write_local(path: str, data: bytes) -> None:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
    fs, path = filesystem(uri)
    with explained(uri):
        fs.invalidate_cache()
        if not fs.exists(path):
            return []
        found = fs.find(path)
    return sorted(str(name) if is_local(uri) else str(fs.unstrip_protocol(name)) for name in found)


def remove_tree(uri: str) -> None:
    """Remove a folder and all below it; nothing happens where there is none."""
    fs, path = filesystem(uri)
    with explained(uri):
        fs.invalidate_cache()
        if fs.exists(path):
            fs.rm(path, recursive=True)


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
