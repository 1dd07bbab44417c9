"""Indexing: an archive's pairs as manifest rows whose URIs refer to its members."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from derm_ray import storage
from derm_ray.data.archives.address import is_sequential
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
from derm_ray.data.archives.pairs import REPEATED, Pair, Pairs, id_refusal, unstreamable
from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.archives.source import NO_IMAGE, SIDE_FILE, UNNAMED, Source, SourceFile
from derm_ray.data.archives.writer import write_tables
from derm_ray.data.manifest import BATCH_ROWS, SCHEMA, URI_COLUMNS, normalize_schema
from derm_ray.data.parts import parquet_parts
from derm_ray.errors import ConfigError, ImageError, ImageErrorCode, StorageError

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
        names = dict.fromkeys(name for columns in {pair.columns: None for pair in self._rows} for name in columns)
        names |= dict.fromkeys(name for table in self._tables for name in table.column_names)
        schema = pa.schema(
            [entry.with_nullable(True) for entry in SCHEMA]
            + [pa.field(name, pa.string()) for name in names if name not in SCHEMA.names]
        )
        rows = (pair.row() for pair in self._rows)
        while batch := list(islice(rows, BATCH_ROWS)):
            columns = {name: _texts(row.get(name) for row in batch) for name in (*names, *URI_COLUMNS)}
            yield _fit(normalize_schema(pa.table(columns), self.uri).table, schema)
        for table in self._tables:
            for start in range(0, table.num_rows, BATCH_ROWS):
                yield _fit(table.slice(start, BATCH_ROWS), schema)


def _texts(values: Iterable[object]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table(
        {
            entry.name: table[entry.name].cast(entry.type)
            if entry.name in table.column_names
            else pa.nulls(table.num_rows, entry.type)
            for entry in schema
        },
        schema=schema,
    )


def write_index(index: ArchiveIndex, out_uri: str) -> None:
    """Write an index as a manifest, piece by piece and atomically.

    Raises:
        ConfigError: the name does not end in a known suffix, or is that of the archive itself.
        StorageError: it cannot be written.
    """
    if storage.absolute(out_uri) in (index.uri, *index.containers):
        raise ConfigError(f"{out_uri} is the indexed archive and would be overwritten. Choose another --out.")
    write_tables(index.tables(), out_uri)


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
        self._dicom: list[tuple[int, SourceFile]] = []
        self._bare: dict[str, list[tuple[int, SourceFile]]] = defaultdict(list)
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
        tables = [self._with_images(table) for table in source.tables]
        self._check_ids(tables)
        rows = self._pairs.ordered()
        source.problems += unstreamable(location for pair in rows for location in pair.locations)
        self._refuse_problems()
        pairs = len(rows) + sum(table.num_rows for table in tables)
        if not pairs:
            raise ArchiveError(source.uri, [self._nothing()])
        single = sum(len(pair.locations) == 1 for pair in rows)
        single += sum(table[name].null_count for table in tables for name in URI_COLUMNS)
        about = (source.uri, source.found, source.skipped, source.containers, source.skipped_columns)
        return ArchiveIndex(*about, pairs, single, rows, tables)

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
            self._dicom.append((order, file))
        elif image:
            skipped["matches no pattern"] += 1
        elif not ending:
            self._bare[_root(file)].append((order, file))
        else:
            skipped[NO_SUFFIX] += 1

    def _sort_bare(self) -> None:
        """Treat files without a suffix as DICOM if other files, or the first of them, are DICOM."""
        roots = {_root(file) for _, file in self._dicom}
        for root, files in self._bare.items():
            if root in roots or any(file.path.endswith("DICOMDIR") for _, file in files) or _is_dicom(files[0][1]):
                self._dicom += files
            else:
                self._source.skipped[NO_SUFFIX] += len(files)

    def _pair_dicom(self) -> None:
        if not self._dicom:
            return
        from derm_ray.data.archives.dicom_pairs import index_dicom

        orders = {str(file.location): order for order, file in sorted(self._dicom, key=lambda entry: entry[0])}
        # index_dicom reads in the order of the URIs.
        locations = sorted((file.location for _, file in self._dicom), key=str)
        self._source.problems += unstreamable(locations)
        self._refuse_problems()
        with ImageReader(orders) as reader:
            rows, skipped = index_dicom(list(orders), partial(_read, reader))
        self._source.skipped.update(skipped)
        for row in rows:
            self._pairs.put_row(min(orders[str(row[name])] for name in URI_COLUMNS if row.get(name)), row)

    def _with_images(self, table: pa.Table) -> pa.Table:
        there = pc.or_(*(pc.is_valid(table[name]) for name in URI_COLUMNS))
        if without := table.num_rows - (pc.sum(there).as_py() or 0):
            self._source.skipped[NO_IMAGE] += without
        return table.filter(there)

    def _check_ids(self, tables: list[pa.Table]) -> None:
        seen: set[str] = set()
        for table in tables:
            for pair_id, lesion_id in zip(*(table[name].to_pylist() for name in ("pair_id", "lesion_id")), strict=True):
                why = id_refusal(pair_id or "") or id_refusal(lesion_id or "") or self._pairs.repeated(pair_id)
                if not why and pair_id in seen:
                    why = REPEATED
                if why:
                    self._source.problems.append(f"pair_id {quoted(pair_id or '')} or its lesion_id {why}")
                seen.add(pair_id)

    def _nothing(self) -> str:
        names = ", ".join(quoted(name) for name in self._seen)
        skipped = ", ".join(f"{count} {reason}" for reason, count in self._source.skipped.most_common())
        found = f"no pair found. First names: {names or 'none'}. Skipped: {skipped or 'nothing'}."
        if self._source.manifests:
            if parquet_parts(self._source.uri):
                return "it is a manifest in parts and needs no index. Use the folder as it is with `derm-ray score`"
            return f"{found} {shown(self._source.manifests[0])} is a manifest and needs no index. Use that file"
        if not self._source.found:
            return "no pair found: it is empty. Check that it was copied completely"
        if self._source.skipped.keys() <= {NO_SUFFIX, *UNNAMED}:
            return f"{found} None of these files is an image. Check the path"
        return (
            f"{found} Describe the file names: "
            f"--clinical {EXAMPLE!r} --dermoscopy {EXAMPLE.replace('clinical', 'dermoscopy')!r}"
        )


def _read(reader: ImageReader, uri: str) -> bytes:
    """Read an image; if storage does not respond, indexing fails instead of skipping the image."""
    try:
        return reader.read(uri)
    except ImageError as error:
        if error.code in (ImageErrorCode.STORAGE, ImageErrorCode.TIMEOUT):
            raise StorageError(error.message) from error
        raise


def _root(file: SourceFile) -> str:
    return "" if isinstance(file.location, str) else file.location.container


def _is_dicom(file: SourceFile) -> bool:
    """Return whether a file has the DICOM prefix; members of a ``.tar.gz`` are not read for this."""
    if is_sequential(str(file.location)):
        return False
    try:
        with ImageReader() as reader:
            return reader.read(str(file.location))[128:132] == b"DICM"
    except ImageError:
        return False
