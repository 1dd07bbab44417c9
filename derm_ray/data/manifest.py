"""The manifest: one row per lesion pair, as Parquet, CSV or JSON Lines at any fsspec URI."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.data.csv_reader import CsvTables
from derm_ray.data.jsonl_reader import jsonl_tables
from derm_ray.data.normalization import column_key, convert, has_unseen, not_numbers
from derm_ray.domain import LesionPair, PatientValues, Split, image_cell, image_uris
from derm_ray.errors import ConfigError, ManifestError, OutputExistsError

SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("lesion_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("clinical_uri", pa.string()),
        pa.field("dermoscopy_uri", pa.string()),
        pa.field("diagnosis", pa.string()),
        pa.field("split", pa.string()),
        pa.field("age", pa.float64()),
        pa.field("sex", pa.string()),
        pa.field("site", pa.string()),
        pa.field("skin_tone", pa.int64()),
        pa.field("skin_tone_scale", pa.string()),
    ]
)
"""The known columns. ``skin_tone`` counts on ``skin_tone_scale``: milk (0 very dark .. 5 very light),
fitzpatrick (1 light .. 6 dark) or monk (1 light .. 10 dark). ``sex`` and ``site`` are in lower case. Further columns
are kept as they are."""

ID_COLUMNS = ("pair_id", "lesion_id", "patient_id")
URI_COLUMNS = ("clinical_uri", "dermoscopy_uri")
LOWER_CASE_COLUMNS = ("sex", "site")
DUPLICATE_GROUP = "duplicate_group"
"""Further column, of rows that show the same image, such as under two ids: they stay in one split."""
SOURCE = "source"
"""Further column: the data set that a row is from."""
BATCH_ROWS = 65_536
_LISTED = 400
_UNPARSABLE = (ValueError, OverflowError, RecursionError, pa.ArrowException)


@dataclass(frozen=True)
class Manifest:
    """A table of lesion pairs.

    Attributes:
        table: columns of :data:`SCHEMA` first, then any others.
        uri: where it was read from; relative image URIs resolve against its folder.
        missing_words: column -> word -> number of values that were read as missing; empty cells do not count.
    """

    table: pa.Table
    uri: str
    missing_words: Mapping[str, Counter[str]] = dataclass_field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every row's identity, images, diagnosis and split, in order."""
        known = ("pair_id", "lesion_id", "patient_id", *URI_COLUMNS, "diagnosis", "split")
        return storage.digest({name: self.table[name].to_pylist() for name in known})

    def select(self, split: Split) -> "Manifest":
        """Return the pairs of one split."""
        return self.where([value == split for value in self.table["split"].to_pylist()])

    def where(self, mask: Sequence[bool]) -> "Manifest":
        """Return the pairs whose mask entry is true."""
        return Manifest(self.table.filter(pa.array(mask, type=pa.bool_())), self.uri)

    def column(self, name: str) -> list[str | None]:
        """Return one column as a list."""
        return self.table[name].to_pylist()  # type: ignore[no-any-return]

    def with_column(self, name: str, values: Sequence[object]) -> "Manifest":
        """Return a copy with one known column replaced."""
        index = self.table.schema.get_field_index(name)
        column = pa.array(values, type=SCHEMA.field(name).type)
        return replace(self, table=self.table.set_column(index, SCHEMA.field(name), column))

    def pairs(self, patient: Sequence[PatientValues] = ()) -> list[LesionPair]:
        """Return all rows with absolute image URIs, and with their patient data where it is given."""
        ids = ([value or "" for value in self.column(name)] for name in ("pair_id", "lesion_id"))
        columns = (*ids, *map(self._resolved, URI_COLUMNS), self.column("diagnosis"), *([patient] if patient else []))
        return [LesionPair(*row) for row in zip(*columns, strict=True)]

    def absolute(self) -> "Manifest":
        """Return a copy with absolute image URIs."""
        moved = self
        for name in URI_COLUMNS:
            moved = moved.with_column(name, self._resolved(name))
        return moved

    def _resolved(self, name: str) -> list[str | None]:
        base = storage.parent(self.uri)
        return [image_cell([storage.resolve(uri, base) for uri in image_uris(cell)]) for cell in self.column(name)]


def require_split(manifest: Manifest, split: Split) -> Manifest:
    """Return the pairs of one split.

    Raises:
        ConfigError: there are none.
    """
    chosen = manifest.select(split)
    if not len(chosen):
        raise ConfigError(
            f"{manifest.uri}: no pair in split {split!s}. Run `derm-ray data split`; if a split stays empty "
            "(diagnoses with fewer than three patients or lesions go to train), add lesions or fill the column "
            "yourself."
        )
    return chosen


def manifest_format(uri: str) -> str:
    """Return ``parquet``, ``csv`` or ``jsonl``, by the name.

    Raises:
        ConfigError: it ends in none of them.
    """
    suffix = uri.lower().rpartition(".")[2]
    if suffix not in _WRITERS:
        raise ConfigError(f"{uri}: a manifest's name must end in one of .parquet, .csv, .jsonl. Rename it.")
    return suffix


def normalize_schema(table: pa.Table, uri: str, *, first_row: int = 0) -> Manifest:
    """Bring any table with at least ``lesion_id`` or ``pair_id`` to :data:`SCHEMA`.

    Names of columns are compared without case, blanks and separators (``Lesion ID`` is ``lesion_id``). ``pair_id``
    defaults to ``lesion_id`` and the other way round; absent columns become null; additional columns follow the
    known ones. Text is normalized (:func:`derm_ray.data.normalization.convert`): ids and categories lose
    blanks at their ends, and words for "missing" become null, counted in ``missing_words``.

    Args:
        table: whole, or a piece.
        uri: of the manifest.
        first_row: the piece's first row in the whole, counted from 0, for messages.

    Raises:
        ManifestError: both id columns are missing, a column is repeated, or values do not convert; all are listed.
    """
    names = _known_columns(table.column_names, uri)
    problems: list[str] = []
    columns: dict[str, pa.ChunkedArray] = {}
    missing_words: dict[str, Counter[str]] = {}
    for field in SCHEMA:
        name = names.get(field.name, names.get({"pair_id": "lesion_id", "lesion_id": "pair_id"}.get(field.name, "")))
        if name is None:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            continue
        column = table[name]
        try:
            column = _cells(column) if field.name in URI_COLUMNS else column
            converted, words = convert(
                column, field.type, is_id=field.name in ID_COLUMNS, is_uri=field.name in URI_COLUMNS
            )
        except (ValueError, pa.ArrowException) as error:
            problems += [f"row {first_row + row}: {name} {why}" for row, why in not_numbers(column, field.type)] or [
                f"column {name!r} of type {column.type}: {error}"
            ]
            continue
        columns[field.name] = pc.utf8_lower(converted) if field.name in LOWER_CASE_COLUMNS else converted
        if words and field.name in names:
            missing_words[field.name] = words
    if problems:
        raise ManifestError(uri, problems)
    columns |= {name: table[name] for name in table.column_names if name not in names.values()}
    return Manifest(pa.table(columns), uri, missing_words)


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of images, which may be lists, as cells; see :func:`derm_ray.domain.image_uris`.

    Raises:
        ValueError: a list has something other than paths.
    """
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list and not (is_text and pc.any(pc.starts_with(column, "[")).as_py()):
        return column
    cells = []
    for value in column.to_pylist():
        uris = value or () if is_list else image_uris(value)
        if (is_list or len(uris) > 1) and not all(isinstance(uri, str) and uri.strip() for uri in uris):
            raise ValueError(f"the list {str(value)[:80]} has something other than paths")
        cells.append(image_cell(uris))
    return pa.chunked_array([pa.array(cells, pa.string())])


def _known_columns(names: Sequence[str], uri: str) -> dict[str, str]:
    """Return known name -> name in the table."""
    problems = [f"column {name!r} occurs more than once; keep one" for name, n in Counter(names).items() if n > 1]
    problems += [f"column {name!r}: its name contains invisible characters" for name in names if has_unseen(name)]
    keys = {column_key(known): known for known in SCHEMA.names}
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        if known := keys.get(column_key(name)):
            found.setdefault(known, []).append(name)
    problems += [
        f"columns {' and '.join(map(repr, same))} both map to {known!r}; keep one"
        for known, same in found.items()
        if len(same) > 1
    ]
    if not {"pair_id", "lesion_id"} & set(found):
        problems.append(f"no column 'lesion_id' or 'pair_id'; add one of them. Columns found: {listed(names)}")
    if problems:
        raise ManifestError(uri, problems)
    return {known: same[0] for known, same in found.items()}


def _require_images(names: Sequence[str], uri: str, form: str) -> None:
    if not set(map(column_key, names)) & set(map(column_key, URI_COLUMNS)):
        how = f"Import it first: `derm-ray data import folder {uri} --out m.parquet`" if form == "csv" else "Add one"
        found = f"Columns found: {listed(names)}"
        raise ManifestError(uri, [f"no column 'clinical_uri' or 'dermoscopy_uri'. {found}. {how}"])


def listed(names: Sequence[str]) -> str:
    """Return names of columns for a message."""
    text = ", ".join(map(repr, names)) or "none"
    return text if len(text) <= _LISTED else text[:_LISTED] + " ..."


def scan_manifest(uri: str, rows: int = BATCH_ROWS) -> Iterator[Manifest]:
    """Read a manifest piece by piece, so that memory does not grow with its length.

    Args:
        uri: of a Parquet, CSV or JSON Lines file.
        rows: most rows in one piece.

    Raises:
        ConfigError: the name ends in no known suffix.
        StorageError: the file cannot be read.
        ManifestError: its content cannot be parsed, it has no column of images, or a column has the wrong type.
    """
    form = manifest_format(uri)
    first_row = 0
    with storage.open_read(uri) as file:
        tables = iter(
            CsvTables(file, uri, rows)
            if form == "csv"
            else jsonl_tables(file, uri, rows)
            if form == "jsonl"
            else _parquet_tables(file, rows)
        )
        while True:
            try:
                with storage.translate_errors(uri):
                    table = next(tables, None)
            except _UNPARSABLE as error:
                raise ManifestError(uri, [f"cannot be parsed as {form}: {error}"]) from error
            if table is None:
                return
            piece = normalize_schema(table, storage.absolute(uri), first_row=first_row)
            _require_images(table.column_names, uri, form)
            yield piece
            first_row += table.num_rows


def read_manifest(uri: str) -> Manifest:
    """Read a whole manifest; its rules are checked by :func:`derm_ray.data.validation.validate`.

    Raises:
        ConfigError, StorageError, ManifestError: see :func:`scan_manifest`.
    """
    tables: list[pa.Table] = []
    missing_words: dict[str, Counter[str]] = {}
    for piece in scan_manifest(uri):
        tables.append(piece.table)
        for name, words in piece.missing_words.items():
            missing_words[name] = missing_words.get(name, Counter()) + words
    return Manifest(pa.concat_tables(tables, promote_options="permissive"), storage.absolute(uri), missing_words)


def _parquet_tables(file: BinaryIO, rows: int) -> Iterator[pa.Table]:
    """Yield at least one table, also of a file without rows."""
    parquet = pq.ParquetFile(file)
    if parquet.metadata.num_rows == 0:
        yield parquet.schema_arrow.empty_table()
    for batch in parquet.iter_batches(rows, use_threads=False):
        yield pa.Table.from_batches([batch])


def write_manifest(manifest: Manifest, uri: str) -> None:
    """Write a manifest; see :func:`write_tables`."""
    write_tables([manifest.table], uri)


def check_new(uri: str) -> None:
    """Check that a manifest may be written to a URI where nothing is yet.

    Raises:
        ConfigError: the name ends in no known suffix.
        OutputExistsError: something is there.
    """
    manifest_format(uri)
    if storage.exists(uri):
        raise OutputExistsError(f"{uri} exists and would be overwritten. Choose another --out, or delete it first.")


def write_tables(tables: Iterable[pa.Table], uri: str) -> None:
    """Write tables of one schema as a manifest, atomically and piece by piece, in the format its name ends in.

    Raises:
        ConfigError: the name ends in no known suffix.
        StorageError: it cannot be written.
    """
    form = manifest_format(uri)
    with tempfile.TemporaryDirectory(prefix="derm_ray_") as folder:
        path = Path(folder) / "manifest"
        with storage.translate_errors(str(path)), path.open("xb") as file:
            _WRITERS[form](tables, file)
        storage.upload(str(path), uri)


def _write_parquet(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema))
            writer.write_table(table)


def _write_csv(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for number, table in enumerate(tables):
        # Through pandas integers with nulls stay integers only in a type of their own.
        frame = table.to_pandas(types_mapper=lambda kind: pd.Int64Dtype() if pa.types.is_integer(kind) else None)
        frame.to_csv(file, header=number == 0, index=False)


def _write_jsonl(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for table in tables:
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")


_WRITERS = {"parquet": _write_parquet, "csv": _write_csv, "jsonl": _write_jsonl}
