"""Allow-list of image locations: a manifest is data and must not choose what the service opens."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from derm_ray import storage

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hdfs", "memory"})
"""Schemes allowed in every input; credentials control the access."""


class Locations:
    """The allow-list of one input.

    By default images may be in object stores, and on local disk if the input is local. Other schemes
    (``http``, ``sftp``, chained URIs ...) are refused. Prefixes allow more, and then nothing but them and the
    input's own folder.

    Args:
        base_uri: of the input.
        prefixes: URIs of folders.
    """

    def __init__(self, base_uri: str, prefixes: Sequence[str] = ()) -> None:
        self._local = storage.is_local(base_uri)
        self._prefixes = tuple(map(storage.absolute, prefixes))
        self._own = storage.parent(base_uri)
        self._archive = storage.absolute(base_uri)

    def refusal(self, uri: str) -> str | None:
        """Return why an image may not be opened, or ``None``."""
        target = storage.absolute(uri)
        scheme = storage.scheme(uri)
        if "::" in uri:
            return "chained URIs are not allowed"
        if scheme and _is_link_local(uri):
            return "link-local addresses are not allowed"
        if target.partition("#")[0] == self._archive:
            return None
        within = any(_is_inside(target, prefix) for prefix in (*self._prefixes, self._own))
        if self._prefixes:
            return None if within else "it is outside the allowed folders (--allow-prefix)"
        if storage.is_local(uri):
            return (
                None
                if self._local
                else "local paths are not allowed for a remote input (allow the folder with --allow-prefix)"
            )
        if scheme in OBJECT_STORES or within:
            return None
        return f"scheme {scheme!r} is not allowed (allow the folder with --allow-prefix)"


def _is_inside(uri: str, folder: str) -> bool:
    # HTTP clients decode and resolve dots that are written as %2e.
    return uri.startswith(folder.rstrip("/") + "/") and ".." not in unquote(uri).split("/")


def _is_link_local(uri: str) -> bool:
    try:
        host = urlsplit(uri).hostname or ""
    except ValueError:
        return True  # no address at all
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return host == "metadata.google.internal"
