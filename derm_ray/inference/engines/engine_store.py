"""Engines stored in a bundle in addition to its weights, each with its own digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from derm_ray import __version__, storage
from derm_ray.bundle import Bundle
from derm_ray.errors import BundleError, OutputExistsError, StorageError

FOLDER = "engines"
INDEX = "engine.json"
KEYS = {"digest", "model_digest", "parity", "files"}


@dataclass(frozen=True)
class StoredEngine:
    """A verified engine in memory.

    ``digest`` is the SHA-256 over its files, the model and ``parity``, the comparison of its predictions with fp32.
    """

    name: str
    digest: str
    parity: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def identity(self) -> str:
        """Name and digest, as recorded in scores; equal on all replicas of a run."""
        return f"{self.name}@{_short(self.digest)}"


def store_engine(
    bundle: Bundle,
    name: str,
    files: Mapping[str, bytes],
    parity: Mapping[str, Any],
    built_with: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> str:
    """Write an engine into its bundle, whose model digest stays as it is, and return the engine's digest.

    The index is written last, so that a replaced engine stays complete until then. ``built_with`` are package ->
    version.

    Raises:
        OutputExistsError: the bundle already has one, and ``overwrite`` is not set.
    """
    folder = _folder(bundle, name)
    if not overwrite and name in stored_engines(bundle):
        raise already_there(bundle, name)
    sums = {file: storage.sha256(data) for file, data in files.items()}
    for file, data in files.items():
        storage.write_bytes(_file_uri(folder, file, sums[file]), data)
    index: dict[str, Any] = {
        "engine": name,
        "model_digest": bundle.model_digest,
        "derm_ray_version": __version__,
        "built_with": dict(built_with),
        "parity": dict(parity),
        "files": sums,
    }
    index["digest"] = storage.digest(index)
    storage.write_json(storage.join(folder, INDEX), index)
    kept = {INDEX, *(f"{digest[:16]}-{file}" for file, digest in sums.items())}
    for old in set(storage.list_folder(folder)) - kept:
        storage.remove(storage.join(folder, old))
    return str(index["digest"])


def already_there(bundle: Bundle, name: str) -> OutputExistsError:
    """Return the error of a bundle that has an engine."""
    return OutputExistsError(f"{bundle.uri} already contains the engine {name}. Give --overwrite to replace it.")


def stored_engines(bundle: Bundle) -> list[str]:
    """Return the names of the engines that a bundle holds."""
    names = (name.rstrip("/") for name in storage.list_folder(storage.join(bundle.uri, FOLDER)))
    return [name for name in names if storage.exists(storage.join(_folder(bundle, name), INDEX))]


def engine_digest(bundle: Bundle, name: str) -> str:
    """Return the digest in :attr:`StoredEngine.identity` without reading the files; see :func:`load_engine`."""
    return _short(_read_index(bundle, name)["digest"])


def load_engine(bundle: Bundle, name: str) -> StoredEngine:
    """Read an engine and verify every digest.

    Raises:
        BundleError: it is missing, incomplete, modified, or of another model.
    """
    folder, index = _folder(bundle, name), _read_index(bundle, name)
    files = {}
    for file, expected in index["files"].items():
        try:
            files[file] = storage.read_bytes(_file_uri(folder, file, expected))
        except StorageError as error:
            raise BundleError(f"{folder}: {file} cannot be read: {error}") from error
        if storage.sha256(files[file]) != expected:
            raise _altered(folder, file)
    return StoredEngine(name, index["digest"], index["parity"], files)


def _read_index(bundle: Bundle, name: str) -> dict[str, Any]:
    folder = _folder(bundle, name)
    if not storage.exists(storage.join(folder, INDEX)):
        raise BundleError(
            f"{bundle.uri} contains no engine {name}. Create it: derm-ray model quantize {bundle.uri} --manifest "
            "MANIFEST."
        )
    index = storage.read_json(storage.join(folder, INDEX))
    if not isinstance(index, dict) or not index.keys() >= KEYS:
        raise _altered(folder, INDEX)
    if index["digest"] != storage.digest({key: value for key, value in index.items() if key != "digest"}):
        raise _altered(folder, INDEX)
    if index["model_digest"] != bundle.model_digest:
        raise BundleError(f"{folder} was created from another model. Create it again with --overwrite.")
    if any("/" in file for file in index["files"]):
        raise BundleError(f"{folder}: {INDEX} names files outside of its folder. Do not use this bundle.")
    return index


def _short(digest: str) -> str:
    return digest[:16]


def _file_uri(folder: str, file: str, sha256: str) -> str:
    """Return the URI of a file, named by its content, so that a new engine does not overwrite the old one."""
    return storage.join(folder, f"{sha256[:16]}-{file}")


def _folder(bundle: Bundle, name: str) -> str:
    return storage.join(bundle.uri, FOLDER, name)


def _altered(folder: str, file: str) -> BundleError:
    return BundleError(
        f"{folder}: {file} was modified (its SHA-256 differs from the recorded one). Create it again with --overwrite."
    )
