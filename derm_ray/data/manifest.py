"""The manifest: one row per lesion pair, as Parquet, CSV or JSON Lines at any fsspec URI."""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.errors import ConfigError, ManifestError
from derm_ray.vocabulary import LabelSet, LesionPair, Modality, Split

SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("lesion_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("clinical_uri", pa.string()),
        pa.field("dermoscopy_uri", pa.string()),
        pa.field("diagnosis", pa.string()),
        pa.field("split", pa.string()),
        pa.field("age_years", pa.float64()),
        pa.field("sex", pa.string()),
        pa.field("site", pa.string()),
        pa.field("skin_tone", pa.int64()),
        pa.field("skin_tone_scale", pa.string()),
    ]
)
"""The known columns. ``skin_tone`` counts on ``skin_tone_scale``: milk (0 very dark .. 5 very light),
fitzpatrick (1 light .. 6 dark) or monk (1 light .. 10 dark). Further columns are kept as they are."""

URI_COLUMNS = ("clinical_uri", "dermoscopy_uri")
_SUFFIXES = (".parquet", ".csv", ".jsonl")
BATCH_ROWS = 65_536
_UNPARSABLE = (ValueError, OverflowError, RecursionError, pa.ArrowException, pd.errors.ParserWarning)


@dataclass(frozen=True)
class Manifest:
    """A table of lesion pairs.

    Attributes:
        table: columns of :data:`SCHEMA` first, then any others.
        uri: where it was read from; relative image URIs resolve against its folder.
    """

    table: pa.Table
    uri: str

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
        return Manifest(self.table.set_column(index, SCHEMA.field(name), column), self.uri)

    def pairs(self) -> list[LesionPair]:
        """Return all rows with absolute image URIs."""
        return list(self._iterate())

    def _iterate(self) -> Iterator[LesionPair]:
        base = storage.parent(self.uri)
        names = ("pair_id", "lesion_id", *URI_COLUMNS, "diagnosis")
        for pair_id, lesion_id, clinical, dermoscopy, diagnosis in zip(
            *(self.column(name) for name in names), strict=True
        ):
            yield LesionPair(
                pair_id=pair_id or "",
                lesion_id=lesion_id or "",
                clinical_uri=storage.resolve(clinical, base) if clinical else None,
                dermoscopy_uri=storage.resolve(dermoscopy, base) if dermoscopy else None,
                diagnosis=diagnosis,
            )

    def absolute(self) -> "Manifest":
        """Return a copy whose image URIs no longer depend on where the manifest lies."""
        moved, pairs = self, self.pairs()
        for modality in Modality:
            moved = moved.with_column(f"{modality}_uri", [pair.uri(modality) for pair in pairs])
        return moved


def collapsed(label_set: LabelSet, diagnosis: str | None) -> str | None:
    """Return a diagnosis in the words of a label set that collapses a finer one, ``None`` where it is left out."""
    return label_set.collapses.get(diagnosis, diagnosis) if diagnosis is not None else None


def collapse(manifest: Manifest, label_set: LabelSet) -> Manifest:
    """Return the manifest in the words of a label set, without the pairs that it leaves out; see :func:`collapsed`.

    Words that the label set does not know are kept, for :func:`derm_ray.data.validation.validate` to name.
    """
    if not label_set.collapses:
        return manifest
    before = manifest.column("diagnosis")
    after = [collapsed(label_set, name) for name in before]
    changed = manifest.with_column("diagnosis", after)
    return changed.where([old is None or new is not None for old, new in zip(before, after, strict=True)])


def require_split(manifest: Manifest, split: Split) -> Manifest:
    """Return the pairs of one split.

    Raises:
        ConfigError: there are none.
    """
    chosen = manifest.select(split)
    if not len(chosen):
        raise ConfigError(
            f"{manifest.uri}: no pair in split {split!s}. Run `derm-ray data split`; where it leaves a part empty "
            "(diagnoses with fewer than three lesions go to train), add lesions or fill the column yourself."
        )
    return chosen


def _suffix(uri: str) -> str:
    for suffix in _SUFFIXES:
        if uri.lower().endswith(suffix):
            return suffix
    raise ConfigError(f"{uri}: a manifest's name must end in one of {', '.join(_SUFFIXES)}.")


def conform(table: pa.Table, uri: str) -> Manifest:
    """Bring any table with at least ``lesion_id`` or ``pair_id`` to :data:`SCHEMA`.

    ``pair_id`` defaults to ``lesion_id`` and the other way round; absent columns become null; further
    columns stay behind the known ones.

    Raises:
        ManifestError: neither id column is there, or a column does not convert; all columns are named.
    """
    if not {"pair_id", "lesion_id"} & set(table.column_names):
        raise ManifestError(uri, ["no column 'lesion_id' or 'pair_id'; add one of them"])
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise ManifestError(uri, [f"column {name!r} stands more than once; keep one" for name in twice])
    problems: list[str] = []
    arrays: list[pa.Array] = []
    for field in SCHEMA:
        name = field.name
        if name not in table.column_names:
            name = {"pair_id": "lesion_id", "lesion_id": "pair_id"}.get(name, name)
        if name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        try:
            if pa.types.is_integer(field.type) and not pa.types.is_integer(column.type):
                column = column.cast(pa.float64())  # text and floats such as 3.0
            arrays.append(_blank_to_null(column.cast(field.type)))
        except pa.ArrowException as error:
            problems.append(f"column {name!r} is not {field.type}: {error}")
    if problems:
        raise ManifestError(uri, problems)
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    conformed = pa.table(arrays, schema=nullable)
    for name in table.column_names:
        if name not in SCHEMA.names:
            conformed = conformed.append_column(name, table[name])
    return Manifest(conformed, uri)


def _blank_to_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return pc.if_else(blank, pa.scalar(None, column.type), column)


def scan_manifest(uri: str, rows: int = BATCH_ROWS) -> Iterator[Manifest]:
    """Read a manifest piece by piece, so that memory does not grow with its length.

    Args:
        uri: of a Parquet, CSV or JSON Lines file.
        rows: most rows in one piece.

    Raises:
        ConfigError: the name ends in no known suffix.
        StorageError: the file cannot be read.
        ManifestError: its content cannot be parsed or a column has the wrong type.
    """
    suffix = _suffix(uri)
    parse = {".parquet": _parquet_tables, ".csv": csv_tables, ".jsonl": _jsonl_tables}[suffix]
    with storage.open_read(uri) as file:
        tables = parse(file, rows)
        while True:
            try:
                with storage.explained(uri):
                    table = next(tables, None)
            except _UNPARSABLE as error:
                raise ManifestError(uri, [f"cannot be parsed as {suffix[1:]}: {error}"]) from error
            if table is None:
                return
            yield conform(table, storage.absolute(uri))


def read_manifest(uri: str) -> Manifest:
    """Read a whole manifest; its rules are checked by :func:`derm_ray.data.validation.validate`.

    Raises:
        ConfigError, StorageError, ManifestError: see :func:`scan_manifest`.
    """
    tables = [piece.table for piece in scan_manifest(uri)]
    return Manifest(pa.concat_tables(tables, promote_options="permissive"), storage.absolute(uri))


def _parquet_tables(file: BinaryIO, rows: int) -> Iterator[pa.Table]:
    """Yield at least one table, also of a file without rows."""
    parquet = pq.ParquetFile(file)
    if parquet.metadata.num_rows == 0:
        yield parquet.schema_arrow.empty_table()
    for batch in parquet.iter_batches(rows, use_threads=False):
        yield pa.Table.from_batches([batch])


def csv_tables(file: BinaryIO, rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
    """Yield a CSV as tables of text columns, empty cells null; :func:`conform` gives the known ones their types.

    Raises:
        ValueError: it is no CSV.
        pandas.errors.ParserWarning: a row has more cells than the header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frames = pd.read_csv(file, dtype=str, index_col=False, keep_default_na=False, na_values=[""], chunksize=rows)
        for frame in frames:
            yield pa.Table.from_pandas(frame, preserve_index=False)


def _jsonl_tables(file: BinaryIO, rows: int) -> Iterator[pa.Table]:
    """Yield JSON Lines as tables; a key that a row lacks is null there."""
    lines = (line for line in file if line.strip())
    while chunk := [json.loads(line) for line in islice(lines, rows)]:
        if not all(isinstance(row, dict) for row in chunk):
            raise ValueError("every line must be a JSON object")
        names = dict.fromkeys(name for row in chunk for name in row)
        yield pa.table({name: [row.get(name) for row in chunk] for name in names})


def write_manifest(manifest: Manifest, uri: str) -> None:
    """Write a manifest atomically, in the format its name ends in."""
    suffix = _suffix(uri)
    sink = BytesIO()
    if suffix == ".parquet":
        pq.write_table(manifest.table, sink)
    elif suffix == ".csv":
        manifest.table.to_pandas(types_mapper=_integers).to_csv(sink, index=False)
    else:
        for row in manifest.table.to_pylist():
            sink.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")
    storage.write_bytes(uri, sink.getvalue())


def _integers(kind: pa.DataType) -> pd.Int64Dtype | None:
    """Keep integer columns with nulls integers on their way through pandas."""
    return pd.Int64Dtype() if pa.types.is_integer(kind) else None
