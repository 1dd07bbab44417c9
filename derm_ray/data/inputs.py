"""What bulk scoring reads: a manifest, or an archive that is indexed on the way."""

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.data.archives.index import index_archive
from derm_ray.data.archives.pairing import DEFAULT_RULE, PairingRule
from derm_ray.data.manifest import URI_COLUMNS, Manifest, conform, scan_manifest
from derm_ray.data.prepared import require_size
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.errors import ConfigError, ManifestError

MANIFEST_SUFFIXES = (".csv", ".jsonl")


class Input(Protocol):
    """Lesion pairs, read piece by piece."""

    uri: str
    may_be_rewritten: bool
    """Whether it is the same as long as its rows are; an archive's images could have been replaced."""
    patterns: dict[str, list[str]]
    """How its files make pairs: modality -> patterns; empty for a manifest."""
    left_out: Counter[str]
    """Reason -> files that are no image of a pair; complete once all pieces are read."""

    def pieces(self) -> Iterator[Manifest]:
        """Yield the pairs in order, image URIs absolute."""
        ...

    def fingerprint(self) -> str:
        """Return what changes when the input does, without reading it."""
        ...


class ManifestInput:
    """A manifest file."""

    may_be_rewritten = True

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.patterns: dict[str, list[str]] = {}
        self.left_out: Counter[str] = Counter()

    def pieces(self) -> Iterator[Manifest]:
        """See :class:`Input`."""
        return (piece.absolute() for piece in scan_manifest(self.uri))

    def fingerprint(self) -> str:
        """See :class:`Input`."""
        return storage.fingerprint(self.uri)


class MemoryInput:
    """A manifest in memory."""

    may_be_rewritten = True

    def __init__(self, manifest: Manifest) -> None:
        self.uri = manifest.uri
        self.patterns: dict[str, list[str]] = {}
        self.left_out: Counter[str] = Counter()
        self._manifest = manifest.absolute()

    def pieces(self) -> Iterator[Manifest]:
        """See :class:`Input`."""
        yield self._manifest

    def fingerprint(self) -> str:
        """See :class:`Input`."""
        return self._manifest.digest


class ArchiveInput:
    """A folder tree, tar, zip, tar.gz or Parquet with images, or DICOM files."""

    may_be_rewritten = False

    def __init__(self, uri: str, rule: PairingRule) -> None:
        self.uri = storage.absolute(uri)
        self.left_out: Counter[str] = Counter()
        self.patterns = {"clinical": list(rule.clinical), "dermoscopy": list(rule.dermoscopy)}
        self._rule = rule

    def pieces(self) -> Iterator[Manifest]:
        """See :class:`Input`."""
        index = index_archive(self.uri, self._rule)
        self.left_out.update(index.left_out)
        return (conform(table, self.uri) for table in index.tables())

    def fingerprint(self) -> str:
        """See :class:`Input`."""
        return storage.fingerprint(self.uri)


class SizedInput:
    """An input whose images, where they were prepared, were prepared for one model.

    Args:
        source: what is read.
        spec: the model's.
    """

    def __init__(self, source: Input, spec: Preprocessing) -> None:
        self.uri = source.uri
        self.may_be_rewritten = source.may_be_rewritten
        self.patterns = source.patterns
        self.left_out = source.left_out
        self._source, self._spec = source, spec

    def pieces(self) -> Iterator[Manifest]:
        """See :class:`Input`.

        Raises:
            ConfigError: images were prepared at another size.
        """
        for piece in self._source.pieces():
            require_size(piece, self._spec, "the model's size")
            yield piece

    def fingerprint(self) -> str:
        """See :class:`Input`."""
        return self._source.fingerprint()


def open_input(uri: str, rule: PairingRule | None = None) -> Input:
    """Return the pairs at a URI; nothing but a Parquet file's schema is read yet.

    Args:
        uri: a manifest, an archive or a folder.
        rule: how an archive's files make pairs; ``None`` is the default rule.

    Raises:
        ConfigError: a rule is given for a manifest.
        StorageError: the input is not there.
        ManifestError: a Parquet file is neither a manifest nor an archive.
    """
    if not _is_manifest(uri):
        return ArchiveInput(uri, rule or DEFAULT_RULE)
    if rule is not None:
        raise ConfigError(f"{uri} is a manifest: it names its images itself. Leave the patterns out.")
    return ManifestInput(uri)


def _is_manifest(uri: str) -> bool:
    if uri.lower().endswith(MANIFEST_SUFFIXES):
        return True
    if not uri.lower().endswith(".parquet"):
        return False
    with storage.explained(uri), storage.open_read(uri) as file:
        try:
            names = set(pq.read_schema(file).names)
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(uri, [f"cannot be parsed as parquet: {error}"]) from error
    return bool(names & set(URI_COLUMNS))
