"""The files of an archive, or of a folder of files and archives."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from derm_ray import storage
from derm_ray.data.archives.address import Address
from derm_ray.data.archives.containers import HEAD, Container, Damaged, Member, kind, misnamed, suffixes
from derm_ray.data.archives.names import (
    ArchiveError,
    is_archive,
    is_volume,
    may_be_image,
    normal,
    quoted,
    refusal,
    shown,
)
from derm_ray.data.archives.parquet_columns import Content
from derm_ray.data.archives.parquet_tables import image_tables, parquet_content
from derm_ray.data.archives.ranges import read_range
from derm_ray.data.manifest import URI_COLUMNS
from derm_ray.data.parts import is_hidden, relative, values
from derm_ray.errors import ManifestError, StorageError, counted

JOIN = "it is one part of a split archive; join the parts first, such as with `cat a.tar.* > a.tar`"
NO_IMAGE = "row without an image"
SIDE_FILE = "side file of macOS"
_NO_IMAGES = "Parquet without images"
_MANIFEST = "manifest"
_HIDDEN = "hidden Parquet file: a part of its path begins with '_' or '.'"
_SPECIAL = "not a regular file"
_OTHER_ARCHIVE = "unsupported archive format"
_INNER_ARCHIVE = "archive inside an archive"
UNNAMED = frozenset((NO_IMAGE, SIDE_FILE, _NO_IMAGES, _MANIFEST, _HIDDEN, _SPECIAL, _OTHER_ARCHIVE, _INNER_ARCHIVE))
"""Reasons for skipping files that do not depend on the patterns."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file: its path below the archive's root, and its address, or the URI of an ordinary file."""

    path: str
    location: Address | str


class Source:
    """The content of a URI; the attributes are complete when :meth:`files` has finished.

    Attributes:
        found: files, and rows of Parquet.
        skipped: reason -> files.
        containers: URIs of archives, and of the folder if it holds files itself.
        problems: one line each.
        tables: of Parquet files with images, in manifest columns.
        manifests: URIs of Parquet files that are manifests.
        skipped_columns: unsupported columns and their types.
    """

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        self.found = 0
        self.skipped: Counter[str] = Counter()
        self.containers: list[str] = []
        self.problems: list[str] = []
        self.tables: list[pa.Table] = []
        self.manifests: list[str] = []
        self.skipped_columns: dict[str, str] = {}

    def files(self) -> Iterator[SourceFile]:
        """Yield the files with accepted names."""
        container = kind(self.uri)
        if container is not None and storage.kind(self.uri) != "directory":
            yield from self._archive(self.uri, container, None)
            return
        names = storage.list_files(self.uri)
        if not names:
            raise StorageError(f"{shown(self.uri)}: not found, or an empty folder. Correct the path.")
        if len(names) == 1 and relative(names[0], self.uri) == names[0]:  # the file itself
            form = f"it is not a folder, and has no archive file extension ({', '.join(suffixes())})"
            raise ArchiveError(self.uri, [JOIN if is_volume(self.uri) else f"{form}. Repack it as .tar or .zip"])
        for name in names:
            if not name.endswith("/"):
                yield from self._listed(name, relative(name, self.uri))
        if self.tables:
            self.problems += [
                f"{shown(uri)}: it is a manifest, but other files of the folder contain images. Move it elsewhere"
                for uri in self.manifests
            ]

    def _listed(self, uri: str, path: str) -> Iterator[SourceFile]:
        container = kind(uri)
        table = container is not None and container.members is None
        why = refusal(path) or ("its name contains '::'" if "::" in path else JOIN if is_volume(path) else None)
        if container is not None and not why and not (table and is_hidden(path)):
            yield from self._archive(uri, container, path)
            return
        self.found += 1
        if why:
            self.problems.append(f"{shown(path)}: {why}")
        elif table:
            self.skipped[_HIDDEN] += 1
        elif storage.is_local(uri) and not os.path.isfile(uri):
            self.skipped[_SPECIAL] += 1
        elif is_archive(path):
            self.skipped[_OTHER_ARCHIVE] += 1
        else:
            if self.uri not in self.containers:
                self.containers.append(self.uri)
            yield SourceFile(path, uri)

    def _archive(self, uri: str, container: Container, path: str | None) -> Iterator[SourceFile]:
        """Yield an archive's files; ``path`` is its own below the folder that is read."""
        self.containers.append(uri)
        try:
            if container.members is None:
                self._parquet(uri, path)
            else:
                yield from self._members(uri, container.members(uri))
        except ManifestError as error:
            self.problems += [f"{shown(uri)}: {problem}" for problem in error.problems]
        except Damaged as error:
            error = misnamed(read_range(uri, 0, HEAD), container) or error
            self.problems.append(f"{shown(uri)} cannot be read: {shown(str(error), 500)}. {error.fix}")

    def _members(self, uri: str, members: Iterable[Member]) -> Iterator[SourceFile]:
        unreadable: dict[str, list[str]] = {}
        for member in members:
            self.found += 1
            why = refusal(member.name) or member.refusal
            if member.unreadable and not member.refusal and may_be_image(member.name):
                unreadable.setdefault(member.unreadable, []).append(member.name)
            elif why:
                where = f" (in {shown(uri)})" if uri != self.uri else ""
                self.problems.append(f"{shown(member.name)}: {why}{where}")
            elif is_archive(member.name):
                self.skipped[_INNER_ARCHIVE] += 1
            else:
                yield SourceFile(normal(member.name), member.address)
        for how, names in unreadable.items():
            fix = "without a password" if how == "encrypted" else "with deflate or stored"
            self.problems.append(
                f"{shown(uri)}: {counted(len(names), 'possible image file')}, such as {quoted(names[0])}, "
                f"{'is' if len(names) == 1 else 'are'} {how}. Write the zip again {fix}"
            )

    def _parquet(self, uri: str, path: str | None) -> None:
        what = parquet_content(uri)
        if path is not None and what is not Content.IMAGES:
            self.containers.remove(uri)
            self.found += 1
            self.skipped[_MANIFEST if what is Content.MANIFEST else _NO_IMAGES] += 1
            self.manifests += [uri] * (what is Content.MANIFEST)
            return
        for table in image_tables(uri, values(path) if path else {}, self.skipped_columns):
            self.found += table.num_rows
            kept = table.filter(pc.or_(*(pc.is_valid(table[name]) for name in URI_COLUMNS)))
            if without := table.num_rows - kept.num_rows:
                self.skipped[NO_IMAGE] += without
            self.tables.append(kept)
