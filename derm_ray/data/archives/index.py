"""Indexing: an archive's pairs as manifest rows whose URIs refer to its members."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from derm_ray.data.archives.address import Address, is_sequential
from derm_ray.data.archives.names import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    ArchiveError,
    is_side_file,
    quoted,
    shown,
    suffix,
)
from derm_ray.data.archives.pairing import DEFAULT_RULE, EXAMPLE, PairingRule
from derm_ray.data.archives.pairs import Pair, Pairs, unstreamable
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.archives.source import SIDE_FILE, UNNAMED, Source, SourceFile
from derm_ray.data.manifest import BATCH_ROWS, SCHEMA, URI_COLUMNS, normalize_schema
from derm_ray.data.parts import parquet_parts
from derm_ray.errors import ImageError, counted

SEEN_NAMES = 5
NO_SUFFIX = "no image file extension"


@dataclass(frozen=True)
class ArchiveIndex:
    """An archive's pairs.

    Attributes:
        uri: of the archive or folder.
        found: files, and rows of Parquet.
        skipped: reason -> number of files that are not part of a pair.
        containers: URIs of the archives read, and of the folder if it holds images itself.
        skipped_columns: columns of Parquet that a manifest cannot hold, and their types.
        pairs, single: how many pairs there are, and how many of them have one image only.
    """

    uri: str
    found: int
    skipped: Counter[str]
    containers: list[str]
    skipped_columns: dict[str, str]
    pairs: int
    single: int
    _rows: list[Pair]
    _tables: list[pa.Table]

    def tables(self) -> Iterator[pa.Table]:
        """Yield the pairs in the manifest's columns, then text columns; at most 65,536 rows at a time.

        Pairs of one ``.tar.gz`` follow one another in the order of the stream.

        Raises:
            ManifestError: a pattern's field does not convert to its column.
        """
        names = dict.fromkeys(name for columns in {tuple(pair.columns): 0 for pair in self._rows} for name in columns)
        names |= dict.fromkeys(name for table in self._tables for name in table.column_names)
        schema = pa.schema(
            [entry.with_nullable(True) for entry in SCHEMA]
            + [pa.field(name, pa.string()) for name in names if name not in SCHEMA.names]
        )
        pairs = iter(self._rows)
        while batch := list(islice(pairs, BATCH_ROWS)):
            rows = [pair.columns | pair.images for pair in batch]
            columns = {name: [_text(row.get(name)) for row in rows] for name in (*names, *URI_COLUMNS)}
            texts = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
            yield _fit(normalize_schema(texts, self.uri).table, schema)
        for table in self._tables:
            for start in range(0, table.num_rows, BATCH_ROWS):
                yield _fit(table.slice(start, BATCH_ROWS), schema)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    absent = [entry for entry in schema if entry.name not in table.column_names]
    for entry in absent:
        table = table.append_column(entry, pa.nulls(table.num_rows, entry.type))
    return table.select(schema.names).cast(schema)


def index_archive(uri: str, rule: PairingRule = DEFAULT_RULE) -> ArchiveIndex:
    """Find the pairs of an archive without reading its images.

    Args:
        uri: a ``.tar``, ``.zip``, ``.tar.gz``, ``.tgz``, a ``.parquet`` with binary columns ``clinical`` and
            ``dermoscopy``, or a folder that holds images, DICOM files or such archives.
        rule: which files make a pair. DICOM files that no pattern of the caller's names are paired by their headers.

    Raises:
        StorageError: the archive cannot be read.
        ArchiveError: it is broken, hostile, ambiguous, or holds no pair; all problems are listed.
    """
    return _Indexer(uri, rule).run()


class _Indexer:
    def __init__(self, uri: str, rule: PairingRule) -> None:
        self._source = Source(uri)
        self._own_rule = rule != DEFAULT_RULE
        self._pairs = Pairs(rule)
        self._dicom: dict[str, int] = {}
        """URI of a DICOM file -> its number in the source."""
        self._bare: dict[str, dict[str, int]] = defaultdict(dict)
        """Archive, empty for ordinary files -> its files without a suffix, like ``_dicom``."""
        self._archives_of_dicom: set[str] = set()
        self._seen: list[str] = []

    def run(self) -> ArchiveIndex:
        source = self._source
        for order, file in enumerate(source.files()):
            if len(self._seen) < SEEN_NAMES:
                self._seen.append(file.path)
            self._sort(order, file)
        self._refuse_problems()
        self._sort_bare()
        self._pair_dicom()
        for table in source.tables:
            for ids in zip(*(table[name].to_pylist() for name in ("pair_id", "lesion_id")), strict=True):
                self._pairs.check(*ids)
        rows = self._pairs.ordered()
        source.problems += unstreamable(image for pair in rows for image in pair.images.values())
        self._refuse_problems()
        pairs = len(rows) + sum(table.num_rows for table in source.tables)
        if not pairs:
            raise ArchiveError(source.uri, [self._nothing()])
        single = sum(len(pair.images) == 1 for pair in rows)
        single += sum(table[name].null_count for table in source.tables for name in URI_COLUMNS)
        about = (source.uri, source.found, source.skipped, source.containers, source.skipped_columns)
        return ArchiveIndex(*about, pairs, single, rows, source.tables)

    def _refuse_problems(self) -> None:
        if problems := [*self._source.problems, *self._pairs.problems]:
            raise ArchiveError(self._source.uri, problems)

    def _sort(self, order: int, file: SourceFile) -> None:
        ending, skipped = suffix(file.path), self._source.skipped
        image, dicom = ending in IMAGE_SUFFIXES, ending in DICOM_SUFFIXES
        if is_side_file(file.path):
            skipped[SIDE_FILE] += 1
        elif (image or (self._own_rule and (dicom or not ending))) and self._pairs.add(order, file):
            pass
        elif dicom:
            self._dicom[str(file.location)] = order
        elif image:
            skipped["matches no pattern"] += 1
        elif not ending:
            self._bare[_archive(file)][str(file.location)] = order
        else:
            skipped[NO_SUFFIX] += 1
        if dicom or file.path.endswith("DICOMDIR"):
            self._archives_of_dicom.add(_archive(file))

    def _sort_bare(self) -> None:
        """Treat files without a suffix as DICOM if others of the archive, or the first of them, are DICOM."""
        for archive, files in self._bare.items():
            if archive in self._archives_of_dicom or _is_dicom(next(iter(files))):
                self._dicom |= files
            else:
                self._source.skipped[NO_SUFFIX] += len(files)

    def _pair_dicom(self) -> None:
        if not self._dicom:
            return
        from derm_ray.data.archives.dicom_pairs import index_dicom

        uris = sorted(self._dicom, key=self._dicom.__getitem__)
        with ImageReader(uris) as reader:
            rows, skipped = index_dicom(uris, reader.read)
        self._source.skipped.update(skipped)
        for row in rows:
            self._pairs.put_row(min(self._dicom[str(row[name])] for name in URI_COLUMNS if row.get(name)), row)

    def _nothing(self) -> str:
        names = ", ".join(quoted(name) for name in self._seen)
        skipped = ", ".join(f"{reason} ({counted(n, 'file')})" for reason, n in self._source.skipped.most_common())
        found = f"no pair found. First names: {names or 'none'}. Skipped: {skipped or 'nothing'}."
        if self._source.manifests:
            if parquet_parts(self._source.uri):
                return "it is a manifest in parts and needs no index. Use the folder as it is with `derm-ray score`"
            return f"{found} {shown(self._source.manifests[0])} is a manifest and needs no index. Use that file"
        if not self._source.found:
            return "no pair found: it is empty. Check that it was copied completely"
        if self._source.skipped.keys() <= {NO_SUFFIX, *UNNAMED}:
            return f"{found} None of these files is an image. Correct the path"
        return (
            f"{found} Describe the file names: "
            f"--clinical {EXAMPLE!r} --dermoscopy {EXAMPLE.replace('clinical', 'dermoscopy')!r}"
        )


def _archive(file: SourceFile) -> str:
    return file.location.container if isinstance(file.location, Address) else ""


def _is_dicom(uri: str) -> bool:
    """Return whether a file has the DICOM prefix; members of a ``.tar.gz`` are not read for this."""
    if is_sequential(uri):
        return False
    try:
        return ImageReader().read(uri)[128:132] == b"DICM"
    except ImageError:
        return False
