"""The interface of importers: each reads one data set in its original layout and returns a manifest."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.csv_reader import CsvTables
from derm_ray.data.manifest import BATCH_ROWS, URI_COLUMNS, Manifest, listed, normalize_schema
from derm_ray.data.normalization import convert, has_unseen
from derm_ray.diagnoses import agree, covered, decided_class, find, possible_classes
from derm_ray.domain import LabelSet, image_cell
from derm_ray.errors import ConfigError, ManifestError, counted, unknown_name

NO_DIAGNOSIS = "(no diagnosis)"


@dataclass(frozen=True)
class ImportResult:
    """An imported manifest, and what was skipped.

    Attributes:
        manifest: the pairs that were imported.
        found: pairs in the source; an image without its other one counts too.
        outside: diagnosis outside the label set -> number of skipped pairs.
        unknown: diagnosis that is not understood, or ``(no diagnosis)`` -> number of skipped pairs.
        notes: remarks about the import, one sentence each.
        warnings: remarks about what is probably not intended, such as a column with another name.
        rows_of: the file to name in messages about rows.
    """

    manifest: Manifest
    found: int
    outside: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
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
        label_set: name of the default label set; any can be chosen.
        options: name of a keyword of ``read`` -> option.
    """

    read: Callable[..., ImportResult]
    help: str
    source: str
    label_set: str
    options: Mapping[str, Option] = field(default_factory=dict)


def with_diagnosis(
    table: pa.Table,
    label_set: LabelSet,
    out_uri: str,
    *,
    words: Sequence[str | None] | None = None,
    required: bool = True,
) -> ImportResult:
    """Return the rows whose diagnosis the label set has, or that is coarse for it, as a manifest.

    Args:
        table: manifest columns, one row per pair; ``diagnosis`` in any spelling that
            :func:`derm_ray.diagnoses.find` knows.
        label_set: its classes are written; coarse diagnoses are written as they are named there.
        out_uri: URI of the future manifest.
        words: the data set's own diagnoses, which skipped pairs are counted by; the default is ``diagnosis``.
        required: skip pairs without a diagnosis.
    """
    manifest = normalize_schema(table, storage.absolute(out_uri))
    names: list[str | None] = []
    kept: list[bool] = []
    outside: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    coarse: Counter[str] = Counter()
    given = manifest.column("diagnosis")
    for word, own in zip(given, given if words is None else words, strict=True):
        concept = find(word, label_set) if word is not None else None
        name = decided_class(concept.name, label_set) if concept is not None else None
        if concept is None and (required or word is not None):
            unknown[own or NO_DIAGNOSIS] += 1
        elif concept is not None and name is None:
            if possible_classes(concept.name, label_set):
                coarse[name := concept.name] += 1
            else:
                outside[own or concept.name] += 1
        names.append(name)
        kept.append(name is not None or (word is None and not required))
    found = manifest.with_column("diagnosis", names).where(kept)
    notes = []
    if coarse:
        named = ", ".join(f"{name} ({count})" for name, count in coarse.most_common())
        notes = [f"Too coarse to be one class of {label_set.name}; training learns them as one of several: {named}."]
    return ImportResult(found, len(manifest), dict(outside.most_common()), dict(unknown.most_common()), tuple(notes))


RIGHTS = ("attribution", "copyright_license")
"""Columns of the ISIC Archive that images are to be credited by."""
CONFLICTS = Option(
    "What happens to lesions whose images have diagnoses that exclude each other: refuse (default) or drop.", "RULE"
)


def with_images(
    images: pd.DataFrame, uri: str, label_set: LabelSet, out_uri: str, conflicts: str | None
) -> ImportResult:
    """Return a table of images as a manifest of one row per lesion; see :func:`with_diagnosis`.

    Args:
        images: see :func:`by_lesion`; ``word`` is the data set's own diagnosis.
        uri: of the table, for messages.
        label_set, out_uri: see :func:`with_diagnosis`.
        conflicts: value of the option :data:`CONFLICTS`.

    Raises:
        ConfigError: there is no such rule.
        ManifestError: see :func:`by_lesion`; with ``drop``, these lesions are left out and counted.
    """
    if conflicts not in (None, "refuse", "drop"):
        raise ConfigError("--conflicts: " + unknown_name("rule", conflicts, ("refuse", "drop")))
    lesions, problems = by_lesion(images)
    if problems and conflicts != "drop":
        raise ManifestError(uri, [*problems.values(), "choose --conflicts drop to leave these lesions out"])
    lesions = lesions[~lesions["lesion_id"].isin(problems)]
    words = [word if isinstance(word, str) else None for word in lesions.pop("word")]
    result = with_diagnosis(pa.Table.from_pandas(lesions, preserve_index=False), label_set, out_uri, words=words)
    dropped = f"{counted(len(problems), 'lesion')} with diagnoses that exclude each other dropped."
    return replace(result, notes=(*result.notes, *([dropped] if problems else [])))


def by_lesion(images: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return a table of images as one row per lesion, and lesions whose diagnoses exclude each other, with the problem.

    Args:
        images: ``lesion_id``, ``clinical_uri`` or ``dermoscopy_uri`` or both, ``diagnosis`` and any others. Of a
            lesion, the first value of each is taken, all different ones of :data:`RIGHTS`, and the diagnosis that
            covers least.
    """
    grouped = images.groupby("lesion_id", sort=True)
    lesions = grouped.first().reset_index()
    for column in set(URI_COLUMNS) & set(images.columns):
        lesions[column] = [image_cell(uris) for uris in grouped[column].agg(_texts)]
    for column in set(RIGHTS) & set(images.columns):
        lesions[column] = ["; ".join(dict.fromkeys(of)) or None for of in grouped[column].agg(_texts)]
    problems: dict[str, str] = {}
    several = grouped["diagnosis"].nunique()
    for lesion in several.index[several > 1]:
        words = grouped["diagnosis"].get_group(lesion).dropna().unique().tolist()
        narrowest = min(words, key=lambda word: (covered(word), word))
        if all(agree(narrowest, word) for word in words):
            lesions.loc[lesions["lesion_id"] == lesion, "diagnosis"] = narrowest
        else:
            problems[lesion] = f"lesion {lesion}: its images have different diagnoses ({', '.join(sorted(words))})"
    return lesions.assign(pair_id=lesions["lesion_id"]), problems


def _texts(column: pd.Series) -> list[str]:
    return [value for value in column if isinstance(value, str)]


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


def one_hot(frame: pd.DataFrame, key: str, uri: str) -> pd.Series:
    """Return the name of the column that is 1 in each row, the others being 0, by the values of the column ``key``.

    Raises:
        ManifestError: a row has not exactly one 1, or a key occurs twice; all are listed.
    """
    numbers = frame.drop(columns=key).apply(pd.to_numeric, errors="coerce")
    one = (numbers == 1).sum(axis=1).eq(1) & (numbers == 0).sum(axis=1).eq(numbers.shape[1] - 1)
    problems = [f"row {row + 1}: expected one class with 1 and all others with 0" for row in frame.index[~one]]
    problems += [f"row {row + 1}: its {key} occurs twice" for row in frame.index[frame[key].duplicated()]]
    if problems:
        raise ManifestError(uri, problems)
    names: pd.Series = numbers.set_index(frame[key]).idxmax(axis=1)
    return names
