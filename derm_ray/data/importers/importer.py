"""The interface of importers: each reads one data set in its original layout and returns a manifest."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.csv_reader import CsvTables
from derm_ray.data.manifest import BATCH_ROWS, Manifest, listed, normalize_schema
from derm_ray.data.normalization import convert, has_unseen
from derm_ray.domain import LabelSet
from derm_ray.errors import ConfigError, ManifestError


@dataclass(frozen=True)
class ImportResult:
    """An imported manifest, and what was skipped.

    Attributes:
        manifest: the pairs that were imported.
        found: lesions in the source.
        skipped: reason -> number of skipped lesions.
        notes: remarks about the import, one sentence each.
        warnings: remarks about what is probably not intended, such as a column with another name.
        rows_of: the file to name in messages about rows.
    """

    manifest: Manifest
    found: int
    skipped: Mapping[str, int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rows_of: str | None = None


@dataclass(frozen=True)
class Option:
    """An option of an importer. Its value is a string, or a list of strings if it is repeatable."""

    help: str
    metavar: str | None = None
    repeatable: bool = False


@dataclass(frozen=True)
class Importer:
    """A reader of one data set's layout; see :data:`derm_ray.data.importers.IMPORTERS`.

    Attributes:
        read: (source URI, label set, URI of the manifest, options as keywords) -> result.
        help: the command's help, one line.
        source: help of the source argument.
        label_sets: names of the supported label sets, the default first; empty for any.
        options: name of a keyword of ``read`` -> option.
    """

    read: Callable[..., ImportResult]
    help: str
    source: str
    label_sets: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)

    def run(self, source: str, label_set: LabelSet, out_uri: str, **options: Any) -> ImportResult:
        """Read the data set; see :attr:`read`.

        Raises:
            ConfigError: the label set is not one of :attr:`label_sets`.
        """
        if self.label_sets and label_set.name not in self.label_sets:
            known = " or ".join(self.label_sets)
            raise ConfigError(f"the data set has no mapping to label set {label_set.name!r}. Use {known}.")
        return self.read(source, label_set, out_uri, **options)


def with_diagnosis(frame: pd.DataFrame, out_uri: str) -> ImportResult:
    """Return the rows that have a ``diagnosis`` as a manifest; the others are counted by ``diagnosis_full``.

    Args:
        frame: manifest columns, one row per lesion, and ``diagnosis_full``, the data set's own diagnosis.
        out_uri: URI of the future manifest.
    """
    known = frame["diagnosis"].notna()
    skipped = Counter(frame.loc[~known, "diagnosis_full"].fillna("(no diagnosis)"))
    table = pa.Table.from_pandas(frame[known], preserve_index=False)
    return ImportResult(normalize_schema(table, storage.absolute(out_uri)), len(frame), dict(skipped.most_common()))


def read_columns(uri: str, columns: tuple[str, ...], ids: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a CSV that must have some columns, as text; empty cells are ``None``.

    Args:
        uri: of the CSV.
        columns: that must be there.
        ids: those among them that hold ids; they are normalized.

    Raises:
        StorageError: it cannot be read.
        ManifestError: it is not a CSV, columns are missing, or ids are empty or hide characters; all are named.
    """
    with storage.open_read(uri) as file, storage.translate_errors(uri):
        table = pa.concat_tables(CsvTables(file, uri, BATCH_ROWS))
    if absent := [column for column in columns if column not in table.column_names]:
        found = f"Columns found: {listed(table.column_names)}"
        raise ManifestError(uri, [f"column {column!r} is missing. {found}" for column in absent])
    frame: pd.DataFrame = table.to_pandas()
    problems: list[str] = []
    for column in ids:
        converted, _ = convert(table[column], pa.string(), is_id=True)
        frame[column] = converted.to_pandas()
        for row, value in enumerate(converted.to_pylist(), 1):
            if value is None or has_unseen(value):
                problems.append(
                    f"row {row}: {column} "
                    + ("is empty" if value is None else f"{value!a} contains invisible characters")
                )
    if problems:
        raise ManifestError(uri, problems)
    return frame
