"""Inputs of bulk scoring: a manifest, or an archive, which is indexed first."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

from derm_ray import storage
from derm_ray.data.archives.containers import Damaged, kind
from derm_ray.data.archives.index import index_archive
from derm_ray.data.archives.pairing import DEFAULT_RULE, PairingRule
from derm_ray.data.archives.parquet_columns import Content
from derm_ray.data.archives.parquet_tables import parquet_content
from derm_ray.data.manifest import Manifest, normalize_schema, scan_manifest
from derm_ray.data.parts import SUFFIX, parquet_parts, relative, values, with_values
from derm_ray.errors import ConfigError, ManifestError

MANIFEST_SUFFIXES = (".csv", ".jsonl")


class Input(ABC):
    """Lesion pairs, read piece by piece.

    Attributes:
        uri: absolute.
        may_be_rewritten: whether equal rows mean an equal input; images inside an archive could have been replaced.
        patterns: pairing patterns by modality; empty for a manifest.
        skipped: reason -> number of files that are not part of a pair; complete when all pieces are read.
    """

    may_be_rewritten = True

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.patterns: dict[str, list[str]] = {}
        self.skipped: Counter[str] = Counter()

    @abstractmethod
    def pieces(self) -> Iterator[Manifest]:
        """Yield the pairs in order."""

    def fingerprint(self) -> str:
        """Return a value that changes with the input, without reading it."""
        return storage.fingerprint(self.uri)


class ManifestInput(Input):
    """A manifest: a file, or a folder of Parquet files that are its parts.

    Relative image URIs resolve against the folder of the file, or the parent of the folder of parts.
    """

    def __init__(self, uri: str, parts: Sequence[str] = ()) -> None:
        super().__init__(uri)
        self._parts = parts

    def pieces(self) -> Iterator[Manifest]:
        """See :class:`Input`."""
        if not self._parts:
            return scan_manifest(self.uri)
        return (piece for part in self._parts for piece in self._part(part))

    def _part(self, part: str) -> Iterator[Manifest]:
        try:
            what = parquet_content(part)
        except Damaged as error:
            raise ManifestError(part, [f"{error}. Write it again"]) from error
        if what is not Content.MANIFEST:
            raise ManifestError(
                part,
                ["no column 'clinical_uri' or 'dermoscopy_uri', unlike the folder's first part; move it elsewhere"],
            )
        columns = values(relative(part, self.uri))
        for piece in scan_manifest(part):
            table = normalize_schema(with_values(piece.table, columns), self.uri).table
            yield Manifest(table, self.uri, piece.missing_words)


class ArchiveInput(Input):
    """A folder tree, tar, zip, tar.gz or Parquet with images, or DICOM files."""

    may_be_rewritten = False

    def __init__(self, uri: str, rule: PairingRule) -> None:
        super().__init__(uri)
        self.patterns = {"clinical": list(rule.clinical), "dermoscopy": list(rule.dermoscopy)}
        self._rule = rule

    def pieces(self) -> Iterator[Manifest]:
        """See :class:`Input`."""
        index = index_archive(self.uri, self._rule)
        self.skipped.update(index.skipped)
        return (normalize_schema(table, self.uri) for table in index.tables())


def open_input(uri: str, rule: PairingRule | None = None) -> Input:
    """Return the pairs at a URI; nothing but the schema of the first Parquet file is read yet.

    Args:
        uri: a manifest or a folder of its parts in Parquet, an archive or a folder.
        rule: how an archive's files make pairs; ``None`` is the default rule.

    Raises:
        ConfigError: a rule is given for a manifest.
        StorageError: the input is not there.
        ManifestError: a Parquet file has columns of images that are not read.
    """
    parts = _manifest_parts(uri)
    if parts is None:
        return ArchiveInput(uri, rule or DEFAULT_RULE)
    if rule is not None:
        raise ConfigError(f"{uri} is a manifest, which lists its images. Remove the patterns.")
    return ManifestInput(uri, parts)


def _manifest_parts(uri: str) -> list[str] | None:
    """Return the parts of a manifest, empty if it is one file, or ``None`` if it is not a manifest."""
    if uri.lower().endswith(MANIFEST_SUFFIXES):
        return []
    container = kind(uri)
    if container is not None and container.members is not None:
        return None
    if storage.kind(uri) == "directory":
        parts = parquet_parts(uri)
        return parts if parts and _is_manifest(parts[0]) else None
    return [] if uri.lower().endswith(SUFFIX) and _is_manifest(uri) else None


def _is_manifest(uri: str) -> bool:
    try:
        return parquet_content(uri) is Content.MANIFEST
    except Damaged:
        return False  # the index reports the problem
