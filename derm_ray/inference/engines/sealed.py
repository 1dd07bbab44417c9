"""Engines that a bundle holds beside its weights: files made once, under a digest of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from derm_ray import __version__, storage
from derm_ray.bundle import Bundle
from derm_ray.errors import BundleError, OutputExistsError

FOLDER = "engines"
INDEX = "engine.json"


@dataclass(frozen=True)
class SealedEngine:
    """A verified engine in memory.

    Attributes:
        name: of the engine.
        digest: SHA-256 over its files, the model and its parity report.
        parity: how its answers differ from the model's in fp32.
        files: by name.
    """

    name: str
    digest: str
    parity: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def identity(self) -> str:
        """Name and digest: what scores record, and what all replicas of a run must have."""
        return f"{self.name}@{self.digest[:16]}"


def seal_engine(
    bundle: Bundle,
    name: str,
    files: Mapping[str, bytes],
    parity: Mapping[str, Any],
    made_with: Mapping[str, str],
    *,
    overwrite: bool = False,
) -> str:
    """Write an engine into its bundle; the index comes last. The model's digest stays as it is.

    Args:
        bundle: where to.
        name: of the engine.
        files: by name.
        parity: see :class:`SealedEngine`.
        made_with: package -> version.
        overwrite: replace one that is there.

    Returns:
        The engine's digest.

    Raises:
        OutputExistsError: the bundle already has one.
    """
    folder = _folder(bundle, name)
    if storage.exists(storage.join(folder, INDEX)):
        if not overwrite:
            raise OutputExistsError(f"{bundle.uri} already holds the engine {name}. Give --overwrite to make it anew.")
        storage.remove(storage.join(folder, INDEX))
    for file, data in files.items():
        storage.write_bytes(storage.join(folder, file), data)
    index: dict[str, Any] = {
        "engine": name,
        "model_digest": bundle.model_digest,
        "derm_ray_version": __version__,
        "made_with": dict(made_with),
        "parity": dict(parity),
        "files": {file: storage.sha256(data) for file, data in files.items()},
    }
    index["digest"] = storage.digest(index)
    storage.write_json(storage.join(folder, INDEX), index)
    return str(index["digest"])


def sealed_engines(bundle: Bundle) -> list[str]:
    """Return the names of the engines that a bundle holds."""
    names = (name.rstrip("/") for name in storage.list_folder(storage.join(bundle.uri, FOLDER)))
    return [name for name in names if storage.exists(storage.join(_folder(bundle, name), INDEX))]


def load_engine(bundle: Bundle, name: str) -> SealedEngine:
    """Read an engine and verify every digest.

    Raises:
        BundleError: it is not there, incomplete, altered, or of another model.
    """
    folder = _folder(bundle, name)
    if not storage.exists(storage.join(folder, INDEX)):
        raise BundleError(
            f"{bundle.uri} holds no engine {name}. Make it: derm-ray model quantize {bundle.uri} --manifest MANIFEST."
        )
    index = storage.read_json(storage.join(folder, INDEX))
    digest = index.pop("digest", None) if isinstance(index, dict) else None
    if digest != storage.digest(index):
        raise _altered(folder, INDEX)
    if index["model_digest"] != bundle.model_digest:
        raise BundleError(f"{folder} was made from another model. Make it anew with --overwrite.")
    files = {}
    for file, expected in index["files"].items():
        files[file] = storage.read_bytes(storage.join(folder, file))
        if storage.sha256(files[file]) != expected:
            raise _altered(folder, file)
    return SealedEngine(name, str(digest), index["parity"], files)


def _folder(bundle: Bundle, name: str) -> str:
    return storage.join(bundle.uri, FOLDER, name)


def _altered(folder: str, file: str) -> BundleError:
    return BundleError(
        f"{folder}: {file} was altered after sealing (its SHA-256 differs). Make it anew with --overwrite."
    )
